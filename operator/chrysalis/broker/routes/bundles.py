"""What auditors call: the evidence bundle of a result."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from chrysalis.broker.bundles import Bundles
from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import result_name
from chrysalis.broker.routes.authentication import caller_of
from chrysalis.wire.bundle import MEDIA_TYPE


def register(app: FastAPI, deps: Deps) -> None:
    """Add the route."""
    bundles = Bundles(store=deps.store, results=deps.results, keys=deps.keys, ear_keys=deps.ear_keys, clock=deps.clock)

    @app.get("/v1/bundles/{result_id}")
    async def bundle(request: Request, result_id: str) -> Response:
        caller = await caller_of(request, deps)
        return Response(await run_in_threadpool(bundles.of, caller, result_name(result_id)), media_type=MEDIA_TYPE)
