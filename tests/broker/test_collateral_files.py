"""Collateral from files: clusters without a way out, files that change, that are old, that have ended, that are junk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chrysalis.attestation import quote
from chrysalis.attestation.anchor import INTEL_ANCHOR, from_der
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.collateral_documents import split
from chrysalis.broker.main import assemble
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import ManualClock

World = Any
DAY = 86400


@pytest.fixture
def file(tmp_path: Path, world: World) -> Path:
    found = tmp_path / "collateral.json"
    found.write_text(world.platform.collateral(world.clock.now()))
    return found


def _alone(world: World, *paths: Path) -> Any:
    """A broker without a PCCS, over the same database."""
    collateral = world.deps.settings.collateral.model_copy(update={"preload": list(paths)})
    return assemble(world.deps.settings.model_copy(update={"collateral": collateral}), clock=world.clock)


def _of(deps: Any, world: World) -> Collateral:
    found = deps.collateral.for_quote(quote.parse(world.platform.quote()), from_der(world.platform.root_der), world.clock.now())
    assert isinstance(found, Collateral)
    return found


def test_preload(world: World, file: Path) -> None:
    deps = _alone(world, file)
    assert _of(deps, world) == Collateral.from_json(file.read_text())
    _alone(world, file.parent)  # the same again, as a folder


def test_preload_of_a_file_that_changes(world: World, file: Path) -> None:
    deps = _alone(world, file)
    world.clock.advance(2 * DAY)
    file.write_text(world.platform.collateral(world.clock.now()))
    os.utime(file, ns=(1, 1))
    deps.collateral.refresh()
    assert _of(deps, world) == Collateral.from_json(file.read_text())
    file.write_text("junk")
    before = _of(deps, world)
    deps.collateral.refresh()  # reported, and nothing is lost
    assert _of(deps, world) == before


def test_preload_of_an_older_file_starts_and_reports_it(world: World, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = file.read_text()
    world.clock.advance(2 * DAY)
    file.write_text(world.platform.collateral(world.clock.now()))
    newer = _of(_alone(world, file), world)
    file.write_text(old)
    deps = _alone(world, file)
    assert _of(deps, world) == newer
    assert [r.__dict__["reason"] for r in caplog.records if r.__dict__.get("event") == "CollateralPreload"] == ["CollateralRolledBack"] * 4


def test_preload_of_an_ended_file_starts_and_reports_it(world: World, file: Path) -> None:
    world.clock.advance(40 * DAY)
    deps = _alone(world, file)
    with pytest.raises(BrokerError) as caught:
        _of(deps, world)
    assert caught.value.reason == BrokerReason.COLLATERAL_MISSING


def _spoiled(text: str) -> str:
    document = json.loads(text)
    document["tcb_info"] += " "
    return json.dumps(document)


@pytest.mark.parametrize("spoil", [lambda text: "junk", lambda text: "{}", _spoiled], ids=["junk", "no documents", "one space more"])
def test_preload_of_a_bad_file_refuses_to_start(world: World, file: Path, spoil: Callable[[str], str]) -> None:
    file.write_text(spoil(file.read_text()))
    with pytest.raises(BrokerError) as caught:
        _alone(world, file)
    assert caught.value.reason == BrokerReason.SETTINGS_INVALID


def test_preload_of_a_file_that_is_not_there(world: World, tmp_path: Path) -> None:
    with pytest.raises(BrokerError) as caught:
        _alone(world, tmp_path / "nowhere.json")
    assert caught.value.reason == BrokerReason.SETTINGS_INVALID


@pytest.mark.vectors
def test_preload_of_real_collateral(world: World, vectors: Path, tmp_path: Path) -> None:
    path = vectors / "collateral/near-b0c0-2026-08.json"
    collateral = Collateral.from_json(path.read_text())
    clock = ManualClock(max(document.issued for document in split(collateral).values()))
    settings = world.deps.settings
    preloaded = settings.collateral.model_copy(update={"preload": [path]})
    deps = assemble(settings.model_copy(update={"state_dir": tmp_path / "real", "collateral": preloaded}), clock=clock)
    found = deps.collateral.for_quote(quote.parse(quote.read((vectors / "dcap-qvl/tdx_quote").read_bytes())), INTEL_ANCHOR, clock.now())
    assert found == collateral
    assert {row.root for row in deps.collateral.status()} == {"Intel"}
