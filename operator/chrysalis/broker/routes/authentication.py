"""From a request to its caller: the bearer token, or the client certificate that the TLS layer has verified."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from anyio import to_thread
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from chrysalis.broker.callers import Caller
from chrysalis.broker.deps import Deps
from chrysalis.broker.nonces import SKEW_SECONDS
from chrysalis.broker.origins import origin_of
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.server import PEER_CERTIFICATE
from chrysalis.clock import unix
from chrysalis.errors import ChrysalisError
from chrysalis.wire.reasons import WireError

UNSIGNED = frozenset(
    {
        BrokerReason.OWNER_NOT_ALLOWED,
        BrokerReason.PUBLISHER_NOT_ALLOWED,
        BrokerReason.MESSAGE_MALFORMED,
        BrokerReason.MESSAGE_TOO_LARGE,
        BrokerReason.CONTENT_TYPE_UNSUPPORTED,
    }
)
UNAUTHENTICATED = frozenset({BrokerReason.CALLER_UNAUTHENTICATED, BrokerReason.CREDENTIAL_FOR_ANOTHER_BROKER})


@contextlib.contextmanager
def signed_message(request: Request, deps: Deps) -> Iterator[None]:
    """Around a message whose signature is its credential: one that nobody signed is a failed authentication.

    Reading it and looking for its signature costs as much as an attestation.  Raises BrokerError (TooManyRequests).
    """
    origin = origin_of(request.client.host if request.client else None)
    deps.limits.before_call(origin)
    try:
        yield
    except ChrysalisError as error:
        if isinstance(error, WireError) or error.reason in UNSIGNED:
            deps.limits.failed_call(origin)
        raise


async def changer_of(request: Request, deps: Deps) -> Caller:
    """Who sends this request, which changes something: an owner's token is used up by it, whatever comes of it.

    Raises BrokerError: those of `caller_of`; CredentialReplayed.
    """
    caller = await caller_of(request, deps)
    if caller.token is not None and not await run_in_threadpool(
        deps.store.spend_nonce, caller.token.name, caller.token.until + 2 * SKEW_SECONDS, unix(deps.clock.now())
    ):
        raise BrokerError(
            BrokerReason.CREDENTIAL_REPLAYED,
            "this owner's token has changed something before",
            "make a new token for each change; the tools do",
        )
    return caller


async def caller_of(request: Request, deps: Deps) -> Caller:
    """Who sends this request.

    Raises BrokerError: CallerUnauthenticated, CredentialForAnotherBroker, CallerNotAllowed, CallerCheckUnavailable, TooManyRequests.
    """
    origin = origin_of(request.client.host if request.client else None)
    deps.limits.before_call(origin)
    authorization = request.headers.get("authorization", "")
    certificate = request.scope.get("state", {}).get(PEER_CERTIFICATE)
    if not authorization and certificate is not None and _of_a_page(request):
        raise BrokerError(
            BrokerReason.CALLER_NOT_ALLOWED,
            "a client certificate does not count for what a web page sends",
            "use the tools, or send a bearer token: a browser adds the certificate to any site's request",
        )
    try:
        caller = await to_thread.run_sync(deps.callers.authenticate, authorization, certificate, limiter=deps.checks)
    except BrokerError as error:
        if error.reason in UNAUTHENTICATED and authorization:
            deps.limits.failed_call(origin)
        raise
    deps.limits.call(origin, caller.name)
    return caller


def _of_a_page(request: Request) -> bool:
    """Whether a browser sends this for a page (Fetch standard, Fetch Metadata): the broker has none, so it is another site's."""
    return "origin" in request.headers or request.headers.get("sec-fetch-site", "none") != "none"
