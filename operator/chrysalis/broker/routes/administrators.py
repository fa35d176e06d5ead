"""What owners and administrators read of their tenant: key records without keys, policies, the audit log."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from chrysalis.broker import reading
from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import answer, label, parameters, whole_number
from chrysalis.broker.routes.authentication import caller_of

MAX_AUDIT = 1000


def register(app: FastAPI, deps: Deps) -> None:
    """Add the routes."""

    @app.get("/v1/keys/{key_id}")
    async def key(request: Request, key_id: str) -> Response:
        caller = await caller_of(request, deps)
        owner = parameters(request, ("owner",)).get("owner", "")
        return answer(await run_in_threadpool(reading.key_record, deps.store, caller, label(key_id), owner, deps.records.is_owner))

    @app.get("/v1/policies/{name}")
    async def policy(request: Request, name: str) -> Response:
        caller = await caller_of(request, deps)
        owner = parameters(request, ("owner",)).get("owner", "")
        return answer(await run_in_threadpool(reading.policy, deps.store, caller, label(name), owner))

    @app.get("/v1/audit")
    async def audit(request: Request) -> Response:
        caller = await caller_of(request, deps)
        query = parameters(request, ("after", "limit"))
        after = whole_number(query.get("after", "0"), "after", 0, 1 << 53)
        limit = whole_number(query.get("limit", "100"), "limit", 1, MAX_AUDIT)
        return answer(await run_in_threadpool(reading.audit_links, deps.store, caller, after, limit, deps.clock.now()))
