"""Plain HTTP: /healthz and /readyz for the kubelet, /metrics for Prometheus, on threads of their own.

They answer also when the event loop hangs, which is what /healthz is there to report.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import generate_latest

from chrysalis.clock import Clock
from chrysalis.controller.metrics import Metrics
from chrysalis.controller.runtime import Runtime

STALE_SECONDS = 30.0
"""The event loop is reported dead after this long without a beat."""

Answer = tuple[int, str, bytes]


def paths(runtime: Runtime, clock: Clock, metrics: Metrics) -> tuple[dict[str, Callable[[], Answer]], dict[str, Callable[[], Answer]]]:
    """The paths of the health port and of the metrics port."""

    def healthz() -> Answer:
        if runtime.beat is not None and clock.monotonic() - runtime.beat > STALE_SECONDS:
            return _text(503, "the event loop hangs")
        return _text(503, "a reconciliation hangs") if runtime.stuck() else _text(200, "ok")

    def readyz() -> Answer:
        return _text(200, "ok") if runtime.beat is not None else _text(503, "starting")

    def exposition() -> Answer:
        return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(metrics.registry)

    return {"/healthz": healthz, "/readyz": readyz}, {"/metrics": exposition}


def _text(status: int, text: str) -> Answer:
    return status, "text/plain", text.encode() + b"\n"


class PlainServer:
    """Serves GET for a few fixed paths."""

    def __init__(self, host: str, port: int, answers: Mapping[str, Callable[[], Answer]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # seconds that an idle or slow client may hold its thread

            def do_GET(self) -> None:
                found = answers.get(self.path)
                status, content_type, body = found() if found is not None else _text(404, "not found")
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes are not worth a line each."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name=f"http-{self.port}", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and release the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
