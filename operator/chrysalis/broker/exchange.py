"""One bounded HTTP exchange with a service that the broker asks: whole-exchange deadline, size limit, no redirects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from chrysalis.clock import Clock


class StatusError(ValueError):
    """The service answered with a status that is no success."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(f"{url} answered {status}")
        self.status = status


def exchange(
    http: httpx.Client,
    method: str,
    url: str,
    *,
    clock: Clock,
    seconds: float,
    max_bytes: int,
    json: Any = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """The body of a successful answer.

    Raises ValueError for another status (StatusError), more than max_bytes, a compressed answer (a few bytes of it may be hundreds of
    megabytes), or an answer that takes longer than `seconds` as a whole (a
    client's own timeouts are for each read, so a peer that drips could hold a thread for hours); httpx.HTTPError otherwise.
    """
    deadline = clock.monotonic() + seconds
    body = bytearray()
    sent = {"accept-encoding": "identity"} | dict(headers or {})
    with http.stream(method, url, json=json, headers=sent, follow_redirects=False, timeout=seconds) as response:
        if not response.is_success:
            raise StatusError(url, response.status_code)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ValueError(f"{url} answered in a compressed form, which was not asked for")
        for piece in response.iter_bytes(chunk_size=None):  # nothing is decoded: see above
            body += piece
            if len(body) > max_bytes:
                raise ValueError(f"{url} answered over {max_bytes} bytes")
            if clock.monotonic() > deadline:
                raise ValueError(f"{url} took over {seconds:g} s to answer")
    return bytes(body)
