"""Plain HTTP for the cluster: /healthz and /readyz for kubelet, /metrics for Prometheus; threads of their own.

They answer also when the event loop does not, which is what /healthz is there to report.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Check = Callable[[], tuple[int, str, bytes]]
"""Gives status, content type and body."""


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
