"""The process that plays the hardware of all Simulated trust domains of one cluster: `python -m e2e.simtd.platform`.

It alone holds the key that signs quotes.  It listens in three places:

- STATE/platform.sock, for the runtime wrapper: start and stop a domain;
- 127.0.0.1:8006 inside each domain's network namespace, as a Kata guest's REST service does:
  GET /aa/evidence?runtime_data=…[&encoding=base64] answers {"quote", "cc_eventlog"}, both base64; with --gpus, what is
  below /simulated/nvml/ answers the domain's SimulatedNvml, the library that stands in for NVIDIA's (nvml.c);
- an address of the host, like a PCCS: its collateral under the paths of Intel's PCS version 4, its root at /simulated/root.der,
  its reference values at /simulated/firmware.json, and the rules that accept its Simulated GPUs at /simulated/gpu-rules.json.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import ctypes
import json
import os
import shutil
import signal
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from chrysalis.clock import Clock, SystemClock
from e2e.pccs import answers as pccs_answers
from e2e.simtd import nvml
from e2e.simtd.gpu_pool import GpuPool
from e2e.simtd.nvml import SimulatedDriver
from e2e.simtd.pki import SimulatedPlatform
from e2e.simtd.runtime import NVML, SOCKET

GUEST_ADDRESS = ("127.0.0.1", 8006)
REPORT_DATA_BYTES = 64
CLONE_NEWNET = 0x40000000
TIMEOUT_SECONDS = 10


class Answering(BaseHTTPRequestHandler):
    """Short JSON or binary answers, no log lines, no waiting for slow clients."""

    protocol_version = "HTTP/1.1"
    server_version = "SimulatedTD"
    timeout = TIMEOUT_SECONDS

    def answer(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def fail(self, status: int, text: str) -> None:
        self.answer(status, json.dumps({"error": text}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: report_data is not for logs."""


class Guests:
    """The running domains: an evidence service in each pod's network namespace."""

    def __init__(self, platform: SimulatedPlatform, gpus: GpuPool | None = None) -> None:
        self._platform = platform
        self._gpus = gpus
        self._servers: dict[str, ThreadingHTTPServer] = {}
        self._lock = threading.Lock()

    def start(self, sandbox: str, netns: str, mrconfigid: bytes) -> None:
        """Open the evidence service of a domain; replaces one of the same name."""
        self.stop(sandbox)
        server = ThreadingHTTPServer(GUEST_ADDRESS, self._handler(mrconfigid), bind_and_activate=False)
        server.daemon_threads = True
        server.socket.close()
        server.socket = listen_inside(netns, GUEST_ADDRESS)
        with self._lock:
            self._servers[sandbox] = server
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True, name=f"guest-{sandbox[:8]}").start()

    def stop(self, sandbox: str) -> None:
        """Close a domain's service; nothing happens when there is none."""
        with self._lock:
            server = self._servers.pop(sandbox, None)
        if server is not None:
            server.shutdown()
            server.server_close()

    def stop_all(self) -> None:
        """Close every service."""
        for sandbox in list(self._servers):
            self.stop(sandbox)

    def _handler(self, mrconfigid: bytes) -> type[BaseHTTPRequestHandler]:
        platform = self._platform
        driver = SimulatedDriver(self._gpus.take()) if self._gpus is not None else None

        class Evidence(Answering):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if self._nvml():
                    return
                if parts.path != "/aa/evidence":
                    self.fail(404, "only /aa/evidence is offered by this Simulated guest")
                    return
                query = parse_qs(parts.query, keep_blank_values=True)
                text = (query.get("runtime_data") or [""])[0]
                try:
                    encoded = (query.get("encoding") or [""])[0] == "base64"
                    data = base64.b64decode(text.replace(" ", "+"), validate=True) if encoded else text.encode()
                    if len(data) > REPORT_DATA_BYTES:
                        raise ValueError(f"runtime_data has {len(data)} bytes; a report carries {REPORT_DATA_BYTES}")
                except (ValueError, binascii.Error) as error:
                    self.fail(400, str(error))
                    return
                made = platform.quote(data.ljust(REPORT_DATA_BYTES, b"\0"), mrconfigid=mrconfigid)
                body = {"quote": base64.b64encode(made).decode(), "cc_eventlog": base64.b64encode(platform.event_log).decode()}
                self.answer(200, json.dumps(body).encode())

            def do_POST(self) -> None:
                if not self._nvml():
                    self.fail(404, "nothing is set in this Simulated guest")

            def _nvml(self) -> bool:
                """Answer the SimulatedNvml; False for any other question, and without GPUs."""
                if driver is None or not self.path.startswith(nvml.PATH):
                    return False
                said = driver.answer(self.command, self.path)
                self.answer(said.status, said.body, "application/octet-stream", **said.headers)
                return True

        return Evidence


def listen_inside(netns: str, address: tuple[str, int]) -> socket.socket:
    """A listening TCP socket that lives in another network namespace; raises OSError.

    setns moves only the calling thread, so a thread of its own enters the namespace, makes the socket and ends.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def inside() -> None:
        try:
            with open(netns, "rb") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns {netns}")
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(16)
            made.append(listener)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def collateral_handler(platform: SimulatedPlatform, clock: Clock, gpus: GpuPool | None = None) -> type[BaseHTTPRequestHandler]:
    """The PCCS's face: PCS version 4 paths, issuer chains as URL-encoded PEM in headers."""

    class Collateral(Answering):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path in ("/simulated/root.der", "/root"):
                self.answer(200, platform.root_der, "application/pkix-cert")
                return
            if path == "/simulated/firmware.json":
                self.answer(200, json.dumps(platform.reference_values()).encode())
                return
            if path == "/simulated/gpu-rules.json" and gpus is not None:
                self.answer(200, json.dumps(gpus.rules()).encode())
                return
            bundle: dict[str, str] = json.loads(platform.collateral(clock.now()))
            found = pccs_answers.answer(pccs_answers.asked(self.path), bundle)
            self.answer(found.status, found.body, found.content_type, **found.headers)

    return Collateral


class Control(socketserver.ThreadingUnixStreamServer):
    """The runtime wrapper's socket: one JSON request and one JSON answer on each connection."""

    daemon_threads = True

    def __init__(self, path: str, guests: Guests) -> None:
        class Request(socketserver.StreamRequestHandler):
            timeout = TIMEOUT_SECONDS

            def handle(self) -> None:
                try:
                    request: dict[str, str] = json.loads(self.rfile.readline(64 * 1024))
                    if request["op"] == "start":
                        guests.start(request["sandbox"], request["netns"], bytes.fromhex(request["mrconfigid"]))
                    elif request["op"] == "stop":
                        guests.stop(request["sandbox"])
                    else:
                        raise ValueError(f"unknown request {request['op']!r}")
                    answer: dict[str, str] = {}
                except (OSError, ValueError, KeyError, TypeError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        super().__init__(path, Request)


def lay_nvml(state: Path, gpus: GpuPool | None) -> None:
    """Put the SimulatedNvml where the runtime wrapper takes it from to show it inside each domain; without GPUs, none is there."""
    place = state / NVML
    place.unlink(missing_ok=True)
    if gpus is not None:
        shutil.copy(nvml.library(), place)
        place.chmod(0o755)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM; the platform's key is made at the first start and kept in STATE/platform.key."""
    parser = argparse.ArgumentParser(prog="simtd-platform", description="Simulated TDX platform (protects nothing)")
    parser.add_argument("--state", type=Path, required=True, help="folder shared with the runtime wrapper; private")
    parser.add_argument("--listen", required=True, help="HOST:PORT of the collateral service")
    parser.add_argument("--gpus", type=int, default=0, help="Simulated GPUs of each domain; their vendor is made anew at each start")
    options = parser.parse_args(argv)
    options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock = SystemClock()
    platform = SimulatedPlatform.load_or_create(options.state, clock.now())
    gpus = GpuPool(options.gpus) if options.gpus else None
    lay_nvml(options.state, gpus)
    guests = Guests(platform, gpus)
    path = options.state / SOCKET
    path.unlink(missing_ok=True)
    host, _, port = options.listen.rpartition(":")
    pccs = ThreadingHTTPServer((host, int(port)), collateral_handler(platform, clock, gpus))
    pccs.daemon_threads = True
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Control(str(path), guests) as control:
        os.chmod(path, 0o600)
        threading.Thread(target=control.serve_forever, daemon=True).start()
        threading.Thread(target=pccs.serve_forever, daemon=True).start()
        print(f"Simulated TDX platform: collateral on http://{host}:{pccs.server_port}", file=sys.stderr, flush=True)
        ended.wait()
        control.shutdown()
    pccs.shutdown()
    guests.stop_all()
    path.unlink(missing_ok=True)
    lay_nvml(options.state, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
