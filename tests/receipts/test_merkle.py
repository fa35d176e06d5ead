"""RFC 9162 trees: the recursive definition, proofs for every index, and proofs that lie."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.receipts import merkle
from chrysalis.receipts.reasons import ReceiptError

entries = st.lists(st.binary(min_size=0, max_size=40), max_size=40)


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + by_definition(leaves[:split]) + by_definition(leaves[split:])).digest()


def test_known_roots_of_rfc_6962_implementations() -> None:
    leaves = [
        bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
    ]
    assert merkle.root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(entries)
def test_the_root_is_the_definition(leaves: list[bytes]) -> None:
    assert merkle.root(leaves) == by_definition(leaves)


@given(entries.filter(bool), st.data())
def test_every_entry_is_proved_and_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path, root = merkle.inclusion_proof(leaves, index), merkle.root(leaves)
    merkle.verify_inclusion(leaves[index], index, len(leaves), path, root)
    for entry, at, size, proof in (
        (leaves[index] + b"x", index, len(leaves), path),
        (leaves[index], index, len(leaves), [*path, root]),
        (leaves[index], len(leaves), len(leaves), path),
        (leaves[index], -1, len(leaves), path),
    ):
        with pytest.raises(ReceiptError):
            merkle.verify_inclusion(entry, at, size, proof, root)
    if path:
        with pytest.raises(ReceiptError):
            merkle.verify_inclusion(leaves[index], index, len(leaves), path[:-1], root)


def test_no_proof_outside_of_the_tree() -> None:
    with pytest.raises(IndexError):
        merkle.inclusion_proof([b"a"], 1)
