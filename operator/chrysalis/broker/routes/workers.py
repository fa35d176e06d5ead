"""What workers call: challenge, attest, release, standing.  They are anonymous until their evidence is accepted.

All but the last are Starlette's routes, not FastAPI's: nothing there is injected or documented from signatures, and what FastAPI does
around a request for that costs more than a challenge.
"""

from __future__ import annotations

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.routing import Match, Route
from starlette.types import Scope

from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import MAX_EVIDENCE_BODY, MAX_SMALL_BODY, answer, body, label, message, parameters, result_name
from chrysalis.broker.origins import origin_of
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.standing import Standings
from chrysalis.wire.broker import Challenge, Evidence, ReleaseRequest

NOT_ITS_FAULT = frozenset({429, 503})
"""Answers that say nothing against whoever attests: the broker is busy, a quota is used up, collateral is out of reach."""


def register(app: FastAPI, deps: Deps) -> None:
    """Add the routes."""
    standings = Standings(deps.store, deps.clock)

    async def challenge(request: Request) -> Response:
        await body(request, MAX_SMALL_BODY)
        nonce, expires = deps.nonces.make()
        return answer(Challenge(nonce=nonce.hex(), expires_at=expires))

    async def attest(request: Request) -> Response:
        client = request.client
        origin = origin_of(client.host if client else None)
        standing = await deps.limits.attempt(origin)
        try:
            evidence = await message(request, Evidence, MAX_EVIDENCE_BODY)  # before it has a place: a slow sender holds none
            async with deps.limits.attestation(origin, standing):
                result = await to_thread.run_sync(deps.attestor.attest, evidence, limiter=deps.limits.judges)
        except BrokerError as error:
            if error.status not in NOT_ITS_FAULT:
                deps.limits.refused(origin, standing)
            raise
        deps.limits.proved(origin)
        return answer(result)

    async def release(request: Request) -> Response:
        asked = await message(request, ReleaseRequest, MAX_SMALL_BODY)
        asked = asked.model_copy(update={"result_id": result_name(asked.result_id)})
        deps.limits.release(origin_of(request.client.host if request.client else None), asked.result_id)
        key_id = label(request.path_params["key_id"])
        return answer(await to_thread.run_sync(deps.results.release, key_id, asked, limiter=deps.key_calls))

    @app.get("/v1/results/{result_id}:standing")
    async def standing(request: Request, result_id: str) -> Response:
        parameters(request, ())
        return answer(await run_in_threadpool(standings.of, result_name(result_id)))

    for path, endpoint in (("/v1/challenge", challenge), ("/v1/attest", attest), ("/v1/keys/{key_id}:release", release)):
        app.router.routes.append(_Route(path, endpoint, methods=["POST"]))


class _Route(Route):
    """A route that names itself in the scope, as FastAPI's do: the edge counts requests by it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, found if match is Match.NONE else {**found, "route": self}
