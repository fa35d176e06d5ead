"""Epochs in the ledger: frozen once, signed before they are sent, booked when they are proven.  All SQL of epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from chrysalis.amounts import amount
from chrysalis.chain import contract
from chrysalis.settlement import epochs
from chrysalis.settlement import tables as t
from chrysalis.settlement.reasons import SettlementError, SettlementReason
from chrysalis.settlement.recovery import Booked, LedgerView
from chrysalis.settlement.store import Ledger

FROZEN, COMMITTED, CANCELLED, ADOPTED = "frozen", "committed", "cancelled", "adopted"


@dataclass(frozen=True)
class EpochRow:
    """An epoch as it is booked."""

    content: contract.CommitContent
    state: str
    frozen_at: int
    committed_at: int | None


class EpochStore:
    """The epochs of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def view(self) -> LedgerView:
        """Where settlement stands by the ledger's word (the input of recovery.decide)."""
        with self._ledger.transaction() as db:
            frozen = db.execute(select(t.epochs).where(t.epochs.c.state == FROZEN)).one_or_none()
            last = db.execute(select(t.epochs).where(t.epochs.c.state.in_([COMMITTED, ADOPTED])).order_by(t.epochs.c.epoch.desc())).first()
            valid_until = None
            if frozen is not None:
                valid_until = db.execute(select(func.max(t.bodies.c.valid_until)).where(t.bodies.c.epoch == frozen.epoch)).scalar_one()
            return LedgerView(
                committed=Booked(epoch=last.epoch, hash=last.hash, root=last.root, prev=last.prev) if last else None,
                frozen=Booked(epoch=frozen.epoch, hash=frozen.hash, root=frozen.root, prev=frozen.prev) if frozen else None,
                valid_until=valid_until,
                adopted=last is not None and last.state == ADOPTED,
            )

    def all(self) -> list[EpochRow]:
        """Every epoch, oldest first."""
        with self._ledger.transaction() as db:
            return [
                EpochRow(_content(row), row.state, row.frozen_at, row.committed_at)
                for row in db.execute(select(t.epochs).order_by(t.epochs.c.epoch))
            ]

    def next_content(self, cap_nanoton: int) -> contract.CommitContent | None:
        """The content of the next epoch; None when nothing new is to be settled.

        It covers as many receipts as the contract's cap for one epoch lets it; raises SettlementError EpochOverCap when not even
        the next one fits.
        """
        with self._ledger.transaction() as db:
            last = db.execute(select(t.epochs).order_by(t.epochs.c.epoch.desc())).first()
            lines = _lines(db)
            done = last.log_size if last else 0
            size = epochs.within_cap(lines, done, cap_nanoton)
            if size == done:
                if len(lines) > done:
                    raise SettlementError(
                        SettlementReason.EPOCH_OVER_CAP,
                        "a single receipt is over the contract's cap for one epoch",
                        "check the client's ticket; the cap of a contract never changes",
                    )
                return None
            return _content_over(db, lines, size, (last.epoch if last else 0) + 1, last.hash if last else contract.ZERO_HASH)

    def freeze(self, content: contract.CommitContent, now: int) -> None:
        """Book an epoch as frozen: from here on its content never changes.  Raises IntegrityError while another one is frozen."""
        with self._ledger.transaction() as db:
            db.execute(
                insert(t.epochs).values(
                    epoch=content.epoch,
                    prev=content.prev,
                    hash=content.hash,
                    root=content.root,
                    earned=content.earned_nanoton,
                    fees=content.fees_nanoton,
                    log_root=content.log_root,
                    log_size=content.log_size,
                    state=FROZEN,
                    frozen_at=now,
                )
            )

    def frozen(self) -> contract.CommitContent:
        """The frozen epoch's content; raises NoResultFound when none is."""
        with self._ledger.transaction() as db:
            return _content(db.execute(select(t.epochs).where(t.epochs.c.state == FROZEN)).one())

    def keep_body(self, epoch: int, valid_until: int, signer_key: bytes, body: bytes, now: int) -> None:
        """Persist a signed body; it may be sent only after this returned."""
        with self._ledger.transaction() as db:
            db.execute(insert(t.bodies).values(epoch=epoch, valid_until=valid_until, signer_key=signer_key.hex(), body=body, signed_at=now))

    def newest_body(self, epoch: int) -> bytes:
        """The signed body with the latest expiry: the one to send."""
        with self._ledger.transaction() as db:
            query = select(t.bodies.c.body).where(t.bodies.c.epoch == epoch).order_by(t.bodies.c.valid_until.desc()).limit(1)
            return bytes(db.execute(query).scalar_one())

    def committed(self, epoch: int, now: int) -> None:
        """Book the frozen epoch as committed: proven state shows it.  Twice is once."""
        with self._ledger.transaction() as db:
            db.execute(
                update(t.epochs).where(t.epochs.c.epoch == epoch, t.epochs.c.state == FROZEN).values(state=COMMITTED, committed_at=now)
            )

    def earned(self, epoch: int) -> dict[bytes, int]:
        """The earned dictionary of an epoch: account id -> cumulative net nanoton."""
        with self._ledger.transaction() as db:
            row = db.execute(select(t.epochs).where(t.epochs.c.epoch == epoch)).one()
            return dict(epochs.totals(_lines(db, row.log_size)).leaves)

    def log_entries(self, epoch: int) -> list[bytes]:
        """All entries of the log that an epoch commits to, in order."""
        with self._ledger.transaction() as db:
            row = db.execute(select(t.epochs).where(t.epochs.c.epoch == epoch)).one()
            return [line.hash for line in _lines(db, row.log_size)]

    def adopt(self, state: contract.State, now: int) -> tuple[int, int]:
        """Take epoch, lastHash and totals over from proven state, after a person looked; (earned, fees) booked as loss.

        What the contract says was earned beyond the ledger's own sums goes to nobody's leaf; what the ledger has beyond the
        contract is committed with the next epoch.  A frozen epoch is given up: its receipts go into the next one.
        """
        with self._ledger.transaction() as db:
            highest = state.pending or state.active
            lines = _lines(db)
            last = db.execute(select(t.epochs).where(t.epochs.c.state != FROZEN).order_by(t.epochs.c.epoch.desc())).first()
            known = db.execute(select(t.epochs).where(t.epochs.c.hash == state.last_hash)).one_or_none()
            in_force = db.execute(select(t.epochs).where(t.epochs.c.root == highest.root).order_by(t.epochs.c.epoch.desc())).first()
            if in_force is not None:
                log_size = in_force.log_size
            else:
                log_size = 0 if highest.earned_nanoton == 0 else (last.log_size if last else 0)
            sums = epochs.totals(lines)
            earned = max(0, highest.earned_nanoton - sum(sums.leaves.values()))
            fees = max(0, highest.fees_nanoton - sums.fees_nanoton)
            db.execute(delete(t.bodies).where(t.bodies.c.epoch >= state.epoch))
            db.execute(delete(t.losses))
            db.execute(delete(t.epochs).where((t.epochs.c.epoch >= state.epoch) | (t.epochs.c.state == FROZEN)))
            if state.epoch:
                db.execute(
                    insert(t.epochs).values(
                        epoch=state.epoch,
                        prev=known.prev if known is not None else contract.ZERO_HASH,
                        hash=state.last_hash,
                        root=highest.root,
                        earned=amount(highest.earned_nanoton),
                        fees=amount(highest.fees_nanoton),
                        log_root=known.log_root if known is not None else contract.ZERO_HASH,
                        log_size=log_size,
                        state=ADOPTED,
                        frozen_at=now,
                        committed_at=now,
                    )
                )
                db.execute(insert(t.losses).values(epoch=state.epoch, earned=earned, fees=fees))
            return earned, fees


def _lines(db: Connection, size: int | None = None) -> list[epochs.Line]:
    query = select(t.receipts.c.hash, t.receipts.c.wallet, t.receipts.c.fee, t.receipts.c.net).order_by(t.receipts.c.position)
    if size is not None:
        query = query.limit(size)
    return [epochs.Line(bytes.fromhex(h), contract.account_id(w), fee, net) for h, w, fee, net in db.execute(query)]


def _content_over(db: Connection, lines: list[epochs.Line], size: int, epoch: int, prev: bytes) -> contract.CommitContent:
    loss = db.execute(select(func.coalesce(func.sum(t.losses.c.earned), 0), func.coalesce(func.sum(t.losses.c.fees), 0))).one()
    sums = epochs.totals(lines[:size], loss_earned_nanoton=int(loss[0]), loss_fees_nanoton=int(loss[1]))
    return epochs.content(epoch, prev, sums, [line.hash for line in lines[:size]])


def _content(r: Row[Any]) -> contract.CommitContent:
    return contract.CommitContent(
        epoch=r.epoch, prev=r.prev, root=r.root, earned_nanoton=r.earned, fees_nanoton=r.fees, log_root=r.log_root, log_size=r.log_size
    )
