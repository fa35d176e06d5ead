"""When claims of live results contradict each other (IdentityConflict), and when they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.attestation.identity import NAMES, LiveDomain, conflicts
from chrysalis.wire.broker import ClaimedIdentity

A, B = "aa" * 32, "bb" * 32


def domain(key: str = A, pod: str = "pod-1", **names: str) -> LiveDomain:
    return LiveDomain(key, pod, names)


CASES: list[tuple[str, list[LiveDomain], list[str]]] = [
    ("nothing lives", [], []),
    ("one domain", [domain()], []),
    ("a renewal", [domain(workerName="w"), domain(A.upper(), workerName="w")], []),
    ("two domains in two pods", [domain(), domain(B, "pod-2")], []),
    ("two domains claim one pod", [domain(), domain(B)], ["PodShared"]),
    ("nothing is claimed", [domain(A, ""), domain(B, "")], []),
    ("one domain claims two pods", [domain(), domain(A, "pod-2")], ["DomainMoved"]),
    ("one domain claims a pod and nothing", [domain(), domain(A, "")], []),
    ("two namespaces for one pod", [domain(namespace="a"), domain(namespace="b")], ["PodRenamed"]),
    ("two workers for one pod", [domain(workerName="a"), domain(workerName="b")], ["PodRenamed"]),
    ("two names for one pod", [domain(podName="a"), domain(podName="b")], ["PodRenamed"]),
    ("two nodes for one pod", [domain(nodeName="a"), domain(nodeName="b")], ["PodRenamed"]),
    ("a name and none", [domain(namespace="a"), domain(namespace="")], []),
    ("two pods of one worker", [domain(workerName="w"), domain(B, "pod-2", workerName="w")], []),
    (
        "everything at once",
        [domain(namespace="a"), domain(B, namespace="b"), domain(B, "pod-2")],
        ["PodShared", "DomainMoved", "PodRenamed"],
    ),
]


@pytest.mark.parametrize(("domains", "kinds"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_conflicts(domains: list[LiveDomain], kinds: list[str]) -> None:
    for order in (domains, domains[::-1]):
        found = conflicts(order)
        assert sorted(str(conflict.kind) for conflict in found) == sorted(kinds)
        assert all(conflict.message and conflict.about for conflict in found)


def test_nothing_measured_can_be_claimed() -> None:
    """The wire has no member in which a worker could say by itself what initdata says."""
    measured = {info.alias or name for name, info in MeasuredIdentity.model_fields.items()}
    claimed = {info.alias or name for name, info in ClaimedIdentity.model_fields.items()}
    assert measured & claimed == set()
    assert set(NAMES) | {"podUid"} == claimed


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(["", "p", "q"])), max_size=8))
def test_live_results_agree_or_conflict(pairs: list[tuple[str, str]]) -> None:
    found = conflicts(LiveDomain(key, pod) for key, pod in pairs)
    claimed = {pair for pair in pairs if pair[1]}
    one_to_one = len({key for key, _ in claimed}) == len(claimed) == len({pod for _, pod in claimed})
    assert (found == []) == one_to_one
