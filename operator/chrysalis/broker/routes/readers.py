"""What readers call: results, and the public keys that verify them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import answer, malformed, parameters, result_name, whole_number
from chrysalis.broker.routes.authentication import caller_of
from chrysalis.broker.routes.watches import Watches
from chrysalis.wire.broker import ResultList
from chrysalis.wire.recalls import Recalls

MAX_LIST = 1000
LIST_PARAMETERS = frozenset({"namespace", "worker", "podUID", "verdict", "after", "limit"})
VERDICTS = ("", "Accepted", "Refused")
KEY_SET_SECONDS = 60
"""For readers to keep the key set: the key that signs next stands in it for at least as long before it signs."""


def register(app: FastAPI, deps: Deps) -> None:
    """Add the routes."""
    watches = Watches(deps)

    @app.get("/v1/results")
    async def results(request: Request) -> Response:
        caller = await caller_of(request, deps)
        if watches.wanted(request):
            return await watches.answer(request, caller)
        query = parameters(request, LIST_PARAMETERS)
        limit = whole_number(query.get("limit", "100"), "limit", 1, MAX_LIST)
        if query.get("verdict", "") not in VERDICTS:
            raise malformed("the query", "verdict must be Accepted or Refused")
        change = await run_in_threadpool(deps.store.change_number)  # before the list, so that whoever goes on there misses nothing
        found = await run_in_threadpool(
            deps.results.list,
            caller,
            namespace=query.get("namespace", ""),
            worker=query.get("worker", ""),
            pod_uid=query.get("podUID", ""),
            verdict=query.get("verdict", ""),
            after=query.get("after", ""),
            limit=limit,
        )
        return answer(ResultList(results=found, change=change))

    @app.get("/v1/results/{result_id}")
    async def result(request: Request, result_id: str) -> Response:
        caller = await caller_of(request, deps)
        return answer(await run_in_threadpool(deps.results.view, caller, result_name(result_id)))

    @app.get("/.well-known/jwks.json")
    async def jwks(response: Response) -> dict[str, list[dict[str, Any]]]:
        response.headers["cache-control"] = f"public, max-age={KEY_SET_SECONDS}"
        return await run_in_threadpool(deps.ear_keys.key_set)

    @app.get("/.well-known/ear-recalls")
    async def recalls() -> Response:
        def newest() -> str:
            return deps.ear_keys.recalls(deps.store.inputs().shared)

        return answer(Recalls(recalls=await run_in_threadpool(newest)))

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        await run_in_threadpool(deps.store.database.check)
        return {"status": "ok", "placement": deps.settings.placement.value}
