"""The table "what each party can take, at most" for OwnerFunded: each line tries to take more."""

from __future__ import annotations

import random

import pytest
from pytoniq_core.boc.builder import Builder

from chrysalis.chain import contract
from e2e.devnet import pool as pools
from e2e.devnet.pool import GUARDIAN, OWNER, STRANGER, TON, Pool, outcome
from e2e.devnet.reasons import DevnetError
from e2e.devnet.tvm import Tvm

pytestmark = pytest.mark.tvm
THIEF = bytes([0xEE]) * 32
HONEST = {bytes([0x22]) * 32: 4 * TON, bytes([0x23]) * 32: 6 * TON}


def test_a_thief_of_the_settlement_key_takes_at_most_the_unclaimed_and_an_epochs_cap(tvm: Tvm) -> None:
    p = Pool(tvm, policy=pools.policy(per_epoch_cap_nanoton=10 * TON))
    p.commit(HONEST)
    p.activate()
    claimer, sleeper = HONEST
    assert outcome(p.claim(claimer, HONEST)) == 0
    everything = {THIEF: 20 * TON}
    with pytest.raises(DevnetError) as over:
        p.send_commit(p.commit_of(p.content({THIEF: 20 * TON + 1})))
    assert over.value.exit_code == 105
    p.commit(everything)  # 10 TON more than the active root: the cap
    assert outcome(p.claim(THIEF, everything)) == 107  # not before the delay, in which others claim and the guardian cancels
    p.activate()
    done = p.claim(THIEF, everything)
    assert outcome(done) == 120  # 20 TON, of which 4 are paid
    p.commit({THIEF: 16 * TON, claimer: 4 * TON})
    p.activate()
    assert outcome(p.claim(THIEF, {THIEF: 16 * TON, claimer: 4 * TON})) == 0
    assert p.ledger.balance(THIEF) == 6 * TON + 10 * TON  # the sleeper's, and one epoch's cap
    assert p.ledger.balance(sleeper) == 0


def test_the_guardian_stops_that_thief(tvm: Tvm) -> None:
    p = Pool(tvm)
    p.commit(HONEST)
    p.activate()
    p.commit({THIEF: sum(HONEST.values())})
    p.send(contract.cancel_body(), source=GUARDIAN)
    p.send(contract.set_paused_body(True), source=GUARDIAN)
    with pytest.raises(DevnetError) as refused:
        p.commit({THIEF: sum(HONEST.values())})
    assert refused.value.exit_code == 109
    for wallet in HONEST:
        assert outcome(p.claim(wallet, HONEST)) == 0


def test_the_owner_takes_fees_and_surplus_only(tvm: Tvm) -> None:
    p = Pool(tvm, top_up=20 * TON)
    p.commit(HONEST, fees=TON // 10)
    p.activate()
    owner = contract.account_id(OWNER)
    for amount in (20 * TON, 10 * TON, TON):
        p.send(contract.withdraw_fees_body(amount), source=OWNER)
        p.send(contract.request_surplus_body(amount), source=OWNER)
        p.pass_time(7 * 86400)
        p.send(contract.withdraw_surplus_body(), source=OWNER)
    p.send(contract.withdraw_fees_body(TON // 10), source=OWNER)
    assert p.ledger.balance(owner) <= 20 * TON - sum(HONEST.values()) - contract.RESERVE_NANOTON + pools.MESSAGE_VALUE * 20
    for wallet, amount in HONEST.items():
        assert outcome(p.claim(wallet, HONEST)) == 0
        assert p.ledger.balance(wallet) == amount


def test_a_stranger_takes_nothing(tvm: Tvm) -> None:
    """Random bytes under every known tag, and messages of others said by a stranger: the state stays what it is."""
    p = Pool(tvm)
    p.commit(HONEST)
    p.activate()
    before, balance = p.state, p.balance
    draw = random.Random(7)
    tags = [value for name, value in vars(contract).items() if name.startswith("OP_") and value != contract.OP_TOP_UP]
    for tag in [*tags, 0, 1, 0xD53276DB, 0xFFFFFFFF]:
        for bits in (0, 64, 65, 96, 320, 321, 500):
            body = Builder().store_uint(tag, 32).store_uint(draw.getrandbits(bits), bits) if bits else Builder().store_uint(tag, 32)
            if draw.random() < 0.5:
                body.store_ref(Builder().store_uint(draw.getrandbits(64), 64).end_cell())
            assert outcome(p.send(body.end_cell(), source=STRANGER)) != 0
    assert p.state == before
    assert balance - p.balance < TON // 1000


def test_a_claim_for_another_pays_the_other(tvm: Tvm) -> None:
    p = Pool(tvm)
    p.commit(HONEST)
    p.activate()
    wallet = next(iter(HONEST))
    assert outcome(p.claim(wallet, HONEST, source="0:" + THIEF.hex())) == 0
    assert p.ledger.balance(wallet) == 4 * TON
    assert p.ledger.balance(THIEF) < pools.MESSAGE_VALUE
