"""Step 6: `chrysalis verify` on evidence that Intel's hardware really made."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from e2e import cache
from e2e.demo import samples
from e2e.demo.story import Console, StepFailed, expect

IN_TIME = "2025-07-04T10:16:31Z"
LATER = "2026-08-28T05:21:24Z"
FLIPPED_AT = 600  # inside the TD report, which the quote's signature covers


def real_evidence(console: Console) -> str:
    """Accepted at its time, refused with later collateral, refused after one flipped byte."""
    found = samples.find(cache.root())
    console.say(f"a genuine Intel TDX quote from {found.source}")
    accepted = _verify(found.quote, found.collateral, IN_TIME)
    expect(accepted["verdict"] == "Accepted", f"the genuine quote was not accepted at {IN_TIME}: {accepted['reasons']}")
    console.say(f"at {IN_TIME}: Accepted, TCB {accepted['tcbStatus']}, FMSPC {accepted['fmspc']}, valid until {accepted['expiresAt']}")
    if found.later_collateral is None:
        console.say("SKIPPED: refusal with later collateral; it needs the folder that CHRYSALIS_VECTORS names")
    else:
        late = _verify(found.quote, found.later_collateral, LATER)
        _refused_for(late, "TcbOutOfDate")
        console.say(f"the same quote with collateral of {LATER}: Refused, TcbOutOfDate: {late['reasons'][0]['remedy']}")
    with tempfile.TemporaryDirectory() as folder:
        flipped = bytearray(found.quote.read_bytes())
        flipped[FLIPPED_AT] ^= 0x01
        path = Path(folder) / "flipped"
        path.write_bytes(flipped)
        broken = _verify(path, found.collateral, IN_TIME)
    _refused_for(broken, "SignatureInvalid")
    console.say(f"one bit of byte {FLIPPED_AT} flipped: Refused, SignatureInvalid")
    out_of_date = "" if found.later_collateral is None else "when out of date and "
    return f"a real quote is accepted at its time, refused {out_of_date}after one flipped bit"


def _refused_for(verdict: dict[str, Any], reason: str) -> None:
    first = verdict["reasons"][0]["reason"] if verdict["reasons"] else "no reason"
    expect(verdict["verdict"] == "Refused" and first == reason, f"expected Refused for {reason}, got {verdict['verdict']} for {first}")


def _verify(quote: Path, collateral: Path, at: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "chrysalis.cli.main", "verify", str(quote), "--collateral", str(collateral), "--at", at, "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise StepFailed(f"chrysalis verify ended with {done.returncode}: {done.stderr[-500:]}")
    verdict: dict[str, Any] = json.loads(done.stdout)
    expect((done.returncode == 0) == (verdict["verdict"] == "Accepted"), f"exit {done.returncode} does not fit {verdict['verdict']}")
    return verdict
