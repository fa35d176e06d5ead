"""A connection to a worker's gateway whose key is not known in advance: whoever opens it must judge the evidence first.

`open_connection` pins whatever certificate the server shows; from then on every request goes to that key or fails.  What the key
is worth is judged elsewhere (chrysalis.client.verification), by the document that `document` fetches over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from chrysalis.wire.broker import AttestationDocument
from chrysalis.wire.pinning import PinnedServer, pinned_context
from chrysalis.wire.reasons import WireError, WireReason

PATH_ATTESTATION = "/.well-known/attestation"
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
LIMITS = httpx.Limits(keepalive_expiry=300.0)
"""An idle connection is kept: behind one address a new one may reach another worker."""


ABOUT_TO_SEND = frozenset({"http11.send_request_headers.started", "http11.send_request_body.started"})
"""httpcore's names for the moments before the bytes of a request leave, on whichever connection of the pool."""


class NothingSent(WireError):
    """No connection to the pinned certificate could be made, or its verification had ended, so no body left: trying again is safe."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: the body is the bytes as sent, unchanged."""

    status: int
    headers: httpx.Headers
    body: bytes


def split_endpoint(url: str) -> tuple[str, int]:
    """Host and port of https://HOST[:PORT]; raises WireError for any other form."""
    parts = urlsplit(url)
    try:
        port = parts.port or 443
    except ValueError as error:
        raise _bad_endpoint(url, str(error)) from error
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise _bad_endpoint(url, "the form is https://HOST[:PORT]")
    return parts.hostname, port


class Connection:
    """HTTP over TLS 1.3 to exactly one certificate.  Asynchronous; safe for concurrent requests."""

    def __init__(self, endpoint: str, server: PinnedServer, *, sni: str = "", timeout: float = 60.0) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.server = server
        extensions = {"sni_hostname": sni} if sni else {}
        self._extensions = extensions
        self._http = httpx.AsyncClient(base_url=self.endpoint, verify=server.context, timeout=timeout, trust_env=False, limits=LIMITS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def document(self, nonce: bytes | None = None) -> AttestationDocument:
        """The worker's evidence, fresh over a nonce of 32 bytes or, without one, as it attested to its broker; not judged."""
        query = {} if nonce is None else {"nonce": nonce.hex()}
        answer = await self.send("GET", PATH_ATTESTATION, query=query, limit=MAX_DOCUMENT_BYTES)
        if answer.status != httpx.codes.OK:
            raise WireError(
                WireReason.REFUSED_BY_SERVICE,
                f"{self.endpoint} gave no evidence (HTTP {answer.status})",
                "wait until the worker is attested; check the address",
                answer.body[:512].decode(errors="replace"),
            )
        try:
            return AttestationDocument.model_validate_json(answer.body)
        except ValidationError as error:
            raise WireError(
                WireReason.ANSWER_MALFORMED,
                "the worker's evidence is not what this version expects",
                "compare the versions",
                str(error)[:1024],
            ) from error

    async def send(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        limit: int = MAX_ANSWER_BYTES,
        allowed: Callable[[], bool] | None = None,
    ) -> Answer:
        """One request; the answer whatever its status.  Raises WireError when there is none, or one over `limit` bytes.

        allowed is asked at the last moment, when a connection stands and before headers and body leave: a request may wait for a place
        or a handshake for longer than a verification lasts.  When it says no, NothingSent (VerificationExpired).
        """
        extensions: dict[str, Any] = dict(self._extensions)
        if allowed is not None:
            extensions["trace"] = _asking(allowed)
        sent = {"accept-encoding": "identity"} | (headers or {})
        body = bytearray()
        try:
            async with self._http.stream(
                method, path, content=content, params=query or {}, headers=sent, extensions=extensions
            ) as response:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > limit:
                        raise WireError(WireReason.ANSWER_TOO_LARGE, f"the answer to {path} is over {limit} bytes", "ask for less")
                return Answer(response.status_code, response.headers, bytes(body))
        except httpx.ConnectError as error:
            raise NothingSent(
                WireReason.SERVICE_UNREACHABLE,
                f"no connection to the verified key at {self.endpoint}",
                "the worker renewed its certificate or another one answers there: connect and verify again",
                f"{type(error).__name__}: {error}",
            ) from error
        except httpx.HTTPError as error:
            raise WireError(
                WireReason.SERVICE_UNREACHABLE,
                f"no answer from {self.endpoint}",
                "check that the worker runs",
                f"{type(error).__name__}: {error}",
            ) from error


def _asking(allowed: Callable[[], bool]) -> Callable[[str, Any], Awaitable[None]]:
    async def trace(event: str, info: Any) -> None:
        if event in ABOUT_TO_SEND and not allowed():
            raise NothingSent(
                WireReason.VERIFICATION_EXPIRED,
                "what this connection was verified by has ended before the request left",
                "connect and verify again",
            )

    return trace


async def open_connection(endpoint: str, *, sni: str = "", spki_sha256: bytes | None = None, timeout_seconds: float = 60.0) -> Connection:
    """Pin the certificate that https://HOST:PORT shows (and, with spki_sha256, only that key); raises WireError."""
    host, port = split_endpoint(endpoint)
    server = await asyncio.to_thread(pinned_context, host, port, sni or None, spki_sha256=spki_sha256)
    return Connection(endpoint, server, sni=sni, timeout=timeout_seconds)


def _bad_endpoint(url: str, detail: str) -> WireError:
    return WireError(WireReason.SERVICE_UNREACHABLE, f"{url[:200]!r} is not the address of a worker", "give https://HOST:PORT", detail)
