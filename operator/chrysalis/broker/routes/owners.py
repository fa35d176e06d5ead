"""What owners call: storing signed key records and policies, ending results."""

from __future__ import annotations

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from chrysalis.api.policy import Envelope
from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import MAX_ENVELOPE_BODY, MAX_SMALL_BODY, answer, body, label, message, result_name
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.routes.authentication import changer_of, signed_message
from chrysalis.broker.server import PEER_CERTIFICATE


def register(app: FastAPI, deps: Deps) -> None:
    """Add the routes."""

    async def carried(request: Request, envelope: Envelope) -> None:
        """An envelope's signature is its credential, so that a pipeline without any other may carry it.

        Who does come with credentials must be allowed to carry it: an administrator's pipeline that was handed another
        tenant's envelope is told so.
        """
        if not request.headers.get("authorization") and request.scope.get("state", {}).get(PEER_CERTIFICATE) is None:
            return
        caller = await changer_of(request, deps)
        if not any(caller.changes(signature.keyid.lower()) for signature in envelope.signatures):
            raise BrokerError(
                BrokerReason.CALLER_NOT_ALLOWED,
                "these credentials are not of an OwnerAdmin of the signer's tenant",
                "send the envelope without credentials (its signature is enough), or with those of its tenant",
            )

    @app.put("/v1/keys/{key_id}")
    async def put_key(request: Request, key_id: str) -> Response:
        with signed_message(request, deps):
            envelope = await message(request, Envelope, MAX_ENVELOPE_BODY)
            await carried(request, envelope)
            created = await to_thread.run_sync(deps.records.put_key, label(key_id), envelope, limiter=deps.key_calls)
        return Response(status_code=201 if created else 200)

    @app.put("/v1/policies/{name}")
    async def put_policy(request: Request, name: str) -> Response:
        with signed_message(request, deps):
            envelope = await message(request, Envelope, MAX_ENVELOPE_BODY)
            await carried(request, envelope)
            created = await run_in_threadpool(deps.records.put_policy, label(name), envelope)
        return Response(status_code=201 if created else 200)

    @app.post("/v1/results/{result_id}:revoke")
    async def revoke(request: Request, result_id: str) -> Response:
        await body(request, MAX_SMALL_BODY)
        caller = await changer_of(request, deps)
        return answer(await run_in_threadpool(deps.results.revoke, caller, result_name(result_id)))
