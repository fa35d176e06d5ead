"""HTTP servers of the worker: the gateway's over RA-TLS, and plain ones for probes and metrics.

The listening context carries no certificate.  At each handshake the current session's context takes over, so a renewed
certificate serves the next connection while earlier connections stay with theirs; before the first session, handshakes fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from chrysalis_worker.gateway import STATE_SESSION
from chrysalis_worker.session import Session, server_context

FIRST_REQUEST_SECONDS = 15.0
"""A connection that has not sent its first request by then is closed."""
KEEP_ALIVE_SECONDS = 75
MAX_CONNECTIONS = 512
MAX_HEADER_BYTES = 32 * 1024
SHUTDOWN_SECONDS = 1


class Sessions:
    """Which session a connection belongs to."""

    def __init__(self) -> None:
        self._current: Session | None = None
        self._by_context: WeakKeyDictionary[ssl.SSLContext, Session] = WeakKeyDictionary()
        self.context = server_context(None, None)
        self.context.sni_callback = self._choose

    def replace(self, session: Session) -> None:
        """Serve new connections under this session."""
        self._by_context[session.context] = session
        self._current = session

    def of(self, connection: object) -> Session | None:
        """The session of an established TLS connection."""
        context = getattr(connection, "context", None)
        return self._by_context.get(context) if isinstance(context, ssl.SSLContext) else None

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        if self._current is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current.context
        return None


def _protocol(sessions: Sessions) -> type[asyncio.Protocol]:
    """uvicorn's HTTP/1.1 with the session put into each request's state and a deadline for the first request."""

    class RaTlsProtocol(H11Protocol):
        _first: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            self.app_state = {**self.app_state, STATE_SESSION: sessions.of(transport.get_extra_info("ssl_object"))}
            self._first = asyncio.get_running_loop().call_later(FIRST_REQUEST_SECONDS, self._late)

        def handle_events(self) -> None:
            super().handle_events()
            if getattr(self, "cycle", None) is not None:
                self._forget()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _late(self) -> None:
            if getattr(self, "cycle", None) is None:
                self.transport.close()

        def _forget(self) -> None:
            if self._first is not None:
                self._first.cancel()
                self._first = None

    return RaTlsProtocol


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the agent decides when to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Serving:
    """A running server."""

    def __init__(self, app: Starlette, *, host: str, port: int, sessions: Sessions | None = None) -> None:
        """Binds at once (port 0: any); raises OSError when the port is taken."""
        # asyncio turns Nagle's algorithm off only where the protocol is named; with it each answer waits 40 ms for an ACK.
        self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        options: dict[str, Any] = {}
        if sessions is not None:
            context = sessions.context
            factory: Callable[..., ssl.SSLContext] = lambda *_: context  # noqa: E731 - uvicorn's interface
            options = {"ssl_context_factory": factory, "http": _protocol(sessions)}
        self._server = Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                ws="none",
                interface="asgi3",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                **({"http": "h11"} | options),
            )
        )
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listener.getsockname()[1])

    async def started(self) -> None:
        """Wait until it accepts connections; raises what ended it if it does not."""
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("the server ended before it started")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Close the listener, let requests in flight end (a few seconds at most), and end."""
        self._server.should_exit = True
        await self._task
