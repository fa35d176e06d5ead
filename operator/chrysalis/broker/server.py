"""The TLS server: bounded connections before a handshake is paid for, and a deadline on every step of a client.

uvicorn leaves these to a proxy in front; a broker whose TLS key workers pin cannot have one that ends TLS.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from chrysalis.broker.limits import LimitSettings, Recent, Shares, Tiers
from chrysalis.broker.origins import Origin, origin_of
from chrysalis.clock import Clock

log = logging.getLogger(__name__)

PEER_CERTIFICATE = "peer_certificate"
"""Where the verified client certificate (DER) stands in the ASGI scope's state; absent without one."""
HANDSHAKE_SECONDS = 5.0
SHUTDOWN_SECONDS = 2.0
HEADER_SECONDS = 10.0
"""From the connection, or the answer before, until a request's headers are complete."""
STALL_SECONDS = 20.0
"""For a client that does not read what it asked for."""
MAX_HEADER_BYTES = 32 * 1024
BACKLOG = 256
STARTUP_FAILURE = 3


class Connections:
    """How many connections are open, in all and by origin; used on the event loop only."""

    def __init__(self, settings: LimitSettings, clock: Clock, proven: Recent) -> None:
        """proven: addresses whose evidence was accepted lately."""
        rate = settings.connections_per_second
        self._new = Tiers(rate=rate, burst=2 * rate, entries=settings.tracked_addresses, clock=clock)
        self._proven = proven
        self._open = Shares(settings.connections, settings.connections_per_address, proven)

    @property
    def total(self) -> int:
        """How many there are."""
        return self._open.total

    def enter(self, origin: Origin) -> bool:
        """Count one more; False when there are too many."""
        counted = origin[:1] if origin[0] in self._proven else origin
        return self._new.has(counted) and self._open.add(origin, 1) and self._new.take(counted)

    def leave(self, origin: Origin) -> None:
        """Count one less."""
        self._open.remove(origin, 1)


class _Counted(socket.socket):
    """An accepted connection that is counted until it is closed."""

    left: Callable[[], None] | None = None

    def close(self) -> None:
        if self.left is not None:
            left, self.left = self.left, None
            left()
        super().close()

    def __del__(self) -> None:
        self.close()


class Listener(socket.socket):
    """A listening socket that drops, before any handshake, connections that are too many."""

    connections: Connections

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection; ConnectionAbortedError, which the event loop passes over, for one that is dropped."""
        plain, peer = super().accept()
        counted = _Counted(plain.family, plain.type, plain.proto, fileno=plain.detach())
        origin = origin_of(peer[0])
        if not self.connections.enter(origin):
            counted.close()
            raise ConnectionAbortedError("too many connections")
        counted.left = lambda: self.connections.leave(origin)
        return counted, peer


class Protocol(H11Protocol):
    """HTTP/1.1 with deadlines, and the client's certificate in the scope's state."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream is needed")
        super().connection_made(transport)
        self._waiting: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert(binary_form=True)
        if certificate:
            self.app_state = {**self.app_state, PEER_CERTIFICATE: certificate}
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel_waiting()

    def on_response_complete(self) -> None:
        self._await_headers()
        super().on_response_complete()
        if self.cycle is not None and not self.cycle.response_complete:  # the next request was waiting
            self._cancel_waiting()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_stalled()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_waiting()
        self._cancel_stalled()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._cancel_waiting()
        self._waiting = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _cancel_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _cancel_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


class TlsServer(uvicorn.Server):
    """uvicorn's server over bounded listeners."""

    def __init__(
        self, config: uvicorn.Config, limits: LimitSettings, clock: Clock, proven: Recent, ending: Callable[[], None] = lambda: None
    ) -> None:
        """ending: called when the server has been told to end, before it waits for what is being answered."""
        super().__init__(config)
        self.connections = Connections(limits, clock, proven)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let who waits for changes go, finish what is being answered, and end."""
        self._ending()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen; ends the process with code 3 where either fails, as uvicorn does."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        config, loop = self.config, asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = Protocol(config=config, server_state=self.server_state, app_state=self.lifespan.state)
            return made

        try:
            listeners = _listen(config.host, config.port, self.connections)
        except OSError as error:
            log.error("cannot listen", extra={"event": "ListenFailed", "error": str(error)})
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        self.servers = [
            await loop.create_server(
                protocol,
                sock=listener,
                ssl=config.ssl,
                backlog=BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
            for listener in listeners
        ]
        self.started = True


def _listen(host: str, port: int, connections: Connections) -> list[Listener]:
    """A listener for each of the host's addresses; every address of the machine when host is empty."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[Listener] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        listener = None
        try:
            listener = Listener(family, kind, protocol)
            listener.connections = connections
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listeners.append(listener)
        except OSError as error:  # a machine without IPv6 still has IPv4
            failure = error
            if listener is not None:
                listener.close()
    if not listeners:
        raise failure or OSError("the host has no address")
    return listeners
