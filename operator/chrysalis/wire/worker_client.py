"""What the settler asks of a worker: its receipts, its offers, and that it takes the list of clients.

Pinned to the TLS key that the broker's result names; never judges what it gets.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from chrysalis.wire.attested import Answer, Connection, open_connection
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.worker import ClientList, ReceiptPage

MAX_PAGE_BYTES = 8 * 1024 * 1024
PAGE = 200


class WorkerClient:
    """One worker; `token` makes a fresh bearer (a SettlerToken) for each request."""

    def __init__(self, connection: Connection, token: Callable[[], str]) -> None:
        self._connection = connection
        self._token = token

    @classmethod
    async def connect(cls, endpoint: str, spki_sha256: bytes, token: Callable[[], str], *, timeout_seconds: float = 10.0) -> Self:
        """Connect to exactly this TLS key; raises WireError (PinMismatch when somebody else answers)."""
        return cls(await open_connection(endpoint, spki_sha256=spki_sha256, timeout_seconds=timeout_seconds), token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._connection.aclose()

    async def receipts(self, after: int, limit: int = PAGE) -> ReceiptPage:
        """Receipts with seq > after, in order."""
        query = {"after": str(after), "limit": str(limit)}
        answer = await self._connection.send("GET", "/v1/receipts", query=query, headers=self._headers(), limit=MAX_PAGE_BYTES)
        _expect_success(answer, "/v1/receipts")
        try:
            return ReceiptPage.model_validate_json(answer.body)
        except ValidationError as error:
            raise WireError(
                WireReason.ANSWER_MALFORMED,
                "the worker's receipts are not what this version expects",
                "compare the versions",
                str(error)[:1024],
            ) from error

    async def offer(self) -> str:
        """The offer that the worker makes now, a compact JWS; "" when it makes none."""
        return (await self._connection.document()).offer

    async def put_clients(self, clients: str) -> None:
        """Hand over the signed list of clients (a compact JWS)."""
        content = ClientList(clients=clients).model_dump_json(by_alias=True).encode()
        headers = self._headers() | {"content-type": "application/json"}
        _expect_success(await self._connection.send("PUT", "/v1/clients", content=content, headers=headers, limit=1 << 16), "/v1/clients")

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token()}"}


def _expect_success(answer: Answer, path: str) -> None:
    if not 200 <= answer.status < 300:
        raise WireError(
            WireReason.REFUSED_BY_SERVICE,
            f"the worker answered {answer.status} to {path}",
            "its reservation keys are measured: check that the account's reservation key is one of them",
            answer.body[:512].decode(errors="replace"),
        )
