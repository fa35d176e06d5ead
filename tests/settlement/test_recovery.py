"""The recovery table: one row for each state that a restart may find (settlement.md, exactly once, step 4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chrysalis.settlement.reasons import SettlementReason as R
from chrysalis.settlement.recovery import Action, Booked, ChainView, LedgerView, decide

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
ZERO = bytes(32)
H1, H2, H3, X = b"1" * 32, b"2" * 32, b"3" * 32, b"x" * 32
R1, R2, RX = b"a" * 32, b"b" * 32, b"c" * 32
ONE = Booked(epoch=1, hash=H1, root=R1)
TWO = Booked(epoch=2, hash=H2, root=R2, prev=H1)

FRESH = ChainView(epoch=0, last_hash=ZERO, now=1000, paused=False, signer_key=KEY, active_root=ZERO)
AT_ONE = replace(FRESH, epoch=1, last_hash=H1, active_root=ZERO, pending_root=R1)
AT_TWO = replace(FRESH, epoch=2, last_hash=H2, active_root=R1, pending_root=R2)
EMPTY = LedgerView()
IDLE = LedgerView(committed=ONE)
FROZEN = LedgerView(committed=ONE, frozen=TWO)
SIGNED = replace(FROZEN, valid_until=1000)

ROWS = [
    ("nothing yet", FRESH, EMPTY, Action.FREEZE, R.SETTLED),
    ("first epoch frozen, unsigned", FRESH, LedgerView(frozen=ONE), Action.SIGN, R.COMMITTING),
    ("first epoch stands", AT_ONE, LedgerView(frozen=ONE, valid_until=1), Action.DONE, R.SETTLED),
    ("all is booked", AT_ONE, IDLE, Action.FREEZE, R.SETTLED),
    ("all is booked and active", replace(AT_ONE, active_root=R1, pending_root=None), IDLE, Action.FREEZE, R.SETTLED),
    ("booked, delay runs", replace(AT_ONE, earliest_commit=1001), IDLE, Action.WAIT, R.WAITING),
    ("frozen, unsigned", AT_ONE, FROZEN, Action.SIGN, R.COMMITTING),
    ("signed, valid to this second", AT_ONE, SIGNED, Action.SEND, R.COMMITTING),
    ("signed, expired by proven time", replace(AT_ONE, now=1001), SIGNED, Action.SIGN, R.COMMITTING),
    ("signed, contract not ready", replace(AT_ONE, earliest_commit=1001), SIGNED, Action.WAIT, R.WAITING),
    ("included", AT_TWO, SIGNED, Action.DONE, R.SETTLED),
    ("included, expired", replace(AT_TWO, now=9999), SIGNED, Action.DONE, R.SETTLED),
    ("included, then paused", replace(AT_TWO, paused=True), SIGNED, Action.DONE, R.SETTLED),
    ("included, then cancelled: booked first", replace(AT_TWO, pending_root=None), SIGNED, Action.DONE, R.SETTLED),
    ("cancelled", replace(AT_ONE, pending_root=None), IDLE, Action.STOP, R.EPOCH_CANCELLED),
    ("cancelled, next one frozen", replace(AT_ONE, pending_root=None), SIGNED, Action.STOP, R.EPOCH_CANCELLED),
    ("cancelled and adopted", replace(AT_ONE, pending_root=None), replace(IDLE, adopted=True), Action.FREEZE, R.SETTLED),
    ("paused", replace(AT_ONE, paused=True), SIGNED, Action.STOP, R.CONTRACT_PAUSED),
    ("paused, idle", replace(AT_ONE, paused=True), IDLE, Action.STOP, R.CONTRACT_PAUSED),
    ("N-1 with another hash", replace(AT_ONE, last_hash=X), SIGNED, Action.STOP, R.STATE_FOREIGN),
    ("N with another hash", replace(AT_TWO, last_hash=X), SIGNED, Action.STOP, R.STATE_FOREIGN),
    ("beyond N", replace(AT_TWO, epoch=3, last_hash=H3), SIGNED, Action.STOP, R.STATE_FOREIGN),
    ("ahead of an idle ledger", AT_TWO, IDLE, Action.STOP, R.STATE_FOREIGN),
    ("behind the ledger", FRESH, IDLE, Action.STOP, R.STATE_FOREIGN),
    ("an empty ledger at a used contract", AT_ONE, EMPTY, Action.STOP, R.STATE_FOREIGN),
    ("rotated to a key that is not held", replace(AT_ONE, signer_key=OTHER_KEY), SIGNED, Action.STOP, R.SIGNER_KEY_FOREIGN),
]


@pytest.mark.parametrize(("chain", "ledger", "action", "reason"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_the_table(chain: ChainView, ledger: LedgerView, action: Action, reason: R) -> None:
    decision = decide(chain, ledger, frozenset({KEY}))
    assert (decision.action, decision.reason) == (action, reason)


def test_during_a_rotation_both_keys_serve() -> None:
    assert decide(replace(AT_ONE, signer_key=OTHER_KEY), SIGNED, frozenset({KEY, OTHER_KEY})).action == Action.SEND


def test_waiting_says_until_when() -> None:
    assert decide(replace(AT_ONE, earliest_commit=1234), IDLE, frozenset({KEY})).until == 1234
