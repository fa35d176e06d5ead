"""The PCCS itself, for tests in the process and as a program (`python -m e2e.pccs`).

Control: PUT /control with {"fault": "hang", "documents": ["tcbInfo"], "days": 3} (faults.Fault), GET /control for what it
does and how often each path was asked.  The simulated platform's root is at /simulated/root.der.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import threading
from collections import Counter
from datetime import timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from e2e.pccs.answers import Asked, HttpAnswer, answer, asked, missing
from e2e.pccs.faults import Fault, Misbehaviour
from e2e.pccs.sources import SimulatedSource, Source
from e2e.simtd.pki import CollateralShape, SimulatedPlatform

GIGABYTE = 1 << 30
PIECE = 64 * 1024
DRIP_SECONDS = 0.05
CONTROL_FILE = "control.json"
MAX_CONTROL_BYTES = 64 * 1024


class FaultyPccs:
    """A PCCS over a source of documents; `behave` changes how it answers from the next request on.  Thread-safe.

    asked counts requests by path.  sent counts the bytes of bodies that a client has taken.
    """

    def __init__(self, source: Source, address: tuple[str, int] = ("127.0.0.1", 0), state: Path | None = None) -> None:
        self.source = source
        self.asked: Counter[str] = Counter()
        self.sent = 0
        self.closing = threading.Event()
        self._misbehaviour = Misbehaviour()
        self._control = None if state is None else state / CONTROL_FILE
        if self._control is not None and self._control.exists():
            self._misbehaviour = Misbehaviour.from_dict(json.loads(self._control.read_text()))
        self._forger = cache(SimulatedPlatform.create)
        self._changed = threading.Event()
        self._server = ThreadingHTTPServer(address, _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Its base."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def misbehaviour(self) -> Misbehaviour:
        """What it does wrong at the moment."""
        return self._misbehaviour

    def behave(self, fault: Fault = Fault.NONE, *documents: str, back: timedelta = timedelta(days=1)) -> None:
        """Answer with this fault from now on; requests that hang are let go."""
        self.set(Misbehaviour(fault, frozenset(documents), back))

    def set(self, misbehaviour: Misbehaviour) -> None:
        """The same; kept over a restart where there is a state directory."""
        self._misbehaviour = misbehaviour
        if self._control is not None:
            partial = self._control.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(misbehaviour.to_dict()))
            partial.rename(self._control)
        self._changed.set()
        self._changed = threading.Event()

    def start(self) -> None:
        """Serve on a thread of its own."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True, name="pccs").start()

    def stop(self) -> None:
        """Stop serving and let go of requests that hang."""
        self.closing.set()
        self._changed.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> FaultyPccs:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self, seconds: float) -> None:
        """Until the behaviour changes, the server stops, or the time is over."""
        self._changed.wait(seconds)

    def answer(self, request: Asked, misbehaviour: Misbehaviour) -> HttpAnswer:
        """The answer with the documents that the fault demands; how it is sent is the handler's."""
        back = misbehaviour.back if misbehaviour.fault is Fault.ROLL_BACK else timedelta(0)
        bundle = self.source.bundle(request, back)
        if bundle is None:
            return missing(f"no collateral for {request.fmspc[:16]!r}")
        if misbehaviour.fault is Fault.FORGE:
            shape = CollateralShape(evaluation_data_number=999)
            clock = self.source.clock if isinstance(self.source, SimulatedSource) else None
            if clock is None:
                return missing("only simulated documents are forged")
            bundle = json.loads(self._forger().collateral(clock.now(), shape))
        if misbehaviour.fault is Fault.SPACE:
            bundle = dict(bundle) | {name: bundle[name].replace(":", ": ", 1) for name in ("tcb_info", "qe_identity")}
            bundle |= {name: _flipped(bundle[name]) for name in ("pck_crl", "root_ca_crl")}
        if misbehaviour.fault is Fault.OTHER:
            other = SimulatedPlatform.create(fmspc=bytes.fromhex("00906ed50000"))
            clock = self.source.clock if isinstance(self.source, SimulatedSource) else None
            if clock is None:
                return missing("only simulated documents are exchanged")
            bundle = json.loads(other.collateral(clock.now()))
            request = Asked(request.path, json.loads(bundle["tcb_info"])["fmspc"].upper(), request.ca, request.update, request.der)
        return answer(request, bundle)


def _flipped(crl: str) -> str:
    """A list whose signature's last byte is another one."""
    return crl[:-2] + f"{int(crl[-2:], 16) ^ 1:02x}"


@cache
def bomb() -> bytes:
    """A gigabyte of zeros, compressed: members of 64 MiB, which a decoder unpacks one after the other."""
    return gzip.compress(bytes(1 << 26), 1) * (GIGABYTE >> 26)


def _handler(pccs: FaultyPccs) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "TestPCCS"
        timeout = 60

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            if self.path == "/control":
                state = pccs.misbehaviour.to_dict() | {"asked": dict(pccs.asked), "sent": pccs.sent}
                self._send(HttpAnswer(200, json.dumps(state).encode()))
                return
            if self.path == "/simulated/root.der" and isinstance(pccs.source, SimulatedSource):
                self._send(HttpAnswer(200, pccs.source.platform.root_der, "application/pkix-cert"))
                return
            request = asked(self.path)
            pccs.asked[request.path] += 1
            misbehaviour = pccs.misbehaviour
            if not misbehaviour.concerns(request.path):
                misbehaviour = Misbehaviour()
            with contextlib.suppress(ConnectionError):  # the client had enough
                self._misbehave(misbehaviour, pccs.answer(request, misbehaviour))

        def do_PUT(self) -> None:
            try:
                length = int(self.headers.get("content-length", "0"))
                if self.path != "/control" or not 0 < length <= MAX_CONTROL_BYTES:
                    raise ValueError("only /control takes a body")
                pccs.set(Misbehaviour.from_dict(json.loads(self.rfile.read(length))))
                self._send(HttpAnswer(200, json.dumps(pccs.misbehaviour.to_dict()).encode()))
            except (ValueError, KeyError, TypeError) as error:
                self.close_connection = True
                self._send(HttpAnswer(400, json.dumps({"error": str(error)}).encode()))

        def _misbehave(self, misbehaviour: Misbehaviour, good: HttpAnswer) -> None:
            match misbehaviour.fault:
                case Fault.FAIL | Fault.MISSING | Fault.THROTTLE:
                    status = {Fault.FAIL: 500, Fault.MISSING: 404, Fault.THROTTLE: 429}[misbehaviour.fault]
                    self._send(HttpAnswer(status, b'{"error": "as told"}'))
                case Fault.HANG:
                    self.close_connection = True
                    pccs.wait(60)
                case Fault.DROP:
                    self.close_connection = True
                case Fault.GARBAGE:
                    self._send(HttpAnswer(200, os.urandom(4096), good.content_type, good.headers))
                case Fault.NO_HTTP:
                    self.close_connection = True
                    self.wfile.write(os.urandom(512))
                case Fault.REDIRECT:
                    self._send(HttpAnswer(302, b"", headers={"Location": f"{pccs.url}/elsewhere"}))
                case Fault.HUGE | Fault.HUGE_STATED:
                    self._huge(good, stated=misbehaviour.fault is Fault.HUGE_STATED)
                case Fault.BOMB:
                    self._send(HttpAnswer(200, bomb(), good.content_type, dict(good.headers) | {"Content-Encoding": "gzip"}))
                case Fault.TRUNCATE:
                    self.close_connection = True
                    self._head(good, len(good.body))
                    self._body(good.body[: len(good.body) // 2])
                case Fault.DRIP:
                    self.close_connection = True
                    self._head(good, len(good.body))
                    self._drip(good.body)
                case Fault.DRIP_HEAD:
                    self.close_connection = True
                    self._drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 65536)
                case Fault.PAGE:
                    self._send(HttpAnswer(200, b"<html><body>Please log in</body></html>", "text/html; charset=utf-8", good.headers))
                case Fault.NO_CHAIN:
                    self._send(HttpAnswer(good.status, good.body, good.content_type))
                case _:
                    self._send(good)

        def _send(self, answer: HttpAnswer) -> None:
            self._head(answer, len(answer.body))
            self._body(answer.body)

        def _head(self, answer: HttpAnswer, length: int | None) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            if length is not None:
                self.send_header("Content-Length", str(length))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _body(self, body: bytes) -> None:
            self.wfile.write(body)
            pccs.sent += len(body)

        def _huge(self, good: HttpAnswer, *, stated: bool) -> None:
            self.close_connection = True
            self._head(HttpAnswer(200, b"", good.content_type, good.headers), GIGABYTE if stated else None)
            piece = b" " * PIECE
            for _ in range(GIGABYTE // PIECE):
                if pccs.closing.is_set():
                    return
                self._body(piece)

        def _drip(self, data: bytes) -> None:
            for byte in data:
                self._body(bytes([byte]))
                self.wfile.flush()
                pccs.wait(DRIP_SECONDS)
                if pccs.closing.is_set():
                    return

    return Handler
