"""A real broker process under a flood of bad evidence: a good worker is not delayed beyond a second, memory stays."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from chrysalis.broker.main import assemble
from chrysalis.broker.settings import Settings
from chrysalis.clock import SystemClock
from e2e.mortal import mortal
from e2e.ports import free_port
from tests.broker import conftest as broker_world

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FLOOD_SECONDS = 6.0
MOST_SECONDS = 300.0
"""A flood is ended by the test; by itself it ends after these."""
LEAST_REFUSED = 64
"""Refused evidence, or it was no flood; a slow machine needs longer for it."""
LEAST_SAMPLES = 3
MAX_DELAY_SECONDS = 1.0
MAX_GROWTH_KIB = 128 * 1024
"""Of what the floods hold open at most: connections (TLS buffers) and messages on their way; more of them do not add to it."""
FLOODS = [
    ("127.0.0.2", "quotes", 24),
    ("127.0.0.3", "quotes", 24),
    ("127.0.0.4", "large", 4),
    ("127.0.0.5", "slow", 60),
    ("127.0.0.6", "connections", 80),
]


@dataclass
class Running:
    """A broker process, and a world that talks to it."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int
    world: Any

    def refused(self) -> int:
        """How much evidence it has refused."""
        lines = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60.0).text.splitlines()
        judged = [line for line in lines if line.startswith("chrysalis_broker_attestations_total{") and 'verdict="Refused"' in line]
        return int(sum(float(line.split()[-1]) for line in judged))

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


@pytest.fixture
def running(tmp_path: Path, platform: Any) -> Iterator[Running]:
    clock = SystemClock()
    (tmp_path / "collateral.json").write_text(platform.collateral(clock.now()))
    acme, rival = broker_world.Tenant("acme"), broker_world.Tenant("rival")
    port, metrics_port = free_port(), free_port()
    document = {
        "stateDir": str(tmp_path / "state"),
        "placement": "Development",
        "tenants": [{"name": "acme", "owners": [acme.public.hex()]}, {"name": "rival", "owners": [rival.public.hex()]}],
        "collateral": {"preload": [str(tmp_path / "collateral.json")]},
        "host": "127.0.0.1",
        "port": port,
        "healthPort": free_port(),
        "metricsPort": metrics_port,
    }
    (tmp_path / "broker.yaml").write_text(yaml.safe_dump(document))
    deps = assemble(Settings.model_validate(document), clock=clock)  # makes the keys that the process will use
    command = mortal(sys.executable, "-m", "chrysalis.broker.main", "--config", tmp_path / "broker.yaml", "--log-level", "error")
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=30.0) as http:
            world = broker_world.World(deps, http, clock, platform, None, acme, rival)  # type: ignore[arg-type]
            deadline = time.monotonic() + 120
            while True:
                try:
                    if http.get("/readyz").status_code == 200:
                        break
                except httpx.HTTPError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            for tenant in (acme, rival):
                assert world.put_policy(tenant).status_code == 201
                assert world.put_key(tenant).status_code == 201
            yield Running(process, port, metrics_port, world)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)
        deps.store.close()


def whole_way(running: Running) -> float:
    """Seconds from a good worker's challenge to its key, over a connection of its own."""
    world = running.world
    domain = world.domain(world.acme)
    with httpx.Client(base_url=f"https://127.0.0.1:{running.port}", verify=False, timeout=30.0) as http:
        started = time.monotonic()
        nonce = http.post("/v1/challenge").json()["nonce"]
        evidence = domain.evidence(nonce).model_dump_json(by_alias=True)
        result = http.post("/v1/attest", content=evidence)
        assert result.status_code == 200, result.text
        body = {"schemaVersion": "chrysalis/v1", "resultId": result.json()["resultId"]}
        assert http.post("/v1/keys/acme:release", json=body).status_code == 200
        return time.monotonic() - started


def starvation() -> float:
    """How many times as long as alone a piece of work takes: the flood runs on the same machine, and so may much else."""
    started, worked = time.monotonic(), time.thread_time()
    while time.thread_time() - worked < 0.02:
        pass
    return (time.monotonic() - started) / 0.02


def test_a_flood_does_not_delay_a_good_worker(running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = tmp_path / "evidence.json"
    evidence.write_text(running.world.domain(running.world.rival).evidence().model_dump_json(by_alias=True))
    alone = [whole_way(running) for _ in range(8)]
    before = running.memory_kib()
    floods = [
        subprocess.Popen(
            mortal(
                sys.executable, "-m", "e2e.flood", "--port", running.port, "--source", source, "--kind", kind,
                "--connections", connections, "--seconds", MOST_SECONDS, "--evidence", evidence,
            ),
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for source, kind, connections in FLOODS
    ]  # fmt: skip
    time.sleep(1.0)
    under, starved = [], []
    began = time.monotonic()
    while time.monotonic() < began + FLOOD_SECONDS or len(under) < LEAST_SAMPLES or running.refused() < LEAST_REFUSED:
        assert time.monotonic() < began + MOST_SECONDS, "this was no flood"
        under.append(whole_way(running))
        starved.append(starvation())
        time.sleep(0.1)
    growth = running.memory_kib() - before
    for flood in floods:
        flood.terminate()
    said = [json.loads(flood.communicate(timeout=60)[0]) for flood in floods]
    busy = max(1.0, statistics.median(starved))
    delays = [(seconds - statistics.median(alone)) / max(busy, here) for seconds, here in zip(under, starved, strict=True)]
    with capsys.disabled():
        print(f"\nalone {statistics.median(alone):.3f} s; under flood median {statistics.median(under):.3f} s,")
        print(f"worst {max(under):.3f} s of {len(under)}; growth {growth} KiB; the machine was {busy:.1f} times too busy")
        for (source, kind, _), answers in zip(FLOODS, said, strict=True):
            print(f"  {source} {kind}: {answers}")
    assert sum(count for answers in said for answer, count in answers.items() if answer.endswith(" 429")) > 0, "nobody was slowed down"
    assert max(delays) <= MAX_DELAY_SECONDS
    assert growth < MAX_GROWTH_KIB
    assert running.process.poll() is None
    assert whole_way(running) < 2.0 * max(1.0, starvation())
