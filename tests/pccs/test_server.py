"""The PCCS for tests: its control path, what it keeps over a restart, its two channels, and the program itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from chrysalis.clock import ManualClock
from e2e.pccs.faults import Fault, Misbehaviour
from e2e.pccs.server import FaultyPccs
from e2e.pccs.sources import FileSource, SimulatedSource
from e2e.simtd.pki import SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]
PLATFORM = SimulatedPlatform.create()
TCB = "/tdx/certification/v4/tcb?fmspc=51d000000000"


def source() -> SimulatedSource:
    return SimulatedSource(PLATFORM, ManualClock(AT))


def get(pccs: FaultyPccs, path: str) -> httpx.Response:
    return httpx.get(f"{pccs.url}{path}", timeout=60)


def put(pccs: FaultyPccs, document: Any) -> httpx.Response:
    return httpx.put(f"{pccs.url}/control", content=json.dumps(document), timeout=60)


def test_it_is_told_over_the_control_path() -> None:
    with FaultyPccs(source()) as pccs:
        assert get(pccs, TCB).status_code == 200
        assert put(pccs, {"fault": "fail", "documents": ["tcbInfo"]}).status_code == 200
        assert get(pccs, TCB).status_code == 500
        assert get(pccs, "/tdx/certification/v4/qe/identity").status_code == 200
        state = get(pccs, "/control").json()
        assert (state["fault"], state["documents"]) == ("fail", ["tcbInfo"])
        assert state["asked"] == {"/tdx/certification/v4/tcb": 2, "/tdx/certification/v4/qe/identity": 1}
        assert put(pccs, {"fault": "none"}).status_code == 200
        assert get(pccs, TCB).status_code == 200


@pytest.mark.parametrize("document", [{}, {"fault": "sing"}, {"fault": "fail", "documents": ["all"]}, [], {"fault": "fail", "days": "x"}])
def test_it_refuses_what_it_does_not_know(document: Any) -> None:
    with FaultyPccs(source()) as pccs:
        assert put(pccs, document).status_code == 400
        assert pccs.misbehaviour == Misbehaviour()


def test_the_told_behaviour_outlives_a_restart(tmp_path: Path) -> None:
    with FaultyPccs(source(), state=tmp_path) as pccs:
        pccs.behave(Fault.ROLL_BACK, "pckCrl")
        told = pccs.misbehaviour
    with FaultyPccs(source(), state=tmp_path) as pccs:
        assert pccs.misbehaviour == told


def test_the_early_channel_is_ahead() -> None:
    with FaultyPccs(source()) as pccs:
        numbers = [get(pccs, f"{TCB}&update={channel}").json()["tcbInfo"]["tcbEvaluationDataNumber"] for channel in ("standard", "early")]
    assert numbers[0] < numbers[1]


def test_files_are_served_newest_first_and_roll_back_to_the_oldest(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        (tmp_path / f"{day}.json").write_text(PLATFORM.collateral(AT.replace(day=day)))
    with FaultyPccs(FileSource(tmp_path)) as pccs:
        assert get(pccs, TCB).json()["tcbInfo"]["issueDate"] == "2026-11-03T00:00:00Z"
        pccs.behave(Fault.ROLL_BACK)
        assert get(pccs, TCB).json()["tcbInfo"]["issueDate"] == "2026-11-01T00:00:00Z"
        assert get(pccs, "/tdx/certification/v4/tcb?fmspc=00906ed50000").status_code == 404
        assert get(pccs, "/simulated/root.der").status_code == 404


def test_a_list_is_hex_unless_der_is_asked_for() -> None:
    with FaultyPccs(source()) as pccs:
        path = "/sgx/certification/v4/pckcrl?ca=platform"
        lists = [bytes.fromhex(get(pccs, path).text), get(pccs, f"{path}&encoding=der").content]
        assert [x509.load_der_x509_crl(der).last_update_utc.day for der in lists] == [1, 1]
        assert get(pccs, "/simulated/root.der").content == PLATFORM.root_der


def test_the_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "e2e.pccs", "--listen", "127.0.0.1:0", "--state", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        url = process.stderr.readline().rsplit(" ", 1)[1].strip()
        assert httpx.get(f"{url}{TCB}", timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
