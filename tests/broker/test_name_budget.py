"""No tenant's names, nor several tenants' together, keep a broker from following its anchor or others from storing theirs."""

from __future__ import annotations

import base64
import random
import string
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.broker import anchor_places, anchors, version_floors
from chrysalis.broker.anchors import Anchor, State
from chrysalis.broker.name_budget import NameBudget
from chrysalis.broker.version_floors import Kind
from chrysalis.wire.recalls import MAX_RECALLED

World = Any
Reasons = Callable[[Any], list[str]]
ROOM = 12
"""For each of two tenants 3, and 6 for whoever comes first."""


@pytest.fixture
def more_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(anchors, "FILE_NAMES", ROOM)
    (tmp_path / "elsewhere").mkdir()
    return {"anchor": {"file": str(tmp_path / "elsewhere" / "anchor.json")}}


def put(world: World, tenant: Any, number: int) -> Any:
    return world.put_policy(tenant, name=f"p{number}")


def test_one_tenant_cannot_take_anothers_room(empty: World, reasons: Reasons) -> None:
    for number in range(9):  # its share, and all that is for whoever comes first
        assert put(empty, empty.acme, number).status_code == 201
    refused = put(empty, empty.acme, 9)
    assert (refused.status_code, reasons(refused)) == (429, ["QuotaExceeded"])
    assert "9 names of the tenant, 3 are its share" in refused.text
    assert reasons(empty.put_key(empty.acme)) == ["QuotaExceeded"]
    for number in range(3):
        assert put(empty, empty.rival, number).status_code == 201  # the twin
    assert reasons(put(empty, empty.rival, 3)) == ["QuotaExceeded"]
    assert len(anchors.state_of(empty.deps.store.database).policies) == ROOM


def test_what_is_there_gets_new_versions_where_there_is_no_room(empty: World, reasons: Reasons) -> None:
    assert empty.put_key(empty.acme).status_code == 201
    for number in range(8):
        assert put(empty, empty.acme, number).status_code == 201
    assert reasons(put(empty, empty.acme, 8)) == ["QuotaExceeded"]
    assert empty.put_policy(empty.acme, name="p0", version=2).status_code == 201
    assert empty.put_key(empty.acme, version=2).status_code == 201


def test_names_that_only_the_anchor_knows_take_room(empty: World, reasons: Reasons) -> None:
    owner = empty.acme.public.hex()
    lost = {(Kind.POLICY, owner, f"lost{number}"): 2 for number in range(8)}
    empty.deps.store.database.transact(lambda db: version_floors.raise_to(db, lost | {(Kind.REFERENCE_VALUES, "ab" * 32, ""): 1}))
    assert put(empty, empty.acme, 0).status_code == 201
    assert reasons(put(empty, empty.acme, 1)) == ["QuotaExceeded"]


def test_names_of_nobodys_owner_take_no_ones_share(empty: World, reasons: Reasons) -> None:
    nobody = {(Kind.POLICY, "cd" * 32, f"old{number}"): 2 for number in range(6)}
    empty.deps.store.database.transact(lambda db: version_floors.raise_to(db, nobody))
    for tenant in (empty.acme, empty.rival):
        for number in range(3):
            assert put(empty, tenant, number).status_code == 201
        assert reasons(put(empty, tenant, 3)) == ["QuotaExceeded"]


@pytest.mark.parametrize("more_settings", [{}])
def test_without_an_anchor_names_take_no_room(empty: World) -> None:
    for number in range(ROOM + 1):
        assert put(empty, empty.acme, number).status_code == 201


@given(st.integers(1, 60), st.lists(st.integers(0, 5), max_size=200), st.integers(1, 5))
def test_nobody_is_ever_refused_within_its_share(most: int, takes: list[int], tenants: int) -> None:
    """Whatever the others, or owners that are no tenant's any more, take before; and the anchor is never over-full."""
    budget, names = NameBudget(most, tuple(frozenset({str(number)}) for number in range(tenants))), dict[str, int]()
    for take in takes:
        who = str(take % (tenants + 1))
        if budget.has_room(names, {who}):
            names[who] = names.get(who, 0) + 1
        else:
            assert names.get(who, 0) >= budget.share or int(who) == tenants
    assert sum(names.values()) <= most


class Memory:
    """A place that keeps what an object of the cluster would."""

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0

    def read(self) -> bytes | None:
        return None

    def update(self, change: Callable[[bytes | None], bytes | None]) -> None:
        raw = change(None) or b""
        self.size = len(zlib.compress(raw, 9)) if self.most < anchor_places.MAX_ANCHOR_BYTES else len(raw)


@pytest.mark.parametrize(
    ("names", "most"),
    [
        (anchor_places.CONFIG_MAP_NAMES, anchor_places.MAX_ENTRY_BYTES),
        (anchor_places.FILE_NAMES, anchor_places.MAX_ANCHOR_BYTES),
    ],
)
def test_the_worst_names_have_room(names: int, most: int) -> None:
    chance = random.Random(7)  # of one seed, so that the size is the same at each run
    letters = string.ascii_lowercase + string.digits

    def versions(number: int) -> dict[str, int]:
        return {
            f"{chance.randbytes(32).hex()}/{''.join(chance.choices(letters, k=63))}": chance.randrange(10**15, 1 << 53)
            for _ in range(number)
        }

    owners = [chance.randbytes(32).hex() for _ in range(256)]

    def of_owners(number: int) -> dict[str, int]:
        return {
            f"{chance.choice(owners)}/{''.join(chance.choices(letters, k=63))}": chance.randrange(10**15, 1 << 53) for _ in range(number)
        }

    state = State(
        audit_seq=1 << 52,
        audit_hash="ab" * 32,
        policies=of_owners(names // 2),
        keys=of_owners(names - names // 2),
        references={f"{name.partition('/')[0]}/": version for name, version in versions(16).items()},
        recalled=[base64.urlsafe_b64encode(chance.randbytes(32)).decode()[:43] for _ in range(MAX_RECALLED)],
    )
    place = Memory(most)
    Anchor(place, Ed25519PrivateKey.generate()).replace(state)
    assert 0 < place.size <= most
