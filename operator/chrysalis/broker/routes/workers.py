"""What workers call: challenge, attest, release.  They are anonymous until their evidence is accepted."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import MAX_EVIDENCE_BODY, MAX_SMALL_BODY, answer, body, label, parse
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.wire.broker import Challenge, Evidence, ReleaseRequest


def register(app: FastAPI, deps: Deps) -> None:
    """Add the routes."""
    judging = 0

    @app.post("/v1/challenge")
    async def challenge(request: Request) -> Response:
        await body(request, MAX_SMALL_BODY)
        nonce, expires = deps.nonces.make()
        return answer(Challenge(nonce=nonce.hex(), expires_at=expires))

    @app.post("/v1/attest")
    async def attest(request: Request) -> Response:
        nonlocal judging
        evidence = parse(Evidence, await body(request, MAX_EVIDENCE_BODY))  # before it counts: a slow sender holds no place
        if judging >= deps.settings.max_concurrent_attestations:
            raise BrokerError(BrokerReason.BUSY, "too many attestations at once", "try again in a second")
        judging += 1
        try:
            return answer(await run_in_threadpool(deps.attestor.attest, evidence))
        finally:
            judging -= 1

    @app.post("/v1/keys/{key_id}:release")
    async def release(request: Request, key_id: str) -> Response:
        message = parse(ReleaseRequest, await body(request, MAX_SMALL_BODY))
        return answer(await run_in_threadpool(deps.results.release, label(key_id), message))
