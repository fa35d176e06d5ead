"""POST /v1/policies/{name}:simulate: what a policy would change, before its owner signs it."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from chrysalis.api.policy import SignedPolicy
from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import MAX_ENVELOPE_BODY, answer, label, message
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.routes.authentication import caller_of


def register(app: FastAPI, deps: Deps) -> None:
    """Add the route."""

    @app.post("/v1/policies/{name}:simulate")
    async def simulate(request: Request, name: str) -> Response:
        caller = await caller_of(request, deps)
        if not caller.owner:
            raise BrokerError(
                BrokerReason.CALLER_NOT_ALLOWED, "only an owner may try a policy on its evidence", "send a token signed by the owner's key"
            )
        policy = await message(request, SignedPolicy, MAX_ENVELOPE_BODY)
        if policy.name != label(name):
            raise BrokerError(
                BrokerReason.NAME_MISMATCH,
                f"the policy is called {policy.name!r}, not {name!r}",
                "send it to the name that stands in it",
            )
        return answer(await run_in_threadpool(deps.simulation.simulate, caller.owner, policy))
