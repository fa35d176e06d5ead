"""Random sequences of everything that can be sent: what is paid is never more than was earned, and the contract stays solvent."""

from __future__ import annotations

import os
import random

import pytest
from pytoniq_core.tlb.transaction import MessageAny

from chrysalis.chain import contract
from e2e.devnet import pool as pools
from e2e.devnet.pool import GUARDIAN, OWNER, STRANGER, TON, Pool, outcome
from e2e.devnet.reasons import DevnetError
from e2e.devnet.tvm import Tvm

pytestmark = pytest.mark.tvm
STEPS = 120
WALLETS = [bytes([number]) * 32 for number in range(1, 9)]


class Model:
    """What the contract should hold, told in Python, beside the contract that runs."""

    def __init__(self, tvm: Tvm, draw: random.Random) -> None:
        policy = pools.policy(per_epoch_cap_nanoton=8 * TON, delay_seconds=100, min_interval_seconds=100)
        self.pool = Pool(tvm, top_up=40 * TON, policy=policy)
        self.draw = draw
        self.committed: list[dict[bytes, int]] = []  # every dictionary that was ever accepted
        self.received = dict.fromkeys(WALLETS, 0)

    def commit(self) -> None:
        """The next epoch: mostly honest, now and then with totals that lie."""
        leaves = dict(self.committed[-1]) if self.committed else {}
        for wallet in self.draw.sample(WALLETS, 3):
            leaves[wallet] = leaves.get(wallet, 0) + self.draw.randrange(1, 3 * TON)
        earned = sum(leaves.values()) + self.draw.choice([0, 0, 0, -TON, TON])
        try:
            self.pool.send_commit(self.pool.commit_of(self.pool.content(leaves, earned_nanoton=max(0, earned), fees=earned // 60)))
        except DevnetError as error:
            if error.exit_code not in {105, 106, 109, 111, 112, 116}:
                raise
        else:
            self.committed.append(leaves)

    def claim(self) -> None:
        """Against any dictionary that there ever was."""
        leaves = self.draw.choice(self.committed or [{WALLETS[0]: TON}])
        wallet = self.draw.choice(list(leaves))
        done = self.pool.claim(wallet, leaves)
        code = outcome(done)
        if code == 0:
            payout = MessageAny.deserialize(done[0].sent[0].begin_parse())
            assert payout.info.dest.hash_part == wallet
            self.received[wallet] += payout.info.value_coins
        else:
            assert code in {107, 108, 120}

    def administer(self) -> None:
        """Anything that owner, guardian or a stranger may try."""
        amount = self.draw.randrange(0, 20 * TON)
        bodies = [
            contract.set_paused_body(True),
            contract.set_paused_body(False),
            contract.set_paused_body(False),
            contract.cancel_body(),
            contract.withdraw_fees_body(amount // 50),
            contract.request_surplus_body(amount),
            contract.withdraw_surplus_body(),
            contract.top_up_body(),
        ]
        code = outcome(self.pool.send(self.draw.choice(bodies), source=self.draw.choice([OWNER, OWNER, GUARDIAN, STRANGER])))
        assert code in {0, 106, 108, 110, 118}

    def check(self) -> None:
        """The invariants."""
        state = self.pool.state
        assert state.paid_nanoton == sum(self.received.values()) == sum(contract.earned_leaves(state.claims).values())
        assert state.paid_nanoton <= state.active.earned_nanoton
        assert state.fees_paid_nanoton <= state.active.fees_nanoton
        assert self.pool.balance >= state.owed_nanoton + contract.RESERVE_NANOTON // 2  # the reserve pays storage and commits
        for wallet, amount in self.received.items():
            assert amount == state.claimed_nanoton(wallet)
            assert 0 <= amount - self.pool.ledger.balance(wallet) < TON // 1000  # a wallet pays for its own storage


@pytest.mark.parametrize("number", range(4))
def test_conservation(tvm: Tvm, number: int) -> None:
    seed = int(os.environ.get("SEED") or 20_261_122) + number
    print(f"SEED={seed}")
    model = Model(tvm, random.Random(seed))
    for _ in range(STEPS):
        step = model.draw.choices([model.commit, model.claim, model.administer], [3, 4, 2])[0]
        step()
        model.check()
        model.pool.pass_time(model.draw.choice([0, 40, 101, 101, 8 * 86400]))
    assert model.committed
    assert sum(model.received.values()) > 0
