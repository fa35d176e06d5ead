"""A request whose body does not come in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chrysalis_worker import gateway as gateway_module
from tests.worker.gateway_bench import Bench, reason


@pytest.mark.parametrize(("patience", "status"), [(60.0, 200), (0.3, 408)])
def test_a_body_that_does_not_come(
    free: Any,
    body_of: Any,
    monkeypatch: pytest.MonkeyPatch,
    patience: float,
    status: int,
) -> None:
    monkeypatch.setattr(gateway_module, "BODY_SECONDS", patience)

    async def scenario(bench: Bench) -> None:
        async def slowly() -> AsyncIterator[bytes]:
            yield body_of()[:5]
            await asyncio.sleep(0.7)
            yield body_of()[5:]

        response = await bench.http.post("/v1/embeddings", content=slowly())
        assert response.status_code == status
        if status == 408:
            assert reason(response) == "RequestTimeout"

    free(scenario)
