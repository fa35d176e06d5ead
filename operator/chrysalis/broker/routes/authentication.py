"""From a request to its caller: the bearer token, or the client certificate that the TLS layer has verified."""

from __future__ import annotations

from anyio import to_thread
from fastapi import Request

from chrysalis.broker.callers import Caller
from chrysalis.broker.deps import Deps

PEER_CERTIFICATE = "peer_certificate"
"""Where the TLS server puts the verified client certificate (DER) into the ASGI scope's state; absent without one."""


async def caller_of(request: Request, deps: Deps) -> Caller:
    """Who sends this request; raises BrokerError: CallerUnauthenticated, CallerNotAllowed, CallerCheckUnavailable."""
    authorization = request.headers.get("authorization", "")
    certificate = request.scope.get("state", {}).get(PEER_CERTIFICATE)
    return await to_thread.run_sync(deps.callers.authenticate, authorization, certificate, limiter=deps.checks)
