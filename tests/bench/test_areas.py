"""The areas keep the protocol, and compare like with like."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime

import pytest

from bench import __main__ as program
from bench.admit import HTTP_PORT, phases, plain_argv
from chrysalis_worker.supervisor import ServerCommand

REQUIRED = {
    "verify.real-quote",
    "attest.go-tdx-guest",
    "attest.event-log",
    "mutation.killed",
    "gateway.minilm",
    "admit.single",
    "contract.commit",
    "contract.claim",
    "attest.gpu",
}


@pytest.mark.parametrize("area", program.AREAS)
def test_an_area_names_what_it_measures(area: str) -> None:
    module = importlib.import_module(f"bench.{area}")
    assert module.IDS
    assert all(name.startswith((f"{area}.", "attest.")) for name in module.IDS)  # what attests has several areas
    assert callable(module.measure)


def test_no_required_measurement_is_missing() -> None:
    assert {name for area in program.AREAS for name in importlib.import_module(f"bench.{area}").IDS} >= REQUIRED


def test_the_plain_triton_differs_from_the_workers_in_its_door_only() -> None:
    command = ServerCommand()
    ours, plain = command.argv(), plain_argv(command)
    assert {word for word in plain if word not in ours} == {"--allow-grpc=false", f"--http-port={HTTP_PORT}"}
    assert {word.split("=")[0] for word in ours if word not in plain} == {
        "--allow-http",
        "--grpc-address",
        "--grpc-port",
        "--grpc-restricted-protocol",
    }


def test_phases_are_read_from_an_agents_log() -> None:
    applied = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    log = "\n".join(
        [
            "Python says something that is not JSON",
            '{"time": "2026-01-01T12:00:01.500Z", "event": "phase.reached", "phase": "Started"}',
            '{"time": "2026-01-01T12:00:02.000Z", "event": "gateway.listening"}',
            '{"time": "2026-01-01T12:00:03.250Z", "event": "phase.reached", "phase": "Attested"}',
        ]
    )
    assert phases(log, applied) == {"Started": 1.5, "Attested": 3.25}
    assert phases("", applied) == {}
