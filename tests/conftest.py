"""Fixtures that every test may use: a clock that stands still and the folder of real vectors."""

from __future__ import annotations

import os
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chrysalis.clock import ManualClock

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 1, 12, 0, tzinfo=UTC))


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of real quotes and collateral; a loud skip without it, a failure in CI when it should be there."""
    folder = Path(os.environ.get("CHRYSALIS_VECTORS") or SHARED / "vectors")
    if (folder / "MANIFEST.json").is_file():
        return folder
    if os.environ.get("CI") == "true" and SHARED.is_dir():
        pytest.fail(f"no MANIFEST.json in {folder}, although {SHARED} is there")
    warnings.warn(f"SKIPPED: no test vectors in {folder}; set CHRYSALIS_VECTORS", stacklevel=1)
    pytest.skip(f"no test vectors in {folder}; set CHRYSALIS_VECTORS")
