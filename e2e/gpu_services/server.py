"""Both services behind one HTTPS address on the loopback, with a certificate authority of its own, made at start."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
import threading
from collections import Counter
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from chrysalis.clock import Clock, SystemClock
from e2e.gpu_services.faults import Fault
from e2e.gpu_services.nras import SimulatedNras
from e2e.gpu_services.ocsp import SimulatedOcsp

ATTEST, JWKS, OCSP = "/v4/attest/gpu", "/.well-known/jwks.json", "/ocsp"
MAX_REQUEST_BYTES = 4 * 1024 * 1024
PIECE = b" " * 65536
DRIP_SECONDS = 0.05


class SimulatedGpuServices:
    """NRAS and OCSP; `behave` changes how a path is answered from the next request on.  Thread-safe.

    asked counts requests by path.  folder: where the certificate and its key are written.
    """

    def __init__(self, clock: Clock, folder: Path) -> None:
        self.nras = SimulatedNras(clock)
        self.ocsp = SimulatedOcsp(clock)
        self.asked: Counter[str] = Counter()
        self.ca_file = folder / "gpu-services.pem"
        self._faults: dict[str, Fault] = {}
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*_certificate(folder, self.ca_file))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        """Its base."""
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The broker's settings `gpu` for both services; changes: `nras` and `ocsp` members, None leaves a service out."""
        common = {"caFile": str(self.ca_file), "timeoutSeconds": 20}
        found = {
            "nras": {"url": self.url, "issuer": self.nras.issuer, **common},
            "ocsp": {"url": self.url + OCSP, **common},
        }
        return {name: part | changes.get(name, {}) for name, part in found.items() if changes.get(name, {}) is not None}

    def behave(self, fault: Fault = Fault.NONE, path: str = "") -> None:
        """Answer this path (every one without it) with this fault from now on; requests that hang are let go."""
        for name in [path] if path else [ATTEST, JWKS, OCSP]:
            self._faults[name] = fault
        self._changed.set()
        self._changed = threading.Event()

    def fault(self, path: str) -> Fault:
        """How the path is answered at the moment."""
        return self._faults.get(path, Fault.NONE)

    def wait(self, seconds: float) -> bool:
        """Until the behaviour changes, the server stops, or the time is over; whether it stopped."""
        self._changed.wait(seconds)
        return self._closing.is_set()

    def __enter__(self) -> SimulatedGpuServices:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True, name="gpu-services").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._changed.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(services: SimulatedGpuServices) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def setup(self) -> None:
            super().setup()
            if isinstance(self.connection, ssl.SSLSocket):
                with contextlib.suppress(OSError):
                    self.connection.do_handshake()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            self._answer(self.rfile.read(length) if length <= MAX_REQUEST_BYTES else b"")

        def _answer(self, body: bytes) -> None:
            services.asked[self.path] += 1
            fault = services.fault(self.path)
            with contextlib.suppress(OSError):  # the client had enough
                self._misbehave(fault, body)

        def _good(self, fault: Fault, body: bytes) -> tuple[bytes | None, str]:
            if self.path == JWKS:
                return b'{"keys": []}' if fault is Fault.NO_KEYS else services.nras.jwks.encode(), "application/json"
            if self.path == ATTEST:
                return services.nras.answer(body, fault), "application/json"
            if self.path == OCSP and self.headers.get("content-type") == "application/ocsp-request":
                return services.ocsp.answer(body, fault), "application/ocsp-response"
            return None, ""

        def _misbehave(self, fault: Fault, body: bytes) -> None:
            good, kind = self._good(fault, body)
            statuses = {Fault.FAIL: 500, Fault.REFUSE: 400, Fault.MISSING: 404, Fault.THROTTLE: 429}
            if fault in statuses:
                self._send(statuses[fault], b"{}")
            elif fault is Fault.HANG:
                self.close_connection = True
                services.wait(30)
            elif fault is Fault.DROP:
                self.close_connection = True
            elif fault is Fault.GARBAGE:
                self._send(200, os.urandom(2048), kind)
            elif fault is Fault.EMPTY:
                self._send(200, b"", kind)
            elif fault is Fault.REDIRECT:
                self._send(302, b"", kind, {"Location": f"{services.url}{self.path}x"})
            elif fault in (Fault.HUGE, Fault.HUGE_STATED):
                self._huge(kind, stated=fault is Fault.HUGE_STATED)
            elif fault is Fault.DRIP:
                self._drip(good or b"{}", kind)
            elif fault is Fault.PAGE:
                self._send(200, b"<html>Please log in</html>", "text/html")
            elif fault is Fault.PACKED:
                self._send(200, good or b"", kind, {"Content-Encoding": "gzip"})
            elif good is None:
                self._send(400, b"{}")
            else:
                self._send(200, good, kind)

        def _send(self, status: int, body: bytes, kind: str = "application/json", headers: dict[str, str] | None = None) -> None:
            self._head(status, kind, (headers or {}) | {"Content-Length": str(len(body))})
            self.wfile.write(body)

        def _head(self, status: int, kind: str, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Type": kind} | headers).items():
                self.send_header(name, value)
            self.end_headers()

        def _huge(self, kind: str, *, stated: bool) -> None:
            self.close_connection = True
            self._head(200, kind, {"Content-Length": str(1 << 30)} if stated else {})
            for _ in range(1 << 14):
                if services.wait(0):
                    return
                self.wfile.write(PIECE)

        def _drip(self, body: bytes, kind: str) -> None:
            self.close_connection = True
            self._head(200, kind, {"Content-Length": str(len(body))})
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if services.wait(DRIP_SECONDS):
                    return

    return Handler


def _certificate(folder: Path, authority_file: Path) -> tuple[str, str]:
    """Write a self-signed certificate for the loopback; the paths of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Simulated GPU services")])
    now = SystemClock().now()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_file = folder / "gpu-services.key"
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    authority_file.write_bytes(made.public_bytes(Encoding.PEM))
    return str(authority_file), str(key_file)
