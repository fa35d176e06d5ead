"""A machine's clock that is set back: what was noted by the wrong time holds nothing up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chrysalis.attestation.collateral_documents import DocumentKind
from chrysalis.broker.collateral_reasons import DocumentKey
from chrysalis.broker.store import Cause, Store

HOUR, SECONDS = 3600, 15
BEGAN = 10_000


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


@pytest.mark.parametrize(
    ("now", "free"),
    [
        (BEGAN, False),
        (BEGAN - 9, False),  # another replica's clock may be a little behind
        (BEGAN + SECONDS - 1, False),
        (BEGAN + SECONDS, True),  # the time is over
        (BEGAN - HOUR, True),  # it was of before the clock was set back: nobody keeps it, and nobody waits an hour
    ],
)
def test_what_a_dead_replica_held(store: Store, now: int, free: bool) -> None:
    key = DocumentKey("0" * 64, DocumentKind.ROOT_CRL)
    store.request_reappraisal(Cause.COLLATERAL_CHANGED, BEGAN)
    assert store.hold_sweep("dead", BEGAN, SECONDS) is not None
    assert store.claim_collateral([key], "dead", BEGAN, SECONDS) == [key]
    assert (store.hold_sweep("alive", now, SECONDS) is not None) == free
    assert store.claim_collateral([key], "alive", now, SECONDS) == ([key] if free else [])
