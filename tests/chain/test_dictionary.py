"""Dictionaries: the same cells as pytoniq-core's, proofs of presence and of absence, and bounds on foreign ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.hashmap import HashMap

from chrysalis.chain import dictionary
from chrysalis.chain.reasons import ChainError, ChainReason

KEYS = st.one_of(st.binary(min_size=32, max_size=32), st.integers(0, 20).map(lambda n: n.to_bytes(32, "big")))
ENTRIES = st.dictionaries(KEYS, st.integers(0, 1 << 62), min_size=1, max_size=30)


def build(entries: dict[bytes, int]) -> Cell:
    cell = dictionary.build(entries, lambda builder, value: builder.store_coins(value))
    assert cell is not None
    return cell


@settings(max_examples=80)
@given(ENTRIES)
def test_the_cells_are_pytoniqs(entries: dict[bytes, int]) -> None:
    theirs = HashMap(256, value_serializer=lambda value, builder: builder.store_coins(value))
    theirs.map = {int.from_bytes(key, "big"): value for key, value in entries.items()}
    assert build(entries).hash == theirs.serialize().hash


@settings(max_examples=80)
@given(ENTRIES, KEYS)
def test_proofs_of_presence_and_absence(entries: dict[bytes, int], other: bytes) -> None:
    root = build(entries)
    for key, value in entries.items():
        proof = dictionary.prove(root, key)
        assert proof.refs[0].get_hash(0) == root.hash
        sent = Cell.one_from_boc(proof.to_boc())
        found = dictionary.find(sent.refs[0], key)
        assert found is not None
        assert found.load_coins() == value
    partial = dictionary.partial(root, other)
    assert partial.get_hash(0) == root.hash
    assert (dictionary.find(partial, other) is None) is (other not in entries)


@given(ENTRIES)
def test_items_are_all_in_order(entries: dict[bytes, int]) -> None:
    found = [(key, value.load_coins()) for key, value in dictionary.items(build(entries))]
    assert found == sorted(entries.items())


def test_a_pruned_way_is_not_absence() -> None:
    entries = {bytes([number]) * 32: number for number in (1, 0x80, 0xFF)}
    proof = dictionary.prove(build(entries), bytes([1]) * 32).refs[0]
    with pytest.raises(ChainError) as refused:
        dictionary.find(proof, bytes([0xFF]) * 32)
    assert refused.value.reason == ChainReason.DICTIONARY_MALFORMED
    assert dictionary.find(proof, bytes([1]) * 32) is not None


def test_no_proof_for_what_is_not_there() -> None:
    with pytest.raises(ChainError) as refused:
        dictionary.prove(build({bytes(32): 1}), b"\x01" * 32)
    assert refused.value.reason == ChainReason.WALLET_NOT_IN_ROOT
    with pytest.raises(ChainError):
        dictionary.prove(None, bytes(32))
    assert dictionary.find(None, bytes(32)) is None
    assert list(dictionary.items(None)) == []


def bomb() -> Cell:
    """A tree of 2^200 leaves in 201 cells."""
    cell = Builder().store_bits("10").store_uint(56, 6).store_uint(0, 56).store_coins(1).end_cell()
    for _ in range(200):
        cell = Builder().store_bits("00").store_ref(cell).store_ref(cell).end_cell()
    return cell


MALFORMED = [
    ("an empty cell", Cell.empty()),
    ("a label that is too long", Builder().store_bits("10").store_uint(300, 9).store_uint(0, 300).end_cell()),
    ("a label that ends early", Builder().store_bits("10").store_uint(200, 9).end_cell()),
    ("a fork with one branch", Builder().store_bits("00").store_ref(Cell.empty()).end_cell()),
    ("a pruned root", dictionary.pruned(Cell.empty())),
    ("more entries than allowed", bomb()),
]


@pytest.mark.parametrize(("name", "cell"), MALFORMED, ids=[row[0] for row in MALFORMED])
def test_foreign_dictionaries_are_bounded(name: str, cell: Cell) -> None:
    with pytest.raises(ChainError) as refused:
        list(dictionary.items(cell, limit=100))
    assert refused.value.reason == ChainReason.DICTIONARY_MALFORMED


def test_the_limit_itself_is_taken() -> None:
    root = build({number.to_bytes(32, "big"): number for number in range(10)})
    assert len(list(dictionary.items(root, limit=10))) == 10
    with pytest.raises(ChainError):
        list(dictionary.items(root, limit=9))
