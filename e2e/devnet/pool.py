"""A settlement contract on a bare ledger with everybody who deals with it: for the contract's tests and measurements.

No blocks and no liteservers; time stands still until it is moved.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytoniq_core.boc.address import Address
from pytoniq_core.boc.cell import Cell
from pytoniq_core.tlb.account import StateInit

from chrysalis.chain import contract
from chrysalis.chain.client import external_message
from chrysalis.chain.contract import Commit, CommitContent, Policy, State
from chrysalis.chain.signer import SeedSigner
from e2e.devnet.genesis import GLOBAL_ID, configuration
from e2e.devnet.ledger import Executed, Ledger, internal_message
from e2e.devnet.tvm import Tvm

TON = 1_000_000_000
START = 1_800_000_000
MESSAGE_VALUE = TON // 5
OWNER = "0:" + "aa" * 32
GUARDIAN = "0:" + "bb" * 32
STRANGER = "0:" + "cc" * 32


def policy(**changes: Any) -> Policy:
    """The policy of the tests: 2% fee, 3 h delay and interval, 1,000 TON an epoch."""
    usual = Policy(global_id=GLOBAL_ID, owner=OWNER, guardian=GUARDIAN, fee_bps=200, per_epoch_cap_nanoton=1000 * TON)
    return replace(usual, **changes)


@dataclass
class Pool:
    """One contract, deployed and topped up."""

    tvm: Tvm
    policy: Policy = field(default_factory=policy)
    top_up: int = 100 * TON
    now: int = START
    code: Cell = field(default_factory=lambda: contract.code())
    signer: SeedSigner = field(default_factory=lambda: SeedSigner(secrets.token_bytes(32)))

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.tvm, configuration(self.tvm.default_config()))
        init = StateInit(code=self.code, data=contract.initial_data(self.policy, self.signer.public_key))
        self.account = bytes(init.serialize().hash)
        self.address = "0:" + self.account.hex()
        deployment = internal_message(
            source=Address(OWNER), destination=Address(self.address), value=self.top_up, body=contract.top_up_body(), init=init
        )
        self.deployment = self.ledger.drain(deployment, self.now)

    @property
    def state(self) -> State:
        """The contract's storage."""
        init = self.ledger.state(self.account)
        assert init is not None
        return contract.parse_state(init.data)

    @property
    def balance(self) -> int:
        """The contract's nanoton."""
        return self.ledger.balance(self.account)

    def set_balance(self, nanoton: int) -> None:
        """Give the contract exactly this balance; it keeps its state."""
        init = self.ledger.state(self.account)
        assert init is not None
        self.ledger.place(self.account, init, nanoton, self.now)

    def content(self, leaves: Mapping[bytes, int], *, fees: int = 0, **changes: Any) -> CommitContent:
        """The content of the next epoch for these leaves."""
        state = self.state
        usual = CommitContent(
            epoch=state.epoch + 1,
            prev=state.last_hash,
            root=contract.earned_root(leaves),
            earned_nanoton=sum(leaves.values()),
            fees_nanoton=fees,
            log_root=bytes(32),
            log_size=len(leaves),
        )
        return replace(usual, **changes)

    def commit_of(self, content: CommitContent, **changes: Any) -> Commit:
        """A commit of that content, valid for five minutes."""
        usual = Commit(global_id=GLOBAL_ID, contract=self.account, valid_until=self.now + 300, content=content)
        return replace(usual, **changes)

    def send_commit(self, commit: Commit, *, signer: SeedSigner | None = None, to: str | None = None) -> Executed:
        """Send a commit; raises DevnetError with the exit code when the contract does not accept it."""
        return self.send_external(commit.signed_body((signer or self.signer).sign(commit.hash)), to=to)

    def send_external(self, body: Cell, *, to: str | None = None) -> Executed:
        """Send any external message."""
        return self.ledger.run(external_message(to or self.address, body), self.now)

    def commit(self, leaves: Mapping[bytes, int], *, fees: int = 0) -> Executed:
        """Commit leaves as the next epoch."""
        return self.send_commit(self.commit_of(self.content(leaves, fees=fees)))

    def send(self, body: Cell, *, source: str = STRANGER, value: int = MESSAGE_VALUE, bounce: bool = True) -> list[Executed]:
        """An internal message to the contract, and all that follows from it."""
        message = internal_message(source=Address(source), destination=Address(self.address), value=value, body=body, bounce=bounce)
        return self.ledger.drain(message, self.now)

    def claim(self, wallet: bytes, leaves: Mapping[bytes, int], *, value: int = MESSAGE_VALUE, source: str = STRANGER) -> list[Executed]:
        """Claim for a wallet with its proof in these leaves."""
        return self.send(contract.claim_body(wallet, contract.earned_cell(leaves)), source=source, value=value)

    def pass_time(self, seconds: int) -> None:
        """Let the chain's time go on."""
        self.now += seconds

    def activate(self) -> None:
        """Let the delay and the interval pass."""
        self.pass_time(max(self.policy.delay_seconds, self.policy.min_interval_seconds))


def outcome(executed: list[Executed]) -> int | None:
    """The exit code of the first transaction: the contract's own."""
    return executed[0].exit_code
