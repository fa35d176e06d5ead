"""The client for code without an event loop: the same calls, blocking."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from chrysalis.client.session import DEFAULT_MAX_NANOTON, Client, Job
from chrysalis.client.verified import VerifiedWorker


class BlockingClient:
    """Wraps a Client in a loop of its own; not for use inside a running loop, nor from several threads."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def connect(self) -> VerifiedWorker:
        """Connect and verify; raises ClientError and WireError."""
        return self._runner.run(self._client.connect())

    def embeddings(self, texts: list[str], *, max_nanoton: int = DEFAULT_MAX_NANOTON) -> Job:
        """See Client.embeddings."""
        return self._runner.run(self._client.embeddings(texts, max_nanoton=max_nanoton))

    def post(self, path: str, request: dict[str, Any], *, max_nanoton: int = DEFAULT_MAX_NANOTON) -> Job:
        """See Client.post."""
        return self._runner.run(self._client.post(path, request, max_nanoton=max_nanoton))

    def close(self) -> None:
        """Close the connection and the loop."""
        try:
            self._runner.run(self._client.aclose())
        finally:
            self._runner.close()
