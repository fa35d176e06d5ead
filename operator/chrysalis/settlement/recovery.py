"""What to do next, from proven state and the ledger alone.  Pure; the table of settlement.md, "Exactly once, across crashes".

Called on start and on every turn: there is no other memory, so a process that was killed at any point goes on rightly.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from chrysalis.settlement.reasons import SettlementReason


class Action(StrEnum):
    """One step."""

    FREEZE = "Freeze"
    """Nothing is under way and the contract would take a commit: freeze the next epoch if there is something to settle."""
    SIGN = "Sign"
    """Make, persist and send a signed body for the frozen epoch."""
    SEND = "Send"
    """Send the bytes that are already persisted, again."""
    DONE = "Done"
    """The frozen epoch stands on chain: book it as committed."""
    WAIT = "Wait"
    """Nothing to do until `until`."""
    STOP = "Stop"
    """A person must look: `reason`."""


@dataclass(frozen=True, kw_only=True)
class ChainView:
    """Proven state of the contract; times in the chain's Unix seconds."""

    epoch: int
    last_hash: bytes
    now: int
    paused: bool
    signer_key: bytes
    active_root: bytes
    pending_root: bytes | None = None
    earliest_commit: int = 0
    """When the interval since the last commit and the delay of the pending root have both passed."""


@dataclass(frozen=True, kw_only=True)
class Booked:
    """An epoch in the ledger."""

    epoch: int
    hash: bytes
    root: bytes
    prev: bytes = bytes(32)


@dataclass(frozen=True, kw_only=True)
class LedgerView:
    """The ledger's own word on where settlement stands."""

    committed: Booked | None = None
    frozen: Booked | None = None
    valid_until: int | None = None
    """Of the newest signed body of the frozen epoch; None when none was signed."""
    adopted: bool = False
    """The last committed epoch was taken over by `ledger adopt`: its root is as a person confirmed it."""


@dataclass(frozen=True)
class Decision:
    """An action, why, and until when there is nothing else to do (chain time)."""

    action: Action
    reason: SettlementReason
    until: int = 0


def decide(chain: ChainView, ledger: LedgerView, signer_keys: frozenset[bytes]) -> Decision:
    """The next step.  signer_keys: the public settlement keys that this process holds (two during a rotation)."""
    frozen = ledger.frozen
    if frozen is not None and (chain.epoch, chain.last_hash) == (frozen.epoch, frozen.hash):
        return Decision(Action.DONE, SettlementReason.SETTLED)
    base = (ledger.committed.epoch, ledger.committed.hash) if ledger.committed else (0, bytes(32))
    if (chain.epoch, chain.last_hash) != base:
        return Decision(Action.STOP, SettlementReason.STATE_FOREIGN)
    if ledger.committed is not None and not ledger.adopted and chain.pending_root is None and chain.active_root != ledger.committed.root:
        return Decision(Action.STOP, SettlementReason.EPOCH_CANCELLED)
    if chain.paused:
        return Decision(Action.STOP, SettlementReason.CONTRACT_PAUSED)
    if chain.signer_key not in signer_keys:
        return Decision(Action.STOP, SettlementReason.SIGNER_KEY_FOREIGN)
    if chain.now < chain.earliest_commit:
        return Decision(Action.WAIT, SettlementReason.WAITING, chain.earliest_commit)
    if frozen is None:
        return Decision(Action.FREEZE, SettlementReason.SETTLED)
    if ledger.valid_until is None or chain.now > ledger.valid_until:
        return Decision(Action.SIGN, SettlementReason.COMMITTING)
    return Decision(Action.SEND, SettlementReason.COMMITTING)
