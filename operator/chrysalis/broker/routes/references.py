"""Reference values: publishers store them under their signature, everybody may read them."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from chrysalis.api.policy import Envelope
from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import MAX_ENVELOPE_BODY, answer, message
from chrysalis.broker.origins import origin_of
from chrysalis.broker.routes.authentication import signed_message


def register(app: FastAPI, deps: Deps) -> None:
    """Add the routes."""

    @app.put("/v1/reference-values")
    async def put_reference_values(request: Request) -> Response:
        with signed_message(request, deps):
            envelope = await message(request, Envelope, MAX_ENVELOPE_BODY)
            created = await run_in_threadpool(deps.references.put, envelope)
        return Response(status_code=201 if created else 200)

    @app.get("/v1/reference-values")
    async def reference_values(request: Request) -> Response:
        deps.limits.large_answer(origin_of(request.client.host if request.client else None))
        return answer(await run_in_threadpool(deps.references.published))
