"""The broker's evidence about itself, for owners who ask before they hand over a key."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import answer, malformed
from chrysalis.broker.origins import origin_of

NONCE_DIGITS = 64


def register(app: FastAPI, deps: Deps) -> None:
    """Add the route."""

    @app.get("/.well-known/attestation")
    async def attestation(request: Request) -> Response:
        text = request.query_params.get("nonce", "")
        try:
            nonce = bytes.fromhex(text) if len(text) == NONCE_DIGITS else b""
        except ValueError:
            nonce = b""
        if not nonce or set(request.query_params) != {"nonce"}:
            raise malformed("the query", f"nonce must be {NONCE_DIGITS} hex digits, and nothing else is asked for")
        deps.limits.large_answer(origin_of(request.client.host if request.client else None))
        return answer(await run_in_threadpool(deps.own_evidence.make, nonce))
