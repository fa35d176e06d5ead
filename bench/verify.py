"""verify.real-quote: the full appraisal of a genuine quote against dcap-qvl's own verify on the same input."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import dcap_qvl

from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.clock import parse_rfc3339, unix
from e2e import cache
from e2e.demo import samples
from e2e.demo.evidence import IN_TIME

IDS = ("verify.real-quote",)
ROUNDS = 9
CALLS = 60


def measure() -> list[dict[str, Any]]:
    """Medians of rounds that take turns, so that noise falls on both."""
    found = samples.find(cache.root())
    quote = found.quote.read_bytes()
    text = found.collateral.read_text()
    at = parse_rfc3339(IN_TIME)
    collateral = Collateral.from_json(text)
    theirs = dcap_qvl.QuoteCollateralV3.from_json(text)
    verifier = dcap_qvl.QuoteVerifier(None)
    ours_us: list[float] = []
    theirs_us: list[float] = []
    for _ in range(ROUNDS):
        theirs_us.append(_microseconds(lambda: verifier.verify(quote, theirs, unix(at))))
        ours_us.append(_microseconds(lambda: appraise(quote=quote, collateral=collateral, policy=None, at=at)))
    ours, reference = statistics.median(ours_us), statistics.median(theirs_us)
    return [
        {
            "id": "verify.real-quote",
            "value": ours,
            "unit": "µs",
            "reference": f"dcap-qvl verify: {reference:.0f} µs",
            "ratio": ours / reference,
            "reach": "≤ 1.35 ×",
            "ok": ours / reference <= 1.35,
        }
    ]


def _microseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - started) / CALLS * 1e6
