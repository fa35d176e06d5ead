"""The process: configuration errors end it with 2; a signal ends loop and servers in order."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from chrysalis.clock import SystemClock
from chrysalis.settlement import main
from chrysalis.settlement.metrics import Metrics
from chrysalis.settlement.settings import BrokerSettings, Settings


def test_an_unreadable_configuration_is_exit_2(tmp_path: Path) -> None:
    assert main.main(["--config", str(tmp_path / "absent.yaml")]) == 2


class Loop:
    """Stands for the service: beats until it is cancelled."""

    settlers: dict[Any, Any] = {}
    beat = 0.0
    ended = False
    fails = False

    async def run(self) -> None:
        if self.fails:
            raise RuntimeError("broken")
        try:
            await asyncio.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)
        finally:
            self.ended = True


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    broker = BrokerSettings(url="https://b", spki_sha256="00" * 32, ear_key="00" * 32, token_file=tmp_path)
    return Settings(
        state_dir=tmp_path,
        settlement_key_files=[tmp_path],
        reservation_key_file=tmp_path,
        broker=broker,
        host="127.0.0.1",
        port=0,
        health_port=0,
        metrics_port=0,
    )


def test_sigterm_ends_the_loop_and_the_servers(config: Settings) -> None:
    loop = Loop()
    asyncio.run(main._serve(config, loop, Metrics(), SystemClock()))
    assert loop.ended


def test_a_broken_loop_ends_the_process(config: Settings) -> None:
    loop = Loop()
    loop.fails = True
    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(main._serve(config, loop, Metrics(), SystemClock()))
