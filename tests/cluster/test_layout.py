"""Names and addresses of instances: never two alike, never longer than the kernel takes."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from e2e.cluster import layout
from e2e.cluster.layout import SLOTS, Layout
from e2e.cluster.reasons import ClusterError, Reason


def networks(made: Layout) -> list[IPv4Network]:
    return [made.network, made.services, made.all_pods]


def test_no_two_slots_share_an_address() -> None:
    plans = [networks(Layout("demo", slot, Path("/state"))) for slot in range(SLOTS)]
    flat = [network for plan in plans for network in plan]
    assert not any(one.overlaps(other) for index, one in enumerate(flat) for other in flat[index + 1 :])


@pytest.mark.parametrize("slot", [0, 1, SLOTS - 1])
def test_the_parts_of_a_slot_lie_where_they_belong(slot: int) -> None:
    made = Layout("demo", slot, Path("/state"))
    assert all(node.pods.subnet_of(made.all_pods) for node in made.nodes)
    assert len({node.pods for node in made.nodes}) == len(made.nodes)
    assert all(node.address in made.network for node in made.nodes)
    assert made.host_address not in [node.address for node in made.nodes]
    assert made.dns_address in made.services


def test_interface_names_fit_the_kernel() -> None:
    made = Layout("eightchr", 0, Path("/state"))
    assert all(len(name) <= 15 for name in (made.bridge, *(node.veth for node in made.nodes)))


def test_instances_share_no_name() -> None:
    one, other = (Layout(name, slot, Path("/state") / name) for slot, name in enumerate(("demo", "test")))
    assert {one.bridge, one.cgroup, *(node.namespace for node in one.nodes), *(node.veth for node in one.nodes)}.isdisjoint(
        {other.bridge, other.cgroup, *(node.namespace for node in other.nodes), *(node.veth for node in other.nodes)}
    )


def test_a_state_folder_too_deep_for_sockets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE", str(tmp_path / ("x" * 60)))
    with pytest.raises(ClusterError) as refused:
        layout.instance_folder("demo")
    assert refused.value.reason == Reason.STATE_PATH_TOO_LONG
    monkeypatch.setattr(layout, "_LONGEST_FOLDER", 4096)
    assert layout.instance_folder("demo").name == "demo"


@pytest.mark.parametrize("name", ["", "UPPER", "1digit", "much-too-long", "dash-ed", "ninechars", "../up", "a b"])
def test_a_name_that_cannot_work_is_refused(name: str) -> None:
    with pytest.raises(ClusterError) as refused:
        layout.instance_folder(name)
    assert refused.value.reason == Reason.INSTANCE_NAME_INVALID


@pytest.mark.parametrize("name", ["a", "demo", "t1", "eightchr"])
def test_a_good_name_is_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_LONGEST_FOLDER", 4096)
    monkeypatch.setenv("CACHE", str(tmp_path))
    assert layout.instance_folder(name) == tmp_path / "run" / name
