"""The devnet's control over HTTP, on loopback only: what a real network does not have.

GET  /status   {"seqno", "time", "asked", "unlisted", "faults"}
POST /fund     {"address", "nanoton"}     money out of nothing (Simulated)
POST /advance  {"seconds"}                the chain's time moves forward (Simulated)
POST /faults   {"drop_externals", "hold_blocks", "withhold_shard"}
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from chrysalis.errors import ChrysalisError

MAX_BODY_BYTES = 64 * 1024
ANSWER_SECONDS = 30
LOOPBACK = "127.0.0.1"
Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Control:
    """Serves handlers by path from a thread; they run in the loop that made this object."""

    def __init__(self, handlers: dict[str, Handler], port: int = 0) -> None:
        self._handlers, self._loop = handlers, asyncio.get_running_loop()
        control = self

        class Request(BaseHTTPRequestHandler):
            timeout = ANSWER_SECONDS

            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                try:
                    length = int(self.headers.get("Content-Length", "0"))
                    if not 0 <= length <= MAX_BODY_BYTES:
                        raise ValueError("too large")
                    body = json.loads(self.rfile.read(length) or b"{}")
                    if not isinstance(body, dict):
                        raise ValueError("not an object")
                except ValueError as error:
                    self._write(400, {"message": f"the body is no JSON object: {error}"})
                    return
                self._answer(body)

            def _answer(self, body: dict[str, Any]) -> None:
                status, answer = control._call(f"{self.command} {self.path}", body)
                self._write(status, answer)

            def _write(self, status: int, answer: dict[str, Any]) -> None:
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the log is the chain's."""

        self._server = ThreadingHTTPServer((LOOPBACK, port), Request)
        self._thread = threading.Thread(target=self._server.serve_forever, name="devnet-control", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop listening (blocks for a moment)."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _call(self, route: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        handler = self._handlers.get(route)
        if handler is None:
            return 404, {"message": f"no {route}; there are {', '.join(sorted(self._handlers))}"}

        async def run() -> dict[str, Any]:
            return await handler(body)

        try:
            return 200, asyncio.run_coroutine_threadsafe(run(), self._loop).result(ANSWER_SECONDS)
        except ChrysalisError as error:
            return 422, error.as_dict()
        except (KeyError, ValueError, TypeError) as error:
            return 400, {"message": f"the members are not right: {error!r}"}
        except TimeoutError:
            return 504, {"message": "the chain is busy"}
