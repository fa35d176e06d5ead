"""Carries epochs to the chain: one turn reads proven state, decides (recovery.decide) and takes that one step.

It has no memory of its own: after a kill at any point the next turn goes on from proven state and ledger.  `checkpoint` is
called with a name before each step that leaves a trace; tests kill there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chrysalis.chain import contract, settlement
from chrysalis.chain.client import ChainClient
from chrysalis.chain.proof import Account
from chrysalis.chain.reasons import ChainError, ChainReason
from chrysalis.chain.signer import Signer
from chrysalis.clock import Clock, unix
from chrysalis.settlement.epoch_store import EpochStore
from chrysalis.settlement.publisher import Publisher
from chrysalis.settlement.reasons import SettlementError, SettlementReason
from chrysalis.settlement.recovery import Action, ChainView, Decision, decide

LOG = logging.getLogger("chrysalis.settlement.committer")
MAX_STEPS = 4
"""Freeze, sign and send may follow each other in one turn."""


@dataclass(frozen=True)
class Outcome:
    """Where a turn ended, and the proven state that it began with."""

    decision: Decision
    state: contract.State
    account: Account
    detail: str = ""


class Committer:
    """One contract's epochs.  `may_send` says whether this process still holds the Lease; asked before each send."""

    def __init__(
        self,
        *,
        chain: ChainClient,
        address: str,
        fee_bps: int,
        global_id: int,
        epochs: EpochStore,
        publisher: Publisher,
        signers: Sequence[Signer],
        clock: Clock,
        valid_seconds: int,
        interval_seconds: int = 0,
        may_send: Callable[[], bool] = lambda: True,
        checkpoint: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._chain = chain
        self._address = address
        self._terms = (fee_bps, global_id)
        self._epochs = epochs
        self._publisher = publisher
        self._signers = {signer.public_key: signer for signer in signers}
        self._clock = clock
        self._valid_seconds = min(valid_seconds, contract.MAX_VALID_SECONDS - 60)
        self._interval_seconds = interval_seconds
        self._may_send = may_send
        self._checkpoint = checkpoint

    async def turn(self) -> Outcome:
        """Go as far as proven state lets; raises ChainError and SettlementError (a person or time must help)."""
        found = await settlement.read(self._chain, self._address)
        state, account = found.state, found.account
        self._check_terms(state)
        for _ in range(MAX_STEPS):
            view = await asyncio.to_thread(self._epochs.view)
            decision = decide(self._chain_view(state, account), view, frozenset(self._signers))
            if decision.action == Action.DONE:
                await asyncio.to_thread(self._done)
            elif decision.action == Action.FREEZE:
                if not await asyncio.to_thread(self._freeze, state, account):
                    return Outcome(Decision(Action.WAIT, SettlementReason.SETTLED), state, account)
            elif decision.action == Action.SIGN:
                await asyncio.to_thread(self._sign, state, account)
            elif decision.action == Action.SEND:
                return Outcome(decision, state, account, await self._send())
            else:
                return Outcome(decision, state, account)
        return Outcome(Decision(Action.WAIT, SettlementReason.WAITING), state, account)

    def _check_terms(self, state: contract.State) -> None:
        if (state.policy.fee_bps, state.policy.global_id) != self._terms:
            raise SettlementError(
                SettlementReason.CONTRACT_FOREIGN,
                "the contract's fee or chain is not the account's",
                "set spec.feeBps and spec.globalId as the contract was deployed",
                f"contract: {state.policy.fee_bps} basis points, chain {state.policy.global_id}; account: {self._terms}",
            )

    def _chain_view(self, state: contract.State, account: Account) -> ChainView:
        due = state.pending.at + state.policy.delay_seconds if state.pending else 0
        interval = max(state.policy.min_interval_seconds, self._interval_seconds)
        earliest = max(due, state.last_at + interval if state.last_at else 0)
        return ChainView(
            epoch=state.epoch,
            last_hash=state.last_hash,
            now=account.head.gen_utime,
            paused=state.paused,
            signer_key=state.signer_key,
            active_root=state.active.root,
            pending_root=state.pending.root if state.pending else None,
            earliest_commit=earliest,
        )

    def _freeze(self, state: contract.State, account: Account) -> bool:
        """Freeze the next epoch; whether there was something to settle."""
        content = self._epochs.next_content(state.policy.per_epoch_cap_nanoton)
        if content is None:
            return False
        needed = content.earned_nanoton - state.paid_nanoton + state.reserve_nanoton
        if account.balance_nanoton < needed:
            raise SettlementError(
                SettlementReason.UNDERFUNDED,
                f"the contract holds {account.balance_nanoton} nanoton and needs {needed} for the next epoch",
                f"top it up by {needed - account.balance_nanoton} nanoton or more (`chrysalis contract top-up`)",
            )
        self._checkpoint("freeze")
        self._epochs.freeze(content, unix(self._clock.now()))
        LOG.info("epoch.frozen", extra={"event": "epoch.frozen", "detail": f"epoch {content.epoch}, {content.log_size} receipts"})
        return True

    def _sign(self, state: contract.State, account: Account) -> None:
        """Publish the epoch's files, then make and persist a signed body."""
        content = self._epochs.frozen()
        self._checkpoint("publish")
        self._publisher.epoch(content)
        signer = self._signers[state.signer_key]
        valid_until = account.head.gen_utime + self._valid_seconds
        commit = contract.Commit(
            global_id=state.policy.global_id, contract=contract.account_id(self._address), valid_until=valid_until, content=content
        )
        body = commit.signed_body(signer.sign(commit.hash)).to_boc()
        self._checkpoint("persist")
        self._epochs.keep_body(content.epoch, valid_until, signer.public_key, body, unix(self._clock.now()))

    async def _send(self) -> str:
        content = await asyncio.to_thread(self._epochs.frozen)
        await asyncio.to_thread(self._publisher.epoch, content)
        body = await asyncio.to_thread(self._epochs.newest_body, content.epoch)
        if not self._may_send():
            return "this process does not hold the Lease any more; nothing was sent"
        self._checkpoint("send")
        try:
            taken = await self._chain.send_external(self._address, contract.read_boc(body, "the persisted body"))
        except ChainError as error:
            if error.reason != ChainReason.MESSAGE_REFUSED:
                raise
            # A duplicate of a body that was included meanwhile is refused too: proven state will tell.
            return f"{error.message} ({error.detail})"[:512]
        self._checkpoint("sent")
        return f"{taken} liteservers took the commit of epoch {content.epoch}"

    def _done(self) -> None:
        content = self._epochs.frozen()
        self._publisher.epoch(content)
        self._checkpoint("book")
        self._epochs.committed(content.epoch, unix(self._clock.now()))
        self._checkpoint("announce")
        self._publisher.latest(content)
        LOG.info("epoch.committed", extra={"event": "epoch.committed", "detail": f"epoch {content.epoch}"})

    def republish(self) -> None:
        """Write again whatever published file is missing; called on start (a kill may have come between two writes)."""
        rows = [row for row in self._epochs.all() if row.state == "committed"]
        for row in rows:
            self._publisher.epoch(row.content)
        if rows:
            self._publisher.latest(rows[-1].content)
