"""Brings receipts home: for each worker that the broker vouches for, verify its certificate, pull what is new, hand over the clients.

Workers are found through a Directory that is passed in; connections through `connect`.  One worker's failure stops no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from chrysalis.api.account import AllowedClient
from chrysalis.clock import Clock, unix
from chrysalis.receipts import jws, worker_id
from chrysalis.receipts.objects import ClientList, ListedClient, ReceiptKeyCertificate, SettlerToken
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.settlement.reasons import SettlementError, SettlementReason
from chrysalis.settlement.store import Appended, Ledger
from chrysalis.wire.broker import ResultView
from chrysalis.wire.reasons import WireError
from chrysalis.wire.worker import ReceiptPage

LOG = logging.getLogger("chrysalis.settlement.collector")
TOKEN_SECONDS = 60
LIST_SECONDS = 24 * 3600
PUSH_SECONDS = 30
"""A worker gets the list again this often: its agent may have been restarted."""
LATE_SECONDS = 24 * 3600
"""How long after its certificate's end an unrevoked worker's receipts are still taken."""
MAX_PAGES = 50
AT_ONCE = 16


@dataclass(frozen=True)
class Found:
    """A worker as the directory finds it: the broker's newest result about it, and where its pod answers."""

    result: ResultView
    endpoint: str
    name: str
    """Of its ConfidentialWorker; untrusted, for sums by name only."""


class Directory(Protocol):
    """Who works for this account, as far as the host says; whom to believe is decided by certificates and pins."""

    async def workers(self) -> Sequence[Found]:
        """All reachable workers; raises WireError when the sources do not answer."""


class WorkerSource(Protocol):
    """What the collector asks of a worker (wire.worker_client.WorkerClient)."""

    async def receipts(self, after: int) -> ReceiptPage: ...
    async def offer(self) -> str: ...
    async def put_clients(self, clients: str) -> None: ...


Connect = Callable[[str, bytes, Callable[[], str]], Awaitable[AbstractAsyncContextManager[WorkerSource]]]


@dataclass
class Collected:
    """What a round brought."""

    new: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    problems: dict[str, SettlementError | WireError] = field(default_factory=dict)
    """By wrk or, where it is not known, by result id."""


class Collector:
    """Rounds over the workers of one account."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        directory: Directory,
        connect: Connect,
        reservation: jws.Signer,
        ear_key: bytes,
        set_name: str,
        clock: Clock,
        drain_seconds: int,
    ) -> None:
        self._ledger = ledger
        self._directory = directory
        self._connect = connect
        self._reservation = reservation
        self._ear_key = ear_key
        self._set = set_name
        self._clock = clock
        self._drain = drain_seconds
        self._clients: list[AllowedClient] = []
        self._pushed: dict[str, tuple[float, str]] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def set_clients(self, clients: Sequence[AllowedClient]) -> None:
        """The list that workers get from now on; it is in the ledger before any worker has it."""
        if list(clients) != self._clients or not self._pushed:
            await asyncio.to_thread(self._ledger.set_clients, clients, unix(self._clock.now()))
            self._clients = list(clients)

    async def round(self) -> Collected:
        """Visit every worker once; raises WireError when the directory does not answer."""
        collected = Collected()
        found = await self._directory.workers()
        await asyncio.gather(*(self._guarded(worker, collected) for worker in found))
        return collected

    async def _guarded(self, found: Found, collected: Collected) -> None:
        async with self._gate:
            try:
                await self._visit(found, collected)
            except (SettlementError, WireError) as error:
                collected.problems[_name(found)] = error
                LOG.warning("worker.problem", extra={"event": "worker.problem", "reason": str(error.reason), "detail": error.message})
            except Exception as error:  # what one worker sends must not stop the others' receipts
                LOG.exception("worker.bug", extra={"event": "worker.bug", "detail": _name(found)})
                collected.problems[_name(found)] = SettlementError(
                    SettlementReason.INTERNAL_ERROR,
                    "the settler failed at what this worker sent",
                    "look at the settler's log, and report it",
                    type(error).__name__,
                )

    async def _visit(self, found: Found, collected: Collected) -> None:
        certificate = self._certificate(found.result)
        wrk = worker_id(bytes.fromhex(certificate.receipt_key))
        now = unix(self._clock.now())
        row = await asyncio.to_thread(self._ledger.register, certificate, found.result.receipt_certificate, found.name, now)
        if row.closed_reason is not None:
            return
        if self._is_over(found.result, certificate, now):
            await asyncio.to_thread(self._ledger.close_chain, wrk, SettlementReason.CHAIN_CLOSED, now)
            return
        pin = bytes.fromhex(found.result.keys.tls_spki_sha256)
        async with await self._connect(found.endpoint, pin, lambda: self._token(wrk)) as worker:
            await self._hand_over_clients(wrk, pin.hex(), worker)
            appended = await self._pull(wrk, row.worker.head.seq, worker, collected)
        if appended is not None and appended.stopped is not None:
            raise appended.stopped

    async def _pull(self, wrk: str, after: int, worker: WorkerSource, collected: Collected) -> Appended | None:
        """Pages until nothing is new or something stops; the last page's outcome."""
        appended = None
        for _ in range(MAX_PAGES):
            page = await worker.receipts(after)
            if page.wrk.lower() != wrk:
                raise SettlementError(
                    SettlementReason.RECEIPT_MALFORMED, "a worker answered for another receipt key", "look at the worker", page.wrk
                )
            if not page.receipts:
                return appended
            offers = page.offers or [offer for offer in [await worker.offer()] if offer]
            appended = await asyncio.to_thread(self._ledger.append, wrk, page.receipts, offers, unix(self._clock.now()))
            collected.new += appended.new
            for reason, count in appended.refused.items():
                collected.refused[reason] = collected.refused.get(reason, 0) + count
            if appended.stopped is not None or appended.new == 0:
                return appended
            after += appended.new
            if after >= page.last:
                return appended
        return appended

    async def _hand_over_clients(self, wrk: str, pin: str, worker: WorkerSource) -> None:
        """PUT the list when it is new to this worker, or when some time has passed."""
        fingerprint = f"{pin} " + " ".join(f"{c.key}={c.daily_cap_nanoton}" for c in self._clients)
        last, what = self._pushed.get(wrk, (0.0, ""))
        if what == fingerprint and self._clock.monotonic() - last < PUSH_SECONDS:
            return
        await worker.put_clients(self.client_list())
        self._pushed[wrk] = (self._clock.monotonic(), fingerprint)

    def client_list(self) -> str:
        """The signed list as workers get it."""
        now = unix(self._clock.now())
        keys = [ListedClient(key=c.key.lower(), cap=int(c.daily_cap_nanoton)) for c in self._clients]
        return ClientList(set=self._set, keys=keys, iat=now, exp=now + LIST_SECONDS).sign(self._reservation)

    def _token(self, wrk: str) -> str:
        now = unix(self._clock.now())
        return SettlerToken(aud=wrk, iat=now, exp=now + TOKEN_SECONDS).sign(self._reservation)

    def _certificate(self, result: ResultView) -> ReceiptKeyCertificate:
        """The result's certificate under the EAR key, for this account and this reservation key; raises SettlementError."""
        try:
            certificate = ReceiptKeyCertificate.parse(result.receipt_certificate, self._ear_key)
        except ReceiptError as error:
            raise _certificate_invalid(error.message, error.detail) from error
        if not certificate.wallet:  # it could not stand in an epoch, and would stop everybody's
            raise _certificate_invalid("it names no wallet", "a worker of an account is measured with its payout wallet")
        if certificate.set != self._set or certificate.receipt_key != result.keys.receipt.lower():
            raise _certificate_invalid("it is for another account or key", f"set {certificate.set}")
        if self._reservation.public_key.hex() not in certificate.reservation_keys:
            raise _certificate_invalid("it does not list this settler's reservation key", "spec.reservationKeys is measured at admission")
        return certificate

    def _is_over(self, result: ResultView, certificate: ReceiptKeyCertificate, now: int) -> bool:
        if result.revoked_at is not None:
            return now > unix(result.revoked_at) + self._drain
        return now > certificate.exp + LATE_SECONDS


def newest_by_key(results: Sequence[ResultView]) -> dict[str, ResultView]:
    """The newest accepted result of each receipt key; `results` as the broker lists them, newest first."""
    newest: dict[str, ResultView] = {}
    for result in results:
        if result.verdict == "Accepted" and result.receipt_certificate:
            newest.setdefault(result.keys.receipt.lower(), result)
    return newest


def _name(found: Found) -> str:
    try:
        return worker_id(bytes.fromhex(found.result.keys.receipt))
    except ValueError:
        return found.result.result_id


def _certificate_invalid(why: str, detail: str) -> SettlementError:
    return SettlementError(
        SettlementReason.CERTIFICATE_INVALID,
        f"a worker's receipt-key certificate is not valid here: {why}",
        "compare broker.earKey in the settler's configuration with the broker, and the account with the worker's settlementAccountRef",
        detail,
    )
