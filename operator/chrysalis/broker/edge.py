"""The outermost layer of the application: counts, limits by address, and turns what nobody foresaw into a problem document."""

from __future__ import annotations

import logging

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import problem
from chrysalis.broker.origins import origin_of
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.server import MAX_HEADER_BYTES

log = logging.getLogger(__name__)

UNROUTED = "none"
DISCONNECTED = 499
NOT_KEPT = "no-store"
"""Every answer is of its moment, and most are one caller's: a client certificate, unlike a bearer token, keeps no cache from them."""


class Edge:
    """An ASGI middleware."""

    def __init__(self, app: ASGIApp, deps: Deps) -> None:
        self._app = app
        self._deps = deps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).setdefault("cache-control", NOT_KEPT)
            await send(message)

        client = scope.get("client")
        origin, held = origin_of(client[0] if client else None), 0

        async def receiving() -> Message:
            nonlocal held
            message = await receive()
            size = len(message.get("body", b""))
            if size and not self._deps.limits.messages.add(origin, size):
                raise BrokerError(BrokerReason.BUSY, "too many messages are held, of this address or in all", "try again in a second")
            held += size
            return message

        try:
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
                raise BrokerError(BrokerReason.MESSAGE_TOO_LARGE, f"the headers are over {MAX_HEADER_BYTES} bytes", "send less")
            await self._deps.limits.request(origin)
            await self._app(scope, receiving, sending)
        except BrokerError as error:  # the limit; the application's own are answered inside
            await problem(error, error.status)(scope, receive, sending)
        except ClientDisconnect:
            status = DISCONNECTED
        except Exception as error:
            # The class tells where to look; the text could hold a secret.
            log.error("internal error", extra={"event": "InternalError", "error": type(error).__name__})
            failure = BrokerError(BrokerReason.INTERNAL_ERROR, "the broker failed", "try again; if it stays, look at the broker's log")
            if not status:
                await problem(failure, 500)(scope, receive, sending)
        finally:
            self._deps.limits.messages.remove(origin, held)
            route = scope.get("route")
            operation = UNROUTED if route is None else f"{_method(scope, route)} {route.path}"
            self._deps.metrics.requests.labels(operation, str(status)).inc()


def _method(scope: Scope, route: BaseRoute) -> str:
    """The request's method where the route has it: a stranger may invent methods, and each would be a metric of its own."""
    method = str(scope["method"])
    return method if method in (getattr(route, "methods", None) or ()) else "other"
