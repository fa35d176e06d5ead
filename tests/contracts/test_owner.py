"""What owner and guardian may do, and nobody else; and that a withdrawal never touches what is owed."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from pytoniq_core.boc.cell import Cell

from chrysalis.chain import contract
from chrysalis.chain.signer import SeedSigner
from e2e.devnet import pool as pools
from e2e.devnet.pool import GUARDIAN, OWNER, STRANGER, TON, Pool, outcome
from e2e.devnet.reasons import DevnetError
from e2e.devnet.tvm import Tvm

pytestmark = pytest.mark.tvm
WALLET = bytes([0x22]) * 32
SEVEN_DAYS = 7 * 86400
KEY = secrets.token_bytes(32)


def ready(tvm: Tvm) -> Pool:
    """A pool with an active root that has fees, a pending root, and an announced withdrawal that is ripe."""
    p = Pool(tvm)
    p.commit({WALLET: 49 * TON}, fees=TON)
    p.activate()
    p.send(contract.request_surplus_body(TON), source=OWNER)
    p.pass_time(SEVEN_DAYS)
    p.commit({WALLET: 50 * TON}, fees=TON)
    return p


MESSAGES: list[tuple[str, Cell, frozenset[str]]] = [
    ("pause", contract.set_paused_body(True), frozenset({OWNER, GUARDIAN})),
    ("resume", contract.set_paused_body(False), frozenset({OWNER})),
    ("rotate", contract.rotate_body(KEY), frozenset({OWNER})),
    ("cancel", contract.cancel_body(), frozenset({OWNER, GUARDIAN})),
    ("withdraw fees", contract.withdraw_fees_body(TON), frozenset({OWNER})),
    ("request surplus", contract.request_surplus_body(TON), frozenset({OWNER})),
    ("withdraw surplus", contract.withdraw_surplus_body(), frozenset({OWNER})),
    ("top up", contract.top_up_body(), frozenset({OWNER, GUARDIAN, STRANGER})),
]


@pytest.mark.parametrize("sender", [OWNER, GUARDIAN, STRANGER], ids=["owner", "guardian", "stranger"])
@pytest.mark.parametrize(("name", "body", "allowed"), MESSAGES, ids=[row[0] for row in MESSAGES])
def test_who_may(tvm: Tvm, name: str, body: Cell, allowed: frozenset[str], sender: str) -> None:
    p = ready(tvm)
    before, balance = p.state, p.balance
    done = p.send(body, source=sender)
    if sender in allowed:
        assert (outcome(done), done[0].action_code) == (0, 0)
    else:
        assert outcome(done) == 110
        assert p.state == before
        assert abs(p.balance - balance) < TON // 1000  # storage


def test_without_a_guardian_only_the_owner(tvm: Tvm) -> None:
    p = Pool(tvm, policy=pools.policy(guardian=None))
    assert p.state.policy.guardian is None
    assert outcome(p.send(contract.set_paused_body(True), source=GUARDIAN)) == 110
    assert outcome(p.send(contract.set_paused_body(True), source=OWNER)) == 0


def test_rotation_is_immediate(tvm: Tvm) -> None:
    p = Pool(tvm)
    other = SeedSigner(secrets.token_bytes(32))
    p.send(contract.rotate_body(other.public_key), source=OWNER)
    commit = p.commit_of(p.content({WALLET: TON}))
    with pytest.raises(DevnetError) as refused:
        p.send_commit(commit)
    assert refused.value.exit_code == 101
    assert p.send_commit(commit, signer=other).exit_code == 0


def test_cancel_drops_the_pending_root_and_keeps_the_epoch(tvm: Tvm) -> None:
    p = Pool(tvm)
    p.commit({WALLET: 10 * TON})
    before = p.state
    assert outcome(p.send(contract.cancel_body(), source=GUARDIAN)) == 0
    after = p.state
    assert (after.pending, after.epoch, after.last_hash) == (None, 1, before.last_hash)
    p.activate()
    assert outcome(p.claim(WALLET, {WALLET: 10 * TON})) == 107
    assert p.commit({WALLET: 5 * TON}).exit_code == 0  # lower than the cancelled one, chained to it
    p.activate()
    assert outcome(p.claim(WALLET, {WALLET: 5 * TON})) == 0


def test_a_root_that_is_due_cannot_be_cancelled(tvm: Tvm) -> None:
    p = Pool(tvm)
    p.commit({WALLET: TON})
    p.pass_time(10_800)
    assert outcome(p.send(contract.cancel_body(), source=OWNER)) == 108
    assert outcome(p.claim(WALLET, {WALLET: TON})) == 0
    assert outcome(p.send(contract.cancel_body(), source=OWNER)) == 108  # nothing is pending


def fees_of(amount: int) -> Callable[[Pool], int | None]:
    return lambda p: outcome(p.send(contract.withdraw_fees_body(amount), source=OWNER))


@pytest.mark.parametrize(("amount", "code"), [(0, 108), (TON + 1, 108), (TON, 0), (1, 0)])
def test_fees_up_to_the_active_roots(tvm: Tvm, amount: int, code: int) -> None:
    p = ready(tvm)
    assert fees_of(amount)(p) == code
    assert p.ledger.balance(contract.account_id(OWNER)) >= (amount if code == 0 else 0)
    if code == 0 and amount == TON:
        assert p.state.fees_paid_nanoton == TON
        assert fees_of(1)(p) == 108


@pytest.mark.parametrize("short", [0, 1])
def test_fees_leave_what_is_owed(tvm: Tvm, short: int) -> None:
    p = ready(tvm)
    p.set_balance(50 * TON + contract.RESERVE_NANOTON + TON - short)
    assert fees_of(TON)(p) == (106 if short else 0)
    assert p.balance >= p.state.owed_nanoton + p.state.reserve_nanoton - short


@pytest.mark.parametrize(("seconds", "code"), [(SEVEN_DAYS - 1, 118), (SEVEN_DAYS, 0)])
def test_surplus_waits_seven_days(tvm: Tvm, seconds: int, code: int) -> None:
    p = Pool(tvm)
    p.send(contract.request_surplus_body(20 * TON), source=OWNER)
    p.pass_time(seconds)
    before = p.ledger.balance(contract.account_id(OWNER))
    assert outcome(p.send(contract.withdraw_surplus_body(), source=OWNER)) == code
    assert (p.ledger.balance(contract.account_id(OWNER)) - before >= 20 * TON) is (code == 0)
    if code == 0:
        assert outcome(p.send(contract.withdraw_surplus_body(), source=OWNER)) == 108


def test_the_surplus_is_checked_again_when_it_is_taken(tvm: Tvm) -> None:
    p = Pool(tvm)
    p.send(contract.request_surplus_body(60 * TON), source=OWNER)
    p.commit({WALLET: 50 * TON})
    p.pass_time(SEVEN_DAYS)
    assert outcome(p.send(contract.withdraw_surplus_body(), source=OWNER)) == 106
    p.send(contract.request_surplus_body(40 * TON), source=OWNER)
    p.pass_time(SEVEN_DAYS)
    assert outcome(p.send(contract.withdraw_surplus_body(), source=OWNER)) == 0
    assert outcome(p.claim(WALLET, {WALLET: 50 * TON})) == 0


def test_a_request_can_be_dropped(tvm: Tvm) -> None:
    p = Pool(tvm)
    p.send(contract.request_surplus_body(TON), source=OWNER)
    assert p.state.surplus_request == (TON, p.now)
    p.send(contract.request_surplus_body(0), source=OWNER)
    p.pass_time(SEVEN_DAYS)
    assert outcome(p.send(contract.withdraw_surplus_body(), source=OWNER)) == 108


def test_top_up_alone_feeds_the_surplus(tvm: Tvm) -> None:
    p = Pool(tvm)
    before = p.balance
    p.send(contract.top_up_body(), value=5 * TON)
    gained = p.balance - before
    assert 4.99 * TON < gained <= 5 * TON
    before = p.balance
    p.send(contract.set_paused_body(True), source=OWNER, value=5 * TON)
    assert abs(p.balance - before) < TON // 1000  # the rest went back to the sender
