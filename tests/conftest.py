"""Fixtures that every test may use: a clock that stands still and the folder of real vectors."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from chrysalis.clock import ManualClock
from e2e.postgres import Postgres

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# A busy machine is no bug: time is bounded where a test is about time.  With a SEED, the examples are the same each time.
settings.register_profile(
    "chrysalis", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("SEED"))
)
settings.load_profile("chrysalis")


WHOLE = frozenset({"empty", "serve", "go"})
"""Fixtures that play a whole broker, a whole worker's gateway, or the whole way from a worker to its client, for each test."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What such a fixture serves is slow, all together: `make unit` leaves it to `make test`, as the modules that say so of themselves."""
    for item in items:
        if isinstance(item, pytest.Function) and WHOLE.intersection(item.fixturenames):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """A program that a test starts in this process sends the log to what is its standard error then; the next test has another."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    for handler in [one for one in root.handlers if type(one) is logging.StreamHandler and one not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the session; a loud skip where it is not installed, a failure in CI."""
    try:
        server = Postgres()
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            raise
        warnings.warn(f"SKIPPED: {error}", stacklevel=1)
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A new, empty PostgreSQL database."""
    url = postgres.database()
    yield url
    postgres.drop(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database, of either kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'broker.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
