"""The cells of the contract: golden bytes, round trips, and what is not read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell

from chrysalis.amounts import LIMIT, AmountError
from chrysalis.chain import contract
from chrysalis.chain.contract import Commit, CommitContent
from chrysalis.chain.reasons import ChainError, ChainReason
from e2e.devnet import vectors

GOLDEN = json.loads(vectors.FILE.read_text())
KEYS = st.binary(min_size=32, max_size=32)
AMOUNTS = st.integers(1, LIMIT - 1)


def boc(name: str) -> bytes:
    return bytes.fromhex(GOLDEN["cells"][name])


def test_golden_bytes_are_what_we_write() -> None:
    assert vectors.encoded() == GOLDEN["cells"]


def test_golden_bytes_are_read() -> None:
    leaves = {bytes.fromhex(key): int(value) for key, value in GOLDEN["leaves"].items()}
    earned = contract.read_earned(boc("earned"))
    assert contract.earned_leaves(earned) == leaves
    assert contract.root_hash(earned).hex() == GOLDEN["cells"]["earnedRoot"]
    content = CommitContent.from_boc(boc("content"))
    assert content.hash.hex() == GOLDEN["cells"]["contentHash"]
    signature, commit = Commit.from_signed_body(contract.read_boc(boc("commitBody"), "commit"))
    assert (commit.content, commit.hash.hex()) == (content, GOLDEN["cells"]["commitHash"])
    assert commit.signed_body(signature).to_boc() == boc("commitBody")


def test_golden_states_are_read() -> None:
    first = contract.parse_state(contract.read_boc(boc("initialData"), "state"))
    assert (first.epoch, first.policy, first.signer_key) == (0, vectors.POLICY, vectors.SIGNER.public_key)
    committed = contract.parse_state(contract.read_boc(bytes.fromhex(GOLDEN["states"]["afterCommit"]), "state"))
    assert committed.pending is not None
    assert (committed.epoch, committed.pending.at, committed.last_hash.hex()) == (1, GOLDEN["committedAt"], GOLDEN["cells"]["contentHash"])
    assert committed.owed_nanoton == sum(vectors.LEAVES.values())
    claimed = contract.parse_state(contract.read_boc(bytes.fromhex(GOLDEN["states"]["afterClaim"]), "state"))
    assert claimed.claimed_nanoton(vectors.CLAIMANT) == claimed.paid_nanoton == 1_500_000_000
    assert claimed.claimed_nanoton(bytes(32)) == 0
    assert (claimed.pending, claimed.entries) == (None, 1)


def test_a_pending_root_counts_as_active_when_due() -> None:
    state = contract.parse_state(contract.read_boc(bytes.fromhex(GOLDEN["states"]["afterCommit"]), "state"))
    assert state.pending is not None
    at = GOLDEN["committedAt"] + vectors.POLICY.delay_seconds
    assert state.claimable_roots(at - 1) == (contract.ZERO_HASH, contract.ZERO_HASH)
    assert state.claimable_roots(at) == (state.pending.root, contract.ZERO_HASH)


def test_a_new_expiry_keeps_last_hash_and_changes_what_is_signed() -> None:
    one = vectors.commit()
    other = replace(one, valid_until=one.valid_until + 1)
    assert other.content.hash == one.content.hash
    assert other.hash != one.hash


@settings(max_examples=50)
@given(st.dictionaries(KEYS, AMOUNTS, max_size=40), KEYS)
def test_the_earned_dictionary_round_trips(leaves: dict[bytes, int], other: bytes) -> None:
    cell = contract.earned_cell(leaves)
    again = contract.read_earned(contract.earned_boc(cell))
    assert contract.earned_leaves(again) == leaves
    assert contract.earned_root(leaves) == contract.root_hash(again)
    assert all(contract.earned_of(again, key) == value for key, value in leaves.items())
    assert contract.earned_of(again, other) == leaves.get(other, 0)


@pytest.mark.parametrize("value", [0, -1, LIMIT])
def test_leaves_that_are_no_amounts(value: int) -> None:
    with pytest.raises(AmountError):
        contract.earned_cell({bytes(32): value})
    assert contract.earned_cell({bytes(32): 1}) is not None


GOOD = CommitContent.from_boc(boc("content")).cell()
LOG = GOOD.refs[0]
LONG_LOG = Builder().store_cell(LOG).store_uint(0, 1).end_cell()
FIXED_BITS = 32 + 64 + 512  # tag, epoch, prev, root
BAD_CONTENT = [
    ("another tag", Builder().store_uint(1, 32).store_bits(GOOD.bits[32:]).store_ref(LOG).end_cell()),
    ("no log", Builder().store_bits(GOOD.bits).end_cell()),
    ("something after it", Builder().store_cell(GOOD).store_uint(1, 1).end_cell()),
    ("something after the log", Builder().store_bits(GOOD.bits).store_ref(LONG_LOG).end_cell()),
    ("an empty cell", Cell.empty()),
    ("an amount of 2^63", Builder().store_bits(GOOD.bits[:FIXED_BITS]).store_coins(LIMIT).store_coins(0).store_ref(LOG).end_cell()),
]


@pytest.mark.parametrize(("name", "cell"), BAD_CONTENT, ids=[row[0] for row in BAD_CONTENT])
def test_content_that_is_not_read(name: str, cell: Cell) -> None:
    with pytest.raises(ChainError) as refused:
        CommitContent.from_cell(cell)
    assert refused.value.reason == ChainReason.CELL_MALFORMED
    assert CommitContent.from_cell(GOOD).epoch == 1


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_foreign_bytes_never_trip_the_readers(data: bytes) -> None:
    for read in (contract.read_earned, CommitContent.from_boc, lambda b: contract.parse_state(contract.read_boc(b, "x"))):
        with pytest.raises(ChainError):
            read(data)


@settings(max_examples=150)
@given(st.integers(0, len(boc("earned")) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_another_root_or_changes_nothing(at: int, flip: int) -> None:
    data = bytearray(boc("earned"))
    data[at] ^= flip
    try:
        cell = contract.read_earned(bytes(data))
        leaves = contract.earned_leaves(cell)
    except ChainError:
        return
    assert leaves == vectors.LEAVES or contract.root_hash(cell).hex() != GOLDEN["cells"]["earnedRoot"]


def test_too_many_bytes_are_not_read() -> None:
    with pytest.raises(ChainError):
        contract.read_boc(bytes(contract.MAX_BOC_BYTES + 1), "x")


@pytest.mark.parametrize("address", ["", "0:", "0:" + "1" * 63, "-1:" + "11" * 32, "0:" + "g" * 64, "11" * 32])
def test_addresses_that_are_not_raw(address: str) -> None:
    with pytest.raises(ChainError) as refused:
        contract.account_id(address)
    assert refused.value.reason == ChainReason.ADDRESS_INVALID
    assert contract.account_id("0:" + "11" * 32) == b"\x11" * 32


def test_the_address_binds_policy_and_key() -> None:
    own = contract.contract_address(vectors.POLICY, vectors.SIGNER.public_key)
    assert own != contract.contract_address(replace(vectors.POLICY, fee_bps=201), vectors.SIGNER.public_key)
    assert own != contract.contract_address(vectors.POLICY, bytes(32))
    assert own == contract.contract_address(vectors.POLICY, vectors.SIGNER.public_key)


def test_exit_codes_explain_themselves() -> None:
    assert "signer key" in contract.explain(101)
    assert contract.explain(77) == "exit code 77"
    assert contract.explain(None)
