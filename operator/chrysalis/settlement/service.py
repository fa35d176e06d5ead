"""One account's settlement, round by round; and the service that runs it for every SettlementAccount while it holds the Lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from chrysalis.api.account import Funding, SettlementAccountSpec
from chrysalis.api.conditions import ConditionStatus
from chrysalis.chain.client import ChainClient
from chrysalis.chain.signer import Signer
from chrysalis.clock import Clock
from chrysalis.errors import ChrysalisError
from chrysalis.settlement.cluster import AccountObject
from chrysalis.settlement.collector import Collector, Connect, Directory
from chrysalis.settlement.committer import Committer, Outcome
from chrysalis.settlement.epoch_store import EpochStore
from chrysalis.settlement.lease import Lease
from chrysalis.settlement.metrics import Metrics
from chrysalis.settlement.publisher import Publisher
from chrysalis.settlement.reasons import SettlementError, SettlementReason
from chrysalis.settlement.status import Report, account_status, settling
from chrysalis.settlement.store import Ledger

LOG = logging.getLogger("chrysalis.settlement.service")
LEDGER_FILE = "ledger.sqlite"


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a settlement needs from outside; all of it is passed in."""

    state_dir: Path
    signers: list[Signer]
    reservation: Signer
    ear_key: bytes
    clock: Clock
    metrics: Metrics
    chain: Callable[[SettlementAccountSpec], ChainClient]
    directory: Callable[[str], Directory]
    """For a namespace."""
    connect: Connect
    may_send: Callable[[], bool]
    valid_seconds: int
    drain_seconds: int


class AccountSettler:
    """Settles one contract: its own ledger, published files, collector and committer."""

    def __init__(self, account: AccountObject, spec: SettlementAccountSpec, means: Means) -> None:
        self._means = means
        self._label = f"{account.namespace}/{account.name}"
        self._stopped = ""
        self.spec = spec
        if spec.contract is None or spec.funding != Funding.OWNER_FUNDED:
            raise SettlementError(
                SettlementReason.ACCOUNT_INVALID, "only OwnerFunded accounts with a contract are settled", "set spec.funding: OwnerFunded"
            )
        if means.reservation.public_key.hex() not in [key.lower() for key in spec.reservation_keys]:
            raise SettlementError(
                SettlementReason.ACCOUNT_INVALID,
                "the settler's reservation key is not one of spec.reservationKeys",
                "add its public key to the account before workers are admitted: they measure it",
                means.reservation.public_key.hex(),
            )
        self.folder = means.state_dir / spec.contract.partition(":")[2]
        self.ledger = Ledger.open(self.folder / LEDGER_FILE)
        try:
            self.ledger.bind(spec.set_name, spec.fee_bps, self._label)
        except SettlementError:
            self.ledger.close()
            raise
        epochs = EpochStore(self.ledger)
        self.publisher = Publisher(self.folder / "published", epochs, spec.set_name)
        self._chain = means.chain(spec)
        self._collector = Collector(
            ledger=self.ledger,
            directory=means.directory(account.namespace),
            connect=means.connect,
            reservation=means.reservation,
            ear_key=means.ear_key,
            set_name=spec.set_name,
            clock=means.clock,
            drain_seconds=means.drain_seconds,
        )
        self._committer = Committer(
            chain=self._chain,
            address=spec.contract,
            fee_bps=spec.fee_bps,
            global_id=spec.global_id,
            epochs=epochs,
            publisher=self.publisher,
            signers=means.signers,
            clock=means.clock,
            valid_seconds=means.valid_seconds,
            interval_seconds=spec.interval_seconds,
            may_send=means.may_send,
        )
        self._committer.republish()

    async def round(self) -> Report:
        """Collect, then commit as far as the chain lets; what went wrong is in the report."""
        problem: ChrysalisError | None = None
        outcome: Outcome | None = None
        problems: Mapping[str, ChrysalisError] = {}
        try:
            await self._collector.set_clients(self.spec.clients)
            collected = await self._collector.round()
            problems = collected.problems
            self._count(collected.new, collected.refused, len(problems))
        except ChrysalisError as error:
            problem = error
        try:
            outcome = await self._committer.turn()
        except ChrysalisError as error:
            problem = error
        sums = await asyncio.to_thread(self.ledger.sums)
        report = Report(outcome, problem, sums, problems, await asyncio.to_thread(self.ledger.size))
        self._measure(report)
        return report

    async def close(self) -> None:
        """End connections and the ledger."""
        await self._chain.close()
        self.ledger.close()

    def _count(self, new: int, refused: Mapping[str, int], problems: int) -> None:
        metrics = self._means.metrics
        metrics.receipts.labels(self._label).inc(new)
        for reason, count in refused.items():
            metrics.refused.labels(self._label, reason).inc(count)
        metrics.problems.labels(self._label).set(problems)

    def _measure(self, report: Report) -> None:
        metrics, label = self._means.metrics, self._label
        metrics.round_at.labels(label).set(self._means.clock.now().timestamp())
        found = settling(report)
        if report.outcome is not None:
            state = report.outcome.state
            newest = state.pending or state.active
            metrics.epoch.labels(label).set(state.epoch)
            metrics.earned.labels(label).set(newest.earned_nanoton)
            metrics.claimed.labels(label).set(state.paid_nanoton)
            metrics.balance.labels(label).set(report.outcome.account.balance_nanoton)
        stopped = str(found.reason) if found.status == ConditionStatus.FALSE else ""
        if self._stopped not in ("", stopped):
            metrics.stopped.labels(label, self._stopped).set(0)
        if stopped:
            metrics.stopped.labels(label, stopped).set(1)
        self._stopped = stopped


class AccountSource(Protocol):
    """Where SettlementAccounts come from (cluster.Accounts)."""

    async def all(self) -> list[AccountObject]: ...
    async def write_status(self, account: AccountObject, status: dict[str, Any]) -> None: ...


class Service:
    """Rounds over all accounts, while the Lease is held."""

    def __init__(self, accounts: AccountSource, means: Means, lease: Lease, *, collect_seconds: float, lease_seconds: float) -> None:
        self._accounts = accounts
        self._means = means
        self._lease = lease
        self._collect_seconds = collect_seconds
        self._lease_seconds = lease_seconds
        self.settlers: dict[tuple[str, str], AccountSettler] = {}
        self.beat: float | None = None
        """Monotonic time of the last finished round or refused Lease."""

    async def run(self) -> None:
        """Until it is cancelled."""
        keeper = asyncio.create_task(self._keep_lease())
        try:
            while True:
                if self._lease.held():
                    await self.round()
                self.beat = self._means.clock.monotonic()
                await asyncio.sleep(self._collect_seconds)
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            with suppress(ChrysalisError):
                await self._lease.release()
            for settler in self.settlers.values():
                await settler.close()

    async def round(self) -> None:
        """One round over every account; an account's failure stops no other."""
        try:
            accounts = await self._accounts.all()
        except ChrysalisError as error:
            LOG.warning("accounts.unreadable", extra={"event": "accounts.unreadable", "reason": str(error.reason), "detail": error.detail})
            return
        for account in accounts:
            if account.spec is not None and account.spec.funding == Funding.NONE:
                continue
            if not self._lease.held():
                return
            report = await self._settle(account)
            status = account_status(report, held=account.conditions, generation=account.generation, at=self._means.clock.now())
            try:
                await self._accounts.write_status(account, status)
            except ChrysalisError as error:
                LOG.warning("status.unwritten", extra={"event": "status.unwritten", "reason": str(error.reason), "detail": error.detail})

    async def _settle(self, account: AccountObject) -> Report:
        try:
            if account.spec is None:
                raise SettlementError(
                    SettlementReason.ACCOUNT_INVALID, "the SettlementAccount cannot be read", "see the detail", account.problem
                )
            key = (account.namespace, account.name)
            settler = self.settlers.get(key)
            if settler is not None and settler.spec.model_copy(update={"clients": account.spec.clients}) != account.spec:
                await self.settlers.pop(key).close()
                settler = None
            if settler is None:
                settler = await asyncio.to_thread(AccountSettler, account, account.spec, self._means)
                self.settlers[key] = settler
            settler.spec = account.spec
            return await settler.round()
        except ChrysalisError as error:
            return Report(None, error, (), {}, 0)
        except Exception as error:  # a bug that one account's objects reach must not stop the others' settlement
            LOG.exception("account.bug", extra={"event": "account.bug", "detail": f"{account.namespace}/{account.name}"})
            return Report(None, _internal(error), (), {}, 0)

    async def _keep_lease(self) -> None:
        while True:
            try:
                held = await self._lease.turn()
                self._means.metrics.leader.set(int(held))
            except ChrysalisError as error:
                LOG.warning("lease.unreachable", extra={"event": "lease.unreachable", "reason": str(error.reason), "detail": error.detail})
            await asyncio.sleep(self._lease_seconds / 4)


def _internal(error: Exception) -> SettlementError:
    return SettlementError(
        SettlementReason.INTERNAL_ERROR,
        "the settler failed at this account; nothing was lost, and it tries again",
        "look at the settler's log, and report it",
        type(error).__name__,
    )
