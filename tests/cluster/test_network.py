"""Slots of the address plan: the first one that neither another instance nor the machine uses."""

from __future__ import annotations

import pytest

from e2e.cluster import network
from e2e.cluster.layout import SLOTS
from e2e.cluster.reasons import ClusterError, Reason


@pytest.mark.parametrize(
    ("routes", "taken", "slot"),
    [
        ([], set(), 0),
        (["default", "192.0.2.0/24"], set(), 0),
        ([], {0, 1}, 2),
        (["10.77.0.0/24"], set(), 1),
        (["10.78.9.0/24"], {0}, 2),
        (["10.96.0.0/20"], set(), 2),
    ],
)
def test_the_first_free_slot(routes: list[str], taken: set[int], slot: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_routes", lambda: [{"dst": route} for route in routes])
    assert network.free_slot(taken) == slot


@pytest.mark.parametrize(("routes", "taken"), [(["10.0.0.0/8"], set()), ([], set(range(SLOTS)))])
def test_no_free_slot(routes: list[str], taken: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_routes", lambda: [{"dst": route} for route in routes])
    with pytest.raises(ClusterError) as refused:
        network.free_slot(taken)
    assert refused.value.reason == Reason.NO_FREE_ADDRESSES
