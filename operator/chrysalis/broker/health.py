"""Plain HTTP for the cluster: /healthz and /readyz for kubelet, /metrics for Prometheus; threads of their own.

They answer also when the event loop does not, which is what /healthz is there to report.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

log = logging.getLogger(__name__)

Check = Callable[[], tuple[int, str, bytes]]
"""Gives status, content type and body."""


MAX_CONNECTIONS = 128
"""At once, each with a thread; what is beyond is closed, so that a flood of this port takes nothing of the broker's memory."""


class _Bounded(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """A client that goes away is not worth a word; of anything else the class is, whose text could hold a secret."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("a plain port failed", extra={"event": "PlainPortFailed", "error": type(error).__name__})


class PlainServer:
    """Serves GET for a few fixed paths."""

    def __init__(self, host: str, port: int, paths: Mapping[str, Check]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # seconds that an idle or slow client may hold its thread

            def do_GET(self) -> None:
                check = paths.get(self.path)
                status, content_type, body = check() if check is not None else (404, "text/plain", b"not found\n")
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes are not worth a line each."""

        self._server = _Bounded((host, port), Handler)
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
