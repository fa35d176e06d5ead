"""The process that plays the hardware: evidence over REST, collateral like a PCCS, and a domain in a real network namespace."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.clock import ManualClock, SystemClock
from e2e.mortal import mortal
from e2e.simtd import platform as simulated
from e2e.simtd import runtime
from e2e.simtd.pki import SimulatedPlatform
from e2e.simtd.platform import Guests, collateral_handler

pytestmark = pytest.mark.slow

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]
PLATFORM = SimulatedPlatform.create()


def get(url: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


@pytest.fixture
def pccs() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), collateral_handler(PLATFORM, ManualClock(AT)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(pccs: str) -> Collateral:
    """Collateral as a client of the PCS protocol puts it together: documents sliced out of the answers, byte for byte."""
    _, info, info_headers = get(f"{pccs}/tdx/certification/v4/tcb?fmspc=51D000000000&update=standard")
    _, identity, identity_headers = get(f"{pccs}/tdx/certification/v4/qe/identity")
    _, pck_crl, crl_headers = get(f"{pccs}/sgx/certification/v4/pckcrl?ca=platform&encoding=der")
    _, root_crl, _ = get(f"{pccs}/sgx/certification/v4/rootcacrl")

    def slices(body: bytes, member: str) -> tuple[str, str]:
        found = re.fullmatch(rf'{{"{member}":(.*),"signature":"([0-9a-f]+)"}}', body.decode(), re.DOTALL)
        assert found
        return found[1], found[2]

    tcb_info, tcb_signature = slices(info, "tcbInfo")
    qe_identity, qe_signature = slices(identity, "enclaveIdentity")
    document = {
        "pck_crl_issuer_chain": unquote(crl_headers["SGX-PCK-CRL-Issuer-Chain"]),
        "root_ca_crl": root_crl.decode(),
        "pck_crl": pck_crl.hex(),
        "tcb_info_issuer_chain": unquote(info_headers["TCB-Info-Issuer-Chain"]),
        "tcb_info": tcb_info,
        "tcb_info_signature": tcb_signature,
        "qe_identity_issuer_chain": unquote(identity_headers["SGX-Enclave-Identity-Issuer-Chain"]),
        "qe_identity": qe_identity,
        "qe_identity_signature": qe_signature,
    }
    return Collateral.from_json(json.dumps(document))


def test_the_pccs_serves_what_a_verifier_needs(pccs: str) -> None:
    bundle = fetch(pccs)
    assert appraise(quote=PLATFORM.quote(), collateral=bundle, policy=None, at=AT, roots=[PLATFORM.root_der]).accepted


def test_the_root_and_the_reference_values_are_served(pccs: str) -> None:
    for path in ("/root", "/simulated/root.der"):
        assert get(pccs + path)[:2] == (200, PLATFORM.root_der)
    assert json.loads(get(pccs + "/simulated/firmware.json")[1]) == PLATFORM.reference_values()


@pytest.mark.parametrize("path", ["/", "/tdx/certification/v4/tcb?fmspc=00906ED50000", "/tdx/certification/v4/tcb", "/etc/passwd"])
def test_what_the_pccs_does_not_have(pccs: str, path: str) -> None:
    assert get(pccs + path)[0] == 404


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A domain's evidence service on a free loopback port of this namespace."""
    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(simulated, "listen_inside", lambda netns, address: listener)
    guests = Guests(PLATFORM)
    guests.start("sandbox1", "/unused", b"\7" * 48)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    guests.stop_all()


REPORT_DATA = hashlib.sha512(b"session").digest()


def query(data: bytes) -> str:
    return quote(base64.b64encode(data).decode(), safe="")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"runtime_data={query(REPORT_DATA)}&encoding=base64", REPORT_DATA),
        (f"runtime_data={base64.b64encode(REPORT_DATA).decode()}&encoding=base64", REPORT_DATA),
        (f"runtime_data={query(b'short')}&encoding=base64", b"short".ljust(64, b"\0")),
        ("runtime_data=plain", b"plain".ljust(64, b"\0")),
        ("", bytes(64)),
    ],
)
def test_evidence_carries_the_runtime_data(guest: str, words: str, expected: bytes) -> None:
    status, body, _ = get(f"{guest}/aa/evidence?{words}")
    assert status == 200
    document = json.loads(body)
    assert sorted(document) == ["cc_eventlog", "quote"]
    verdict = appraise(
        quote=base64.b64decode(document["quote"]),
        collateral=Collateral.from_json(PLATFORM.collateral(AT)),
        policy=None,
        at=AT,
        roots=[PLATFORM.root_der],
        report_data=expected,
        event_log=base64.b64decode(document["cc_eventlog"]),
    )
    assert verdict.accepted, verdict.reasons
    assert verdict.measurements["mrconfigid"] == "07" * 48


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/aa/evidence?runtime_data={query(bytes(65))}&encoding=base64", 400),
        (f"/aa/evidence?runtime_data={'x' * 65}", 400),
        ("/aa/evidence?runtime_data=%25%25&encoding=base64", 400),
        ("/aa/token", 404),
        ("/", 404),
    ],
)
def test_what_the_guest_refuses(guest: str, path: str, status: int) -> None:
    assert get(guest + path)[0] == status


def test_no_answer_holds_a_private_key(pccs: str, guest: str) -> None:
    for url in (f"{guest}/aa/evidence", f"{pccs}/root", f"{pccs}/simulated/firmware.json", f"{pccs}/tdx/certification/v4/qe/identity"):
        assert b"PRIVATE" not in get(url)[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED: a network namespace needs root")
def test_a_domain_in_a_network_namespace_of_its_own() -> None:
    with tempfile.TemporaryDirectory() as state:  # short: a unix socket's path has 107 bytes at most
        pod = subprocess.Popen(
            mortal("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"), stdout=subprocess.PIPE
        )
        words = mortal(sys.executable, "-m", "e2e.simtd.platform", "--state", state, "--listen", "127.0.0.1:0")
        paths = {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
        hardware = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, **paths})
        try:
            assert pod.stdout is not None
            assert hardware.stderr is not None
            assert pod.stdout.readline() == b"up\n"
            found = re.search(r"http://127\.0\.0\.1:\d+", hardware.stderr.readline())
            assert found
            netns = f"/proc/{pod.pid}/ns/net"
            runtime.ask(state, {"op": "start", "sandbox": "s1", "netns": netns, "mrconfigid": "09" * 48})
            evidence = "http://127.0.0.1:8006/aa/evidence?runtime_data=x"
            program = f"from urllib.request import urlopen; print(urlopen('{evidence}', timeout=30).read().decode())"
            enter = ["nsenter", f"--net={netns}", sys.executable, "-c", program]
            document = json.loads(subprocess.run(enter, capture_output=True, check=True, text=True).stdout)
            now = SystemClock().now()
            root = get(f"{found[0]}/root")[1]
            verdict = appraise(quote=base64.b64decode(document["quote"]), collateral=fetch(found[0]), policy=None, at=now, roots=[root])
            assert verdict.accepted, verdict.reasons
            assert verdict.measurements["mrconfigid"] == "09" * 48
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", 8006), timeout=30)  # not in this namespace
            runtime.ask(state, {"op": "stop", "sandbox": "s1"})
            assert subprocess.run(enter, capture_output=True).returncode != 0
            with pytest.raises(runtime.Denied, match="Error: "):
                runtime.ask(state, {"op": "start", "sandbox": "s2", "netns": "/proc/0/ns/net", "mrconfigid": "09" * 48})
        finally:
            for process in (hardware, pod):
                process.terminate()
                process.wait(60)
                for stream in (process.stdout, process.stderr):
                    if stream is not None:
                        stream.close()


ASK_NVML = """
import asyncio
from chrysalis_worker.nvml import NvmlGpus
async def ask():
    source = NvmlGpus()
    print(len(await source.gpus(bytes(32))), await source.ready())
    await source.set_ready(True)
asyncio.run(ask())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED: a network namespace needs root")
def test_the_simulated_nvml_of_a_domain_asks_the_service_of_that_domain() -> None:
    """Two domains of one platform: each has GPUs and a ready state of its own, and sees them at the guest's usual place."""
    with tempfile.TemporaryDirectory() as state:
        words = mortal("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 600")
        pods = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2)]
        paths = {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'worker-image'}:{ROOT}"}
        words = mortal(sys.executable, "-m", "e2e.simtd.platform", "--state", state, "--listen", "127.0.0.1:0", "--gpus", 2)
        hardware = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, **paths})
        try:
            assert hardware.stderr is not None
            assert "Simulated TDX platform" in hardware.stderr.readline()
            said: list[str] = []
            for number, pod in enumerate(pods):
                assert pod.stdout is not None
                assert pod.stdout.readline() == b"up\n"
                netns = f"/proc/{pod.pid}/ns/net"
                runtime.ask(state, {"op": "start", "sandbox": f"s{number}", "netns": netns, "mrconfigid": "09" * 48})
                enter = ["nsenter", f"--net={netns}", sys.executable, "-c", ASK_NVML]
                inside = subprocess.run(enter, capture_output=True, text=True, env={**os.environ, **paths, "LD_LIBRARY_PATH": state})
                said.append(inside.stdout + inside.stderr[-300:])
            assert said == ["2 False\n", "2 False\n"]
        finally:
            for process in (hardware, *pods):
                process.terminate()
                process.wait(60)
                for stream in (process.stdout, process.stderr):
                    if stream is not None:
                        stream.close()
