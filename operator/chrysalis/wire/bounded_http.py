"""One HTTP request to a service that nobody has to trust: no redirects, nothing unpacked, bounded in bytes and as a whole in time.

A client's own timeouts are for each read, so a peer that drips its headers could hold a thread for hours; here every request has
an event loop of its own, in which a deadline ends a step that waits, wherever it waits.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import httpx

MAX_DETAIL = 512
PIECE_BYTES = 64 * 1024
_PAGES = ("text/html", "application/xhtml", "image/", "video/", "audio/", "multipart/")
"""Content types that say by themselves that this is no document of a service; services disagree about all others."""
NAME_THREADS = 16
"""In which one call looks up names."""
T = TypeVar("T")


class Fault(StrEnum):
    """Why there is no answer.  Stable words: they stand in details and in metric labels."""

    UNREACHABLE = "Unreachable"
    TIMED_OUT = "TimedOut"
    REDIRECTED = "Redirected"
    THROTTLED = "Throttled"
    SERVER_ERROR = "ServerError"
    REFUSED = "Refused"  # 400 or 422: the service understood the way, and does not take what was sent
    STATUS_UNEXPECTED = "StatusUnexpected"
    CONTENT_UNEXPECTED = "ContentUnexpected"
    ANSWER_TOO_LARGE = "AnswerTooLarge"
    ANSWER_BROKEN = "AnswerBroken"


class HttpFault(Exception):
    """No usable answer; `fault` says in one word why, the text in a sentence."""

    def __init__(self, fault: Fault, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.detail = detail[:MAX_DETAIL]

    def __str__(self) -> str:
        return f"{self.fault}: {self.message}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Request:
    """What to ask; with content it is a POST."""

    url: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bounds:
    """seconds: for one request, from the name's lookup to the last byte.  tls: whom to believe; None: the system's authorities."""

    seconds: float
    max_bytes: int
    tls: ssl.SSLContext | None = None
    user_agent: str = "chrysalis"


class _Names(ThreadPoolExecutor):
    """Threads that look up names, and that nobody waits for: the system's resolver cannot be interrupted.

    A name server that does not answer holds one for half a minute; `asyncio.run` would wait for it, whatever the deadline was.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run work in an event loop of its own, and return as soon as its deadlines say so.  Blocking."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_Names(NAME_THREADS, "names"))
        return runner.run(work)


def fetch(request: Request, bounds: Bounds, transport: httpx.AsyncBaseTransport | None = None) -> bytes:
    """The body of a 200; raises HttpFault.  Blocking."""
    [found] = fetch_all([request], bounds, transport)
    if isinstance(found, HttpFault):
        raise found
    return found


def fetch_all(requests: Sequence[Request], bounds: Bounds, transport: httpx.AsyncBaseTransport | None = None) -> list[bytes | HttpFault]:
    """The bodies of all, in order, asked for at once, or why not; never raises for what a server does.  Blocking."""
    return run(_all(requests, bounds, transport))


async def _all(requests: Sequence[Request], bounds: Bounds, transport: httpx.AsyncBaseTransport | None) -> list[bytes | HttpFault]:
    async with httpx.AsyncClient(
        timeout=bounds.seconds,
        verify=bounds.tls or ssl.create_default_context(),
        trust_env=False,
        follow_redirects=False,
        transport=transport,
        headers={"accept-encoding": "identity", "user-agent": bounds.user_agent},
    ) as http:
        return list(await asyncio.gather(*(_one(http, request, bounds) for request in requests)))


async def _one(http: httpx.AsyncClient, request: Request, bounds: Bounds) -> bytes | HttpFault:
    try:
        async with asyncio.timeout(bounds.seconds):
            return await _body(http, request, bounds.max_bytes)
    except HttpFault as fault:
        return fault
    except (TimeoutError, httpx.TimeoutException):
        return HttpFault(Fault.TIMED_OUT, f"the answer did not arrive within {bounds.seconds:g} s")
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.DecodingError) as error:
        return HttpFault(Fault.ANSWER_BROKEN, "the answer broke off or is no HTTP", str(error))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return HttpFault(Fault.UNREACHABLE, "the service cannot be reached", f"{type(error).__name__}: {error}")


async def _body(http: httpx.AsyncClient, request: Request, max_bytes: int) -> bytes:
    method = "GET" if request.content is None else "POST"
    async with http.stream(method, request.url, content=request.content, headers=dict(request.headers)) as response:
        return await read(response, max_bytes)


async def read(response: httpx.Response, max_bytes: int) -> bytes:
    """The body of a 200, as it was sent, for whoever asks with a client of their own; raises HttpFault."""
    _check_head(response, max_bytes)
    body = bytearray()
    async for piece in response.aiter_bytes(PIECE_BYTES):  # nothing is decoded: see _check_head
        body += piece
        if len(body) > max_bytes:
            raise HttpFault(Fault.ANSWER_TOO_LARGE, f"the answer has over {max_bytes} bytes")
    return bytes(body)


def _check_head(response: httpx.Response, max_bytes: int) -> None:
    status = response.status_code
    if response.is_redirect or response.has_redirect_location:
        raise HttpFault(Fault.REDIRECTED, "the answer is a redirection, which is not followed", response.headers.get("location", ""))
    if status != 200:
        words = {429: Fault.THROTTLED, 400: Fault.REFUSED, 422: Fault.REFUSED}
        fault = words.get(status, Fault.SERVER_ERROR if status >= 500 else Fault.STATUS_UNEXPECTED)
        raise HttpFault(fault, f"the service answered {status}")
    content = response.headers.get("content-type", "").lower()
    if content.startswith(_PAGES):
        raise HttpFault(Fault.CONTENT_UNEXPECTED, "the answer is a page", content)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpFault(Fault.CONTENT_UNEXPECTED, "the answer is compressed, which was not asked for")
    length = response.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > max_bytes:
        raise HttpFault(Fault.ANSWER_TOO_LARGE, f"the answer has over {max_bytes} bytes")
