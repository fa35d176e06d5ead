"""The durable ledger: all SQL of the settler that writes receipts, workers and clients (epochs: `epoch_store`).

SQLite in WAL mode with full synchronisation: what a method returns from is on the disk.  Every transaction is BEGIN IMMEDIATE, so
checks and writes in one are one step.  Blocking; call it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, func, insert, select, update

from chrysalis.api.account import AllowedClient
from chrysalis.receipts import chain, jws, worker_id
from chrysalis.receipts.objects import Offer, ReceiptKeyCertificate
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.receipts.records import Record
from chrysalis.settlement import judging
from chrysalis.settlement import tables as t
from chrysalis.settlement.reasons import SettlementError, SettlementReason


@dataclass
class Appended:
    """What became of a page of receipts."""

    new: int = 0
    duplicates: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Receipts that entered the ledger unpaid, by reason."""
    stopped: SettlementError | None = None
    """Why the rest of the page was not taken; None when all of it was."""


@dataclass(frozen=True)
class WorkerRow:
    """A worker as the ledger knows it."""

    worker: judging.Worker
    name: str
    certificate: str
    closed_reason: str | None


@dataclass(frozen=True)
class WorkerSum:
    """What the workers of one name earned, net, and their number of receipts."""

    name: str
    earned_nanoton: int
    receipts: int


class Ledger:
    """One account's ledger in one database file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Open or create the file and bring its tables to this version."""
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10, "check_same_thread": False})

        @event.listens_for(engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # SQLAlchemy begins; the driver must not
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        config = Config()
        config.set_main_option("script_location", "chrysalis.settlement:migrations")
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return cls(engine)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One immediate transaction; all or nothing."""
        with self._engine.begin() as connection:
            yield connection

    def bind(self, set_name: str, fee_bps: int, holder: str = "") -> None:
        """Make this the ledger of one contract, and of the SettlementAccount `holder` (NAMESPACE/NAME), for ever.

        Another account that names the same contract could put its own clients on the list and be paid from what is not its own.
        Raises SettlementError LedgerForeign.
        """
        with self.transaction() as db:
            row = db.execute(select(t.account)).one_or_none()
            if row is None:
                db.execute(insert(t.account).values(id=1, set_name=set_name, fee_bps=fee_bps, holder=holder))
            elif (row.set_name, row.fee_bps) != (set_name, fee_bps):
                raise SettlementError(
                    SettlementReason.LEDGER_FOREIGN,
                    f"this ledger is of {row.set_name} with {row.fee_bps} basis points, not of {set_name} with {fee_bps}",
                    "give each contract a ledger of its own; a fee never changes within a contract",
                )
            elif holder and not row.holder:
                db.execute(update(t.account).values(holder=holder))
            elif holder and row.holder != holder:
                raise SettlementError(
                    SettlementReason.LEDGER_FOREIGN,
                    "the contract is settled for another SettlementAccount already",
                    "deploy a contract for this account; a contract stays with the SettlementAccount that it was first settled for",
                    set_name,
                )

    def set_name(self) -> str:
        """The contract that this ledger is bound to; "" before `bind`."""
        with self.transaction() as db:
            return str(db.execute(select(t.account.c.set_name)).scalar_one_or_none() or "")

    def set_clients(self, clients: Sequence[AllowedClient], now: int) -> None:
        """Make this the list of clients from now on; the history stays, for jobs that were done under it."""
        wanted = {jws.thumbprint(bytes.fromhex(c.key)): (c.key.lower(), int(c.daily_cap_nanoton)) for c in clients}
        with self.transaction() as db:
            current = {r.kid: (r.public_key, r.cap) for r in db.execute(select(t.client_keys).where(t.client_keys.c.until.is_(None)))}
            for kid in current:
                if wanted.get(kid) != current[kid]:
                    db.execute(update(t.client_keys).where(t.client_keys.c.kid == kid, t.client_keys.c.until.is_(None)).values(until=now))
            for kid, (key, cap) in wanted.items():
                if current.get(kid) != (key, cap):
                    db.execute(insert(t.client_keys).values(kid=kid, public_key=key, cap=cap, since=now))

    def register(self, certificate: ReceiptKeyCertificate, token: str, name: str, now: int) -> WorkerRow:
        """Take a worker up, or its renewed certificate; the caller has verified the token.

        Raises SettlementError: CertificateInvalid for another contract or another wallet than the one it began with.
        """
        wrk = worker_id(bytes.fromhex(certificate.receipt_key))
        with self.transaction() as db:
            set_name = db.execute(select(t.account.c.set_name)).scalar_one()
            row = db.execute(select(t.workers).where(t.workers.c.wrk == wrk)).one_or_none()
            if certificate.set != set_name or (row is not None and row.wallet != certificate.wallet):
                raise SettlementError(
                    SettlementReason.CERTIFICATE_INVALID,
                    f"worker {wrk[:16]} is certified for another account or wallet than the ledger's",
                    "a change of wallet or account is a new measurement, hence a new receipt key; look at the broker",
                    f"set {certificate.set}, wallet {certificate.wallet}",
                )
            if row is None:
                db.execute(
                    insert(t.workers).values(
                        wrk=wrk,
                        receipt_key=certificate.receipt_key,
                        wallet=certificate.wallet,
                        certificate=token,
                        name=name,
                        registered_at=min(now, certificate.nbf),
                        head_seq=0,
                        head_hash=wrk,
                    )
                )
            elif row.certificate != token:
                db.execute(update(t.workers).where(t.workers.c.wrk == wrk).values(certificate=token))
            return _worker(db, wrk)

    def worker(self, wrk: str) -> WorkerRow:
        """One registered worker; raises NoResultFound otherwise."""
        with self.transaction() as db:
            return _worker(db, wrk)

    def workers(self) -> list[WorkerRow]:
        """All workers ever registered."""
        with self.transaction() as db:
            return [_worker_row(row) for row in db.execute(select(t.workers).order_by(t.workers.c.registered_at, t.workers.c.wrk))]

    def append(self, wrk: str, tokens: Sequence[str], offers: Sequence[str], now: int) -> Appended:
        """Judge a page of a worker's receipts and append what continues its chain, in one transaction.

        A receipt that is there already is a no-op.  A fork closes the chain and keeps both as proof.  What stops the page is
        in the result, not raised: what came before it is kept.
        """
        result = Appended()
        with self.transaction() as db:
            row = _worker(db, wrk)
            if row.closed_reason is not None:
                result.stopped = SettlementError(
                    SettlementReason.CHAIN_CLOSED,
                    f"the receipt chain of worker {wrk[:16]} is closed: {row.closed_reason}",
                    "start a new worker",
                )
                return result
            worker = row.worker
            _keep_offers(db, worker, offers)
            context = _context(db, wrk, now)
            for token in tokens:
                try:
                    receipt = judging.read(token, worker)
                    if receipt.seq <= worker.head.seq and _held(db, wrk, receipt.seq) == token:
                        result.duplicates += 1
                        continue
                    entry, worker = judging.judge(receipt, token, worker, context)
                except SettlementError as error:
                    result.stopped = error
                    if error.reason == SettlementReason.RECEIPT_FORKED:
                        _close(db, wrk, SettlementReason.RECEIPT_FORKED, now)
                        db.execute(
                            insert(t.forks)
                            .prefix_with("OR IGNORE")
                            .values(hash=jws.identity(token), wrk=wrk, seq=receipt.seq, token=token, received_at=now)
                        )
                    break
                _insert(db, entry, now)
                result.new += 1
                if entry.refusal:
                    result.refused[entry.refusal] = result.refused.get(entry.refusal, 0) + 1
            db.execute(update(t.workers).where(t.workers.c.wrk == wrk).values(head_seq=worker.head.seq, head_hash=worker.head.hash))
        return result

    def close_chain(self, wrk: str, reason: SettlementReason, now: int) -> None:
        """Accept no further receipt of this key, whatever time it states."""
        with self.transaction() as db:
            _close(db, wrk, reason, now)

    def forks(self) -> list[tuple[str, int, str]]:
        """Proofs of fraud: (wrk, seq, the second receipt)."""
        with self.transaction() as db:
            return [(r.wrk, r.seq, r.token) for r in db.execute(select(t.forks).order_by(t.forks.c.wrk, t.forks.c.seq))]

    def size(self) -> int:
        """The number of receipts."""
        with self.transaction() as db:
            return int(db.execute(select(func.count()).select_from(t.receipts)).scalar_one())

    def records(self, *, after: int = 0, limit: int = 500, kid: str | None = None) -> list[tuple[int, Record]]:
        """Receipts with position >= after, as their parties keep them; of one client's tickets when kid is given."""
        query = (
            select(t.receipts.c.position, t.receipts.c.token, t.receipts.c.refusal, t.offers.c.token, t.workers.c.certificate)
            .join(t.offers, t.receipts.c.offer == t.offers.c.hash)
            .join(t.workers, t.receipts.c.wrk == t.workers.c.wrk)
            .where(t.receipts.c.position >= after)
            .order_by(t.receipts.c.position)
            .limit(limit)
        )
        if kid is not None:
            query = query.where(t.receipts.c.kid == kid)
        with self.transaction() as db:
            return [(p, Record(receipt=r, refusal=why, offer=o, certificate=c)) for p, r, why, o, c in db.execute(query)]

    def sums(self) -> list[WorkerSum]:
        """Net earnings by worker name, over the ledger's whole life."""
        query = (
            select(t.workers.c.name, func.coalesce(func.sum(t.receipts.c.net), 0), func.count(t.receipts.c.hash))
            .join(t.receipts, t.receipts.c.wrk == t.workers.c.wrk, isouter=True)
            .group_by(t.workers.c.name)
            .order_by(t.workers.c.name)
        )
        with self.transaction() as db:
            return [WorkerSum(name, int(earned), count) for name, earned, count in db.execute(query)]

    def kid_of_client(self, kid: str) -> bytes | None:
        """The public key of a client that is or was listed; None for a stranger."""
        with self.transaction() as db:
            key = db.execute(select(t.client_keys.c.public_key).where(t.client_keys.c.kid == kid).limit(1)).scalar_one_or_none()
        return None if key is None else bytes.fromhex(key)


def _worker(db: Connection, wrk: str) -> WorkerRow:
    return _worker_row(db.execute(select(t.workers).where(t.workers.c.wrk == wrk)).one())


def _worker_row(row: Any) -> WorkerRow:
    worker = judging.Worker(
        wrk=row.wrk,
        receipt_key=bytes.fromhex(row.receipt_key),
        wallet=row.wallet,
        registered_at=row.registered_at,
        head=chain.Head(row.wrk, row.head_seq, row.head_hash),
    )
    return WorkerRow(worker=worker, name=row.name, certificate=row.certificate, closed_reason=row.closed_reason)


def _keep_offers(db: Connection, worker: judging.Worker, offers: Sequence[str]) -> None:
    """Keep the offers that the worker signed for itself; others are left out, and a receipt that names one stops its page."""
    for token in offers:
        try:
            offer = Offer.parse(token, worker.receipt_key)
        except ReceiptError:
            continue
        if offer.wrk == worker.wrk:
            db.execute(insert(t.offers).prefix_with("OR IGNORE").values(hash=jws.identity(token), wrk=worker.wrk, token=token))


def _context(db: Connection, wrk: str, now: int) -> judging.Context:
    account = db.execute(select(t.account)).one()
    clients: dict[str, list[judging.ClientKey]] = {}
    for row in db.execute(select(t.client_keys).order_by(t.client_keys.c.id)):
        clients.setdefault(row.kid, []).append(judging.ClientKey(bytes.fromhex(row.public_key), row.cap, row.since, row.until))
    offers: Mapping[str, tuple[str, Offer]] = {
        row.hash: (row.token, Offer.parse_unverified(row.token))  # verified when it was kept
        for row in db.execute(select(t.offers).where(t.offers.c.wrk == wrk))
    }

    def is_spent(kid: str, nonce: str) -> bool:
        where = (t.spent_tickets.c.kid == kid, t.spent_tickets.c.res == "none", t.spent_tickets.c.nonce == nonce)
        return db.execute(select(t.spent_tickets.c.receipt).where(*where)).first() is not None

    def paid_on(kid: str, day: int) -> int:
        where = (t.receipts.c.kid == kid, t.receipts.c.wrk == wrk, t.receipts.c.day == day, t.receipts.c.refusal == "")
        return int(db.execute(select(func.coalesce(func.sum(t.receipts.c.amt), 0)).where(*where)).scalar_one())

    return judging.Context(
        set_name=account.set_name, fee_bps=account.fee_bps, now=now, clients=clients, offers=offers, is_spent=is_spent, paid_on=paid_on
    )


def _held(db: Connection, wrk: str, seq: int) -> str | None:
    token: str | None = db.execute(select(t.receipts.c.token).where(t.receipts.c.wrk == wrk, t.receipts.c.seq == seq)).scalar_one_or_none()
    return token


def _insert(db: Connection, entry: judging.Entry, now: int) -> None:
    position = db.execute(select(func.coalesce(func.max(t.receipts.c.position) + 1, 0))).scalar_one()
    db.execute(
        insert(t.receipts).values(
            position=position,
            hash=entry.hash,
            wrk=entry.receipt.wrk,
            seq=entry.receipt.seq,
            token=entry.token,
            offer=entry.offer,
            wallet=entry.wallet,
            kid=entry.kid,
            day=entry.day,
            amt=entry.amt_nanoton,
            fee=entry.fee_nanoton,
            net=entry.net_nanoton,
            refusal=entry.refusal,
            received_at=now,
        )
    )
    if not entry.refusal:
        db.execute(insert(t.spent_tickets).values(kid=entry.kid, res=entry.receipt.res, nonce=entry.nonce, receipt=entry.hash))


def _close(db: Connection, wrk: str, reason: SettlementReason, now: int) -> None:
    db.execute(
        update(t.workers)
        .where(t.workers.c.wrk == wrk, t.workers.c.closed_reason.is_(None))
        .values(closed_reason=str(reason), closed_at=now)
    )
