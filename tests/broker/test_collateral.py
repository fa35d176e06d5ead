"""The cache of collateral: never back, kept while it lives, replaced only by what evidence proved genuine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chrysalis.attestation.collateral import Collateral
from chrysalis.broker.collateral import authority, older
from chrysalis.broker.main import assemble
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import ManualClock
from e2e.simtd.pki import CollateralShape, SimulatedPlatform, Tampering

World = Any
Reasons = Callable[[Any], list[str]]
FMSPC, DAY = "51D000000000", 86400


def at(world: World, **shape: Any) -> Collateral:
    return Collateral.from_json(world.platform.collateral(world.clock.now(), CollateralShape(**shape)))


def stored(world: World) -> Collateral | None:
    found = world.deps.store.collateral(FMSPC, "platform", "standard")
    return None if found is None else Collateral.from_json(found[0])


def attest(world: World) -> Any:
    return world.attest(world.domain(world.acme))


def test_fetched_once_then_refreshed_at_half_life(world: World) -> None:
    attest(world)
    assert world.pccs.fetched == 1
    for _ in range(11):  # 30 days of life; half of it less a fifth is day 12
        world.clock.advance(DAY)
        attest(world)
    assert world.pccs.fetched == 1
    world.clock.advance(8 * DAY)
    before = stored(world)
    assert attest(world).status_code == 200
    assert world.pccs.fetched == 2
    assert stored(world) != before


def test_an_outage_shorter_than_the_life_refuses_nobody(world: World, reasons: Reasons) -> None:
    attest(world)
    world.pccs.down = True
    world.clock.advance(29 * DAY)
    assert attest(world).status_code == 200
    world.clock.advance(2 * DAY)
    assert reasons(attest(world)) == ["CollateralExpired"]
    world.pccs.down = False
    world.clock.advance(60)
    assert attest(world).status_code == 200


def test_without_any_collateral_it_is_temporary(world: World, reasons: Reasons) -> None:
    world.pccs.down = True
    answer = attest(world)
    assert (answer.status_code, reasons(answer)) == (503, ["CollateralUnavailable"])
    assert answer.headers["retry-after"]
    attest(world)
    assert world.pccs.fetched == 1  # not asked again at once
    world.pccs.down = False
    world.clock.advance(31)
    assert attest(world).status_code == 200


def test_a_broker_without_pccs_says_so(world: World, clock: ManualClock, reasons: Reasons) -> None:
    deps = assemble(world.deps.settings, clock=clock)
    with pytest.raises(BrokerError) as caught:
        deps.collateral.candidates(FMSPC, "platform")
    assert caught.value.reason == BrokerReason.COLLATERAL_MISSING


def _later(world: World) -> None:
    attest(world)
    world.clock.advance(20 * DAY)


def test_older_documents_are_ignored(world: World) -> None:
    old = at(world)
    world.clock.advance(DAY)
    _later(world)
    before = stored(world)
    world.pccs.shown = old
    assert attest(world).status_code == 200
    assert stored(world) == before
    fetches = world.deps.metrics.collateral_fetches.labels("older")
    assert fetches._value.get() == 1


def test_a_forged_answer_neither_refuses_nor_sticks(world: World, platform: SimulatedPlatform) -> None:
    _later(world)
    before = stored(world)
    forger = SimulatedPlatform.create()
    world.pccs.shown = Collateral.from_json(forger.collateral(world.clock.now(), CollateralShape(evaluation_data_number=999)))
    assert attest(world).status_code == 200
    assert stored(world) == before
    # and the genuine documents are still taken, although their number is lower than the forger's
    world.pccs.shown = None
    world.clock.advance(DAY)
    assert attest(world).status_code == 200
    assert stored(world) != before


def test_a_recovery_counts_at_once(world: World, reasons: Reasons) -> None:
    _later(world)
    world.pccs.shown = at(world, status="OutOfDate", evaluation_data_number=21)
    assert reasons(attest(world)) == ["TcbOutOfDate"]
    assert stored(world) == world.pccs.shown
    world.pccs.shown = at(world, evaluation_data_number=20)  # the wish to go back
    world.clock.advance(20 * DAY)
    assert reasons(attest(world)) == ["TcbOutOfDate"]


def test_refresh_fetches_ahead(world: World) -> None:
    attest(world)
    world.deps.collateral.refresh()
    assert world.pccs.fetched == 1
    world.clock.advance(20 * DAY)
    world.deps.collateral.refresh()
    assert world.pccs.fetched == 2
    before = stored(world)
    world.pccs.down = True
    assert attest(world).status_code == 200
    assert stored(world) != before
    world.clock.advance(20 * DAY)
    world.deps.collateral.refresh()  # says nothing, the stored one is kept


NOW = datetime(2026, 11, 10, tzinfo=UTC)


def made(platform: SimulatedPlatform, issue: datetime = NOW, **shape: Any) -> Collateral:
    return Collateral.from_json(json.dumps(platform.documents(issue, CollateralShape(**shape))))


def _qe(**members: Any) -> Tampering:
    return Tampering(edit=lambda info, identity: identity.update(members))


def test_each_part_is_compared(platform: SimulatedPlatform) -> None:
    held, day = made(platform), timedelta(days=1)
    new = made(platform, NOW + day)
    assert not older(held, held)
    assert not older(new, held)
    assert older(held, new)
    back = made(platform, NOW - day)
    for part in ("tcb_info", "qe_identity", "pck_crl", "root_ca_crl"):
        assert older(replace(held, **{part: getattr(back, part)}), held), part
    assert older(made(platform, evaluation_data_number=1), held)
    assert older(made(platform, tampering=_qe(tcbEvaluationDataNumber=1)), held)


def test_authorities(platform: SimulatedPlatform) -> None:
    assert authority(platform.pck_chain.encode(), issuer=True) == "platform"
    assert authority(made(platform).pck_crl_issuer_chain.encode(), issuer=False) == "platform"


def test_preload(world: World, tmp_path: Path, clock: ManualClock) -> None:
    file = tmp_path / "collateral.json"
    file.write_text(at(world).to_json())
    collateral = world.deps.settings.collateral.model_copy(update={"preload": [file]})
    configuration = world.deps.settings.model_copy(update={"collateral": collateral})
    deps = assemble(configuration, clock=clock)
    assert deps.collateral.candidates(FMSPC.lower(), "platform")[0].stored
    assemble(configuration, clock=clock)  # the same again
    old = at(world)
    clock.advance(2 * DAY)
    file.write_text(at(world).to_json())
    assemble(configuration, clock=clock)
    file.write_text(old.to_json())
    with pytest.raises(BrokerError) as caught:
        assemble(configuration, clock=clock)
    assert caught.value.reason == BrokerReason.COLLATERAL_ROLLED_BACK
    for text in ("junk", "{}"):
        file.write_text(text)
        with pytest.raises(BrokerError) as caught:
            assemble(configuration, clock=clock)
        assert caught.value.reason == BrokerReason.SETTINGS_INVALID
