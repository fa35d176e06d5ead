"""Reasons of states that the other tests do not meet: no source of collateral, no database, too many who watch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chrysalis.broker import collateral_reasons, watch
from chrysalis.broker.database import Database
from chrysalis.broker.reasons import BrokerError


def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path}/broker.db").engine.dispose()
    (tmp_path / "folder").mkdir()
    with pytest.raises(BrokerError) as caught:
        Database(f"sqlite:///{tmp_path}/folder")
    assert caught.value.reason == "DatabaseUnavailable"
    assert caught.value.remedy


def test_every_failure_of_collateral_has_a_remedy() -> None:
    reasons = set(collateral_reasons.CollateralReason)
    assert set(collateral_reasons.REMEDIES) == reasons
    assert "preload" in collateral_reasons.REMEDIES[collateral_reasons.CollateralReason.NO_SOURCE]


def test_watchers_of_one_caller_are_bounded(world: Any) -> None:
    watching = watch.Watching(world.deps.store)
    for _ in range(watch.MAX_WATCHERS_OF_A_CALLER):
        watching.admit("one")
    with pytest.raises(BrokerError) as caught:
        watching.admit("one")
    assert caught.value.reason == "TooManyWatchers"
    watching.admit("two")


def test_evidence_that_is_not_kept_any_more(world: Any, monkeypatch: pytest.MonkeyPatch, reasons: Callable[[Any], list[str]]) -> None:
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    assert world.reading(f"/v1/bundles/{result}").status_code == 200
    monkeypatch.setattr(world.deps.store, "evidence", lambda result_id: None)
    assert reasons(world.reading(f"/v1/bundles/{result}")) == ["EvidenceForgotten"]
