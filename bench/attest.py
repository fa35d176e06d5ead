"""attest.*: a genuine quote's appraisal against google/go-tdx-guest, and what an event log adds.

Same quote, same collateral, same time, revocation on.  go-tdx-guest is measured inside its own process, so that starting it and
reading JSON do not count; its rounds take turns with ours.  Both are pure computation: processor time is compared.
"""

from __future__ import annotations

import hashlib
import statistics
from datetime import UTC, datetime

from cryptography.hazmat.primitives.serialization import Encoding

from bench import Row
from bench.verify import CALLS, microseconds
from chrysalis.api.policy import INTEL_ROOT_SHA256
from chrysalis.attestation import genuineness
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.clock import parse_rfc3339
from e2e import cache
from e2e.demo import samples
from e2e.demo.evidence import IN_TIME
from e2e.opinions import Case, gotdx
from e2e.simtd import eventlog
from e2e.simtd.eventlog import BootEvent
from e2e.simtd.pki import SimulatedPlatform

IDS = ("attest.go-tdx-guest", "attest.go-tdx-guest-again", "attest.event-log")
TURNS, ROUNDS = 10, 10
REACH_OF_GO = 0.6
EVENTS = 43
EVENT_BYTES = 200
TABLE_BYTES = 64 * 1024
REACH_OF_LOG_MICROSECONDS = 400.0
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def measure() -> list[Row]:
    """Against go-tdx-guest, which remembers nothing, with our memory emptied before each call and as it is; then the event log."""
    return [*_against_go(), _event_log()]


def _against_go() -> list[Row]:
    found = samples.find(cache.root())
    quote, text, at = found.quote.read_bytes(), found.collateral.read_text(), parse_rfc3339(IN_TIME)
    collateral = Collateral.from_json(text)
    root = collateral.tcb_chain[-1].public_bytes(Encoding.DER)
    if hashlib.sha256(root).hexdigest() != INTEL_ROOT_SHA256:
        raise RuntimeError("the collateral's chain does not end at Intel's root, so this would compare two different things")
    case = Case("genuine", "none", quote, text, at, root)
    if not appraise(quote=quote, collateral=collateral, policy=None, at=at).accepted:
        raise RuntimeError("the genuine quote was not accepted, so its time would say nothing")
    gotdx.program()

    def again() -> object:
        return appraise(quote=quote, collateral=collateral, policy=None, at=at)

    def first() -> object:
        genuineness.forget()
        return again()

    anew, remembered, theirs = list[float](), list[float](), list[float]()
    for _ in range(TURNS):
        anew += [microseconds(first) for _ in range(ROUNDS)]
        remembered += [microseconds(again) for _ in range(ROUNDS)]
        theirs += gotdx.measure(case, ROUNDS, CALLS)
    return [_row(IDS[0], anew, theirs, REACH_OF_GO), _row(IDS[1], remembered, theirs, None)]


def _row(name: str, ours: list[float], theirs: list[float], reach: float | None) -> Row:
    ratio, typical = min(ours) / min(theirs), statistics.median(ours) / statistics.median(theirs)
    return Row(
        id=name,
        value=min(ours),
        unit="µs CPU",
        reference=f"go-tdx-guest: {min(theirs):.0f} µs; ratio of the medians of {len(ours)} rounds: {typical:.2f} ×",
        ratio=ratio,
        reach=None if reach is None else f"≤ {reach:.2f} ×",
        ok=None if reach is None else ratio <= reach,
    )


def _event_log() -> Row:
    """The same quote with and without a log of 43 events, which its registers carry."""
    boot = [BootEvent(number % 3, eventlog.EV_IPL, number.to_bytes(2, "big") * (EVENT_BYTES // 2)) for number in range(EVENTS - 3)]
    boot += [BootEvent(register, eventlog.EV_SEPARATOR, bytes(4)) for register in range(3)]
    registers = [bytes(48)] * 4
    for event in boot:
        registers[event.rtmr] = eventlog.extend(registers[event.rtmr], event.digest)
    log = eventlog.tcg2_log(boot).ljust(TABLE_BYTES, b"\xff")
    platform = SimulatedPlatform.create()
    quote, roots = platform.quote(rtmrs=registers), [platform.root_der]
    collateral = Collateral.from_json(platform.collateral(AT))
    for given in (log, None):
        verdict = appraise(quote=quote, collateral=collateral, policy=None, at=AT, roots=roots, event_log=given)
        if not verdict.accepted:
            raise RuntimeError(f"the Simulated quote was refused: {verdict.reasons}")
    with_log, without = list[float](), list[float]()
    for _ in range(TURNS * ROUNDS):
        with_log.append(microseconds(lambda: appraise(quote=quote, collateral=collateral, policy=None, at=AT, roots=roots, event_log=log)))
        without.append(microseconds(lambda: appraise(quote=quote, collateral=collateral, policy=None, at=AT, roots=roots)))
    more = min(with_log) - min(without)
    typical = statistics.median(with_log) - statistics.median(without)
    return Row(
        id=IDS[2],
        value=more,
        unit="µs CPU",
        reference=f"{EVENTS} events on top of {min(without):.0f} µs; difference of the medians: {typical:.0f} µs",
        ratio=None,
        reach=f"≤ {REACH_OF_LOG_MICROSECONDS:.0f} µs",
        ok=more <= REACH_OF_LOG_MICROSECONDS,
    )
