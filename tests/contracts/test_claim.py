"""Claims: exactly what is owed, to the wallet, by anyone, never stopped; and every way to get more fails."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.tlb.account import StateInit
from pytoniq_core.tlb.transaction import MessageAny

from chrysalis.chain import contract, dictionary
from chrysalis.chain.contract import CLAIM_VALUE_NANOTON
from e2e.devnet import pool as pools
from e2e.devnet.pool import OWNER, STRANGER, TON, Pool, outcome
from e2e.devnet.reasons import DevnetError, DevnetReason
from e2e.devnet.tvm import Tvm

pytestmark = pytest.mark.tvm
WALLET = bytes([0x22]) * 32
OTHER = bytes([0x23]) * 32
LEAVES = {WALLET: 3 * TON + 7, OTHER: TON}


def active(tvm: Tvm, leaves: dict[bytes, int] | None = None) -> Pool:
    p = Pool(tvm)
    p.commit(leaves or LEAVES)
    p.activate()
    return p


def test_a_claim_pays_exactly_what_is_owed(tvm: Tvm) -> None:
    p = active(tvm)
    p.ledger.place(p.account, p.ledger.state(p.account), 100 * TON, p.now)
    done = p.claim(WALLET, LEAVES)
    assert (done[0].exit_code, done[0].action_code) == (0, 0)
    assert p.ledger.balance(WALLET) == 3 * TON + 7
    assert p.balance == 100 * TON - (3 * TON + 7)  # fees came from the message
    payout, rest = (MessageAny.deserialize(message.begin_parse()) for message in done[0].sent)
    assert (payout.info.bounce, payout.info.value_coins) == (False, 3 * TON + 7)
    assert rest.info.dest.hash_part == contract.account_id(STRANGER)
    assert 0.9 * pools.MESSAGE_VALUE < rest.info.value_coins < pools.MESSAGE_VALUE
    assert p.state.claimed_nanoton(WALLET) == p.state.paid_nanoton == 3 * TON + 7
    assert p.state.entries == 1


def test_cumulative_amounts_pay_the_difference_once(tvm: Tvm) -> None:
    p = active(tvm)
    p.claim(WALLET, LEAVES)
    assert outcome(p.claim(WALLET, LEAVES)) == 108
    more = LEAVES | {WALLET: 4 * TON}
    p.commit(more)
    p.activate()
    assert outcome(p.claim(WALLET, more)) == 0
    assert 4 * TON - p.ledger.balance(WALLET) < 1000  # the wallet's own storage
    assert (p.state.entries, p.state.paid_nanoton) == (1, 4 * TON)


def test_a_claim_promotes_when_due(tvm: Tvm) -> None:
    p = Pool(tvm)
    p.commit(LEAVES)
    p.pass_time(10_799)
    assert outcome(p.claim(WALLET, LEAVES)) == 107
    p.pass_time(1)
    assert outcome(p.claim(WALLET, LEAVES)) == 0
    assert p.state.pending is None


def test_a_proof_in_flight_survives_one_activation_and_not_two(tvm: Tvm) -> None:
    p = active(tvm)
    second = LEAVES | {OTHER: 2 * TON}
    p.commit(second)
    p.activate()
    third = LEAVES | {OTHER: 3 * TON}
    p.commit(third)  # now `second` is active and LEAVES the previous one
    assert outcome(p.claim(WALLET, LEAVES)) == 0
    p.activate()
    assert outcome(p.claim(OTHER, LEAVES)) == 107
    assert outcome(p.claim(OTHER, second)) == 0
    assert outcome(p.claim(OTHER, third)) == 0
    assert p.ledger.balance(OTHER) == 3 * TON


def test_claims_are_never_paused(tvm: Tvm) -> None:
    p = active(tvm)
    assert outcome(p.send(contract.set_paused_body(True), source=OWNER)) == 0
    assert p.state.paused
    assert outcome(p.claim(WALLET, LEAVES)) == 0


def claim_with(proof: Cell, wallet: bytes = WALLET) -> Cell:
    return Builder().store_uint(contract.OP_CLAIM, 32).store_uint(0, 64).store_bytes(wallet).store_ref(proof).end_cell()


EARNED = contract.earned_cell(LEAVES)
RICHER = contract.earned_cell(LEAVES | {WALLET: 50 * TON})
ABSENT = bytes([0x55]) * 32
BAD_PROOFS: list[tuple[str, Callable[[], Cell], bytes]] = [
    ("of another dictionary", lambda: dictionary.prove(RICHER, WALLET), WALLET),
    ("the dictionary itself, not a proof", lambda: EARNED, WALLET),
    ("all pruned", lambda: dictionary.merkle_proof(dictionary.pruned(EARNED)), WALLET),
    ("an ordinary cell that looks like one", lambda: Builder().store_uint(3, 8).store_bytes(EARNED.hash).store_uint(0, 16)
        .store_ref(RICHER).end_cell(), WALLET),
    ("for a wallet whose branch is pruned", lambda: dictionary.prove(EARNED, WALLET), OTHER),
    ("for a wallet that is not there", lambda: dictionary.merkle_proof(dictionary.partial(EARNED, ABSENT)), ABSENT),
]  # fmt: skip


@pytest.mark.parametrize(("name", "proof", "wallet"), BAD_PROOFS, ids=[row[0] for row in BAD_PROOFS])
def test_a_bad_proof_moves_nothing(tvm: Tvm, name: str, proof: Callable[[], Cell], wallet: bytes) -> None:
    p = active(tvm)
    before = p.state
    done = p.send(claim_with(proof(), wallet))
    assert outcome(done) in {107, 9}  # 9: the TVM itself does not load a pruned cell
    assert (p.state, p.ledger.balance(wallet)) == (before, 0)
    assert outcome(p.send(claim_with(dictionary.prove(EARNED, WALLET)))) == 0  # the twin


FORGED = b"\x03" + EARNED.hash + RICHER.get_depth(0).to_bytes(2, "big")
NO_MESSAGES = [
    ("the right root over other contents", lambda: dictionary.exotic(FORGED, [RICHER], dictionary.MERKLE_PROOF)),
    ("a bare pruned branch", lambda: dictionary.pruned(EARNED)),
]


@pytest.mark.parametrize(("name", "proof"), NO_MESSAGES, ids=[row[0] for row in NO_MESSAGES])
def test_a_forged_proof_cannot_even_be_delivered(tvm: Tvm, name: str, proof: Callable[[], Cell]) -> None:
    """Hashes and levels of special cells are checked when a message is loaded."""
    p = active(tvm)
    before = p.state
    with pytest.raises(DevnetError) as refused:
        p.send(claim_with(proof()))
    assert refused.value.reason == DevnetReason.MESSAGE_NOT_ACCEPTED
    assert p.state == before


@pytest.mark.parametrize(("value", "code"), [(CLAIM_VALUE_NANOTON - 1, 113), (CLAIM_VALUE_NANOTON, 0)])
def test_a_claim_carries_its_fees(tvm: Tvm, value: int, code: int) -> None:
    assert outcome(active(tvm).claim(WALLET, LEAVES, value=value)) == code


@pytest.mark.parametrize(("entries", "code"), [(15_000, 117), (14_999, 0)])
def test_the_table_of_claims_is_bounded(tvm: Tvm, entries: int, code: int) -> None:
    """And a wallet that is in it already is still paid."""
    p = active(tvm)
    data = p.ledger.state(p.account).data.begin_parse()
    head = data.load_bits(1 + 64 + 256 + 256 + 32)
    data.load_uint(32)
    full = Builder().store_bits(head).store_uint(entries, 32).store_bits(data.load_bits(data.remaining_bits))
    while data.remaining_refs:
        full.store_ref(data.load_ref())
    p.ledger.place(p.account, StateInit(code=p.code, data=full.end_cell()), 1000 * TON, p.now)
    assert outcome(p.claim(WALLET, LEAVES)) == code


def test_no_more_is_paid_than_was_earned(tvm: Tvm) -> None:
    """A root whose leaves sum to more than it says (a stolen settlement key): the last claim is refused."""
    p = Pool(tvm)
    p.send_commit(p.commit_of(p.content(LEAVES, earned_nanoton=sum(LEAVES.values()) - 1)))
    p.activate()
    assert outcome(p.claim(WALLET, LEAVES)) == 0
    assert outcome(p.claim(OTHER, LEAVES)) == 120
    assert p.state.paid_nanoton <= p.state.active.earned_nanoton
    honest = active(tvm)
    assert outcome(honest.claim(WALLET, LEAVES)) == outcome(honest.claim(OTHER, LEAVES)) == 0


def test_a_leaf_of_2_to_the_63(tvm: Tvm) -> None:
    p = Pool(tvm, policy=pools.policy())
    leaves = {WALLET: (1 << 63) - 1}
    tree = dictionary.build({WALLET: 1 << 63}, lambda builder, value: builder.store_coins(value))
    p.send_commit(p.commit_of(p.content(leaves, root=contract.root_hash(tree), earned_nanoton=TON)))
    p.activate()
    assert outcome(p.send(contract.claim_body(WALLET, tree))) == 114
    p.commit({WALLET: TON})
    p.activate()
    assert outcome(p.claim(WALLET, {WALLET: TON})) == 0


@pytest.mark.parametrize(("leaves", "gas"), [(1, 10_579), (100, 12_500), (2_000, 13_500)])
def test_gas_of_a_claim(tvm: Tvm, leaves: int, gas: int) -> None:
    """Exact for one leaf; grows with the depth of the proof, by at most 100 for each level."""
    earned = {secrets.token_bytes(32): TON // 1000 for _ in range(leaves)}
    p = active(tvm, earned)
    done = p.claim(next(iter(earned)), earned)
    assert done[0].exit_code == 0
    assert done[0].gas_used == gas if leaves == 1 else done[0].gas_used <= gas


def test_a_bounced_message_changes_nothing(tvm: Tvm) -> None:
    p = active(tvm)
    before = p.state
    body = claim_with(dictionary.prove(EARNED, WALLET))
    info = Builder().store_bits("0101").store_address(STRANGER).store_address(p.address).store_coins(TON).store_bit_int(0).store_coins(0)
    message = info.store_coins(0).store_uint(0, 64).store_uint(0, 32).store_bit_int(0).store_bit_int(1).store_ref(body).end_cell()
    p.ledger.drain(message, p.now)
    assert p.state == before
