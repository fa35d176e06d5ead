"""The demo's step about real evidence: its last line says what was shown, and nothing that was skipped."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest

from e2e import cache
from e2e.demo import evidence
from e2e.demo.story import Console

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("there", [True, False], ids=["with later collateral", "without"])
def test_what_was_skipped_is_not_claimed(there: bool, vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRYSALIS_VECTORS", str(vectors))
    found = evidence.samples.find(cache.root())
    later = found.later_collateral if there else None
    monkeypatch.setattr(evidence.samples, "find", lambda _: dataclasses.replace(found, later_collateral=later))
    said = io.StringIO()
    proved = evidence.real_evidence(Console(stream=said))
    assert ("out of date" in proved, "TcbOutOfDate" in said.getvalue(), "SKIPPED" in said.getvalue()) == (there, there, not there)
    assert "after one flipped bit" in proved
