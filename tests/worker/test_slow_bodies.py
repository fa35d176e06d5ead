"""A request whose body does not come in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chrysalis_worker import gateway as gateway_module
from tests.worker.test_gateway import Bench, free, reason  # noqa: F401 - a fixture


@pytest.mark.parametrize("pause", [0.0, 0.7])
def test_a_body_that_does_not_come(
    free: Any,  # noqa: F811
    body_of: Any,
    monkeypatch: pytest.MonkeyPatch,
    pause: float,
) -> None:
    monkeypatch.setattr(gateway_module, "BODY_SECONDS", 0.3)

    async def scenario(bench: Bench) -> None:
        async def slowly() -> AsyncIterator[bytes]:
            yield body_of()[:5]
            await asyncio.sleep(pause)
            yield body_of()[5:]

        response = await bench.http.post("/v1/embeddings", content=slowly())
        assert (response.status_code, pause and reason(response)) == ((408, "RequestTimeout") if pause else (200, 0.0))

    free(scenario)
