"""The HTTP edge: bounded bodies, strict messages, problem documents (RFC 9457), no work on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from chrysalis.api.base import Model
from chrysalis.api.policy import Envelope
from chrysalis.broker.attestor import Attestor, EvidenceRefused
from chrysalis.broker.callers import Callers
from chrysalis.broker.collateral import CollateralCache
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.nonces import Nonces
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.records import OwnersRecords
from chrysalis.broker.release import Results
from chrysalis.broker.settings import Settings
from chrysalis.broker.state_keys import StateKeys
from chrysalis.broker.store import Store
from chrysalis.clock import Clock, unix
from chrysalis.errors import ChrysalisError
from chrysalis.receipts.jws import b64u, thumbprint
from chrysalis.wire.broker import Challenge, Evidence, NamedReason, Problem, ReleaseRequest, ResultList
from chrysalis.wire.reasons import WireError

log = logging.getLogger(__name__)

MAX_EVIDENCE_BODY = 2 * 1024 * 1024
MAX_ENVELOPE_BODY = 1024 * 1024
MAX_SMALL_BODY = 4096
BODY_SECONDS = 20.0
"""For a client to send its whole message."""
MAX_LIST = 1000
HOUSEKEEPING_SECONDS = 30
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LIST_PARAMETERS = frozenset({"namespace", "worker", "podUID", "verdict", "after", "limit"})
VERDICTS = ("", "Accepted", "Refused")
JSON = "application/json"
PROBLEM = "application/problem+json"

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, kw_only=True)
class Deps:
    """Everything that the application needs, assembled by `main` or a test."""

    settings: Settings
    clock: Clock
    keys: StateKeys
    store: Store
    nonces: Nonces
    attestor: Attestor
    results: Results
    records: OwnersRecords
    callers: Callers
    collateral: CollateralCache
    metrics: Metrics
    beat: Heartbeat = field(default_factory=lambda: Heartbeat())


@dataclass
class Heartbeat:
    """When the event loop last proved that it runs (monotonic seconds); 0 before the first time."""

    at: float = 0.0


def create_app(deps: Deps) -> FastAPI:
    """The broker's HTTP application, version 1 of the API (chrysalis.wire.broker)."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_housekeeping(deps))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    app = FastAPI(title="Chrysalis broker", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _handle_errors(app, deps)
    _owners(app, deps)
    _workers(app, deps)
    _readers(app, deps)
    return app


def _workers(app: FastAPI, deps: Deps) -> None:
    judging = 0

    @app.post("/v1/challenge")
    async def challenge(request: Request) -> Response:
        await _body(request, MAX_SMALL_BODY)
        nonce, expires = deps.nonces.make()
        return _answer(Challenge(nonce=nonce.hex(), expires_at=expires))

    @app.post("/v1/attest")
    async def attest(request: Request) -> Response:
        nonlocal judging
        evidence = _parse(Evidence, await _body(request, MAX_EVIDENCE_BODY))  # before it counts: a slow sender holds no place
        if judging >= deps.settings.max_concurrent_attestations:
            raise BrokerError(BrokerReason.BUSY, "too many attestations at once", "try again in a second")
        judging += 1
        try:
            return _answer(await run_in_threadpool(deps.attestor.attest, evidence))
        finally:
            judging -= 1

    @app.post("/v1/keys/{key_id}:release")
    async def release(request: Request, key_id: str) -> Response:
        message = _parse(ReleaseRequest, await _body(request, MAX_SMALL_BODY))
        return _answer(await run_in_threadpool(deps.results.release, _label(key_id), message))


def _owners(app: FastAPI, deps: Deps) -> None:
    @app.put("/v1/keys/{key_id}")
    async def put_key(request: Request, key_id: str) -> Response:
        envelope = _parse(Envelope, await _body(request, MAX_ENVELOPE_BODY))
        created = await run_in_threadpool(deps.records.put_key, _label(key_id), envelope)
        return Response(status_code=201 if created else 200)

    @app.put("/v1/policies/{name}")
    async def put_policy(request: Request, name: str) -> Response:
        envelope = _parse(Envelope, await _body(request, MAX_ENVELOPE_BODY))
        created = await run_in_threadpool(deps.records.put_policy, _label(name), envelope)
        return Response(status_code=201 if created else 200)

    @app.post("/v1/results/{result_id}:revoke")
    async def revoke(request: Request, result_id: str) -> Response:
        await _body(request, MAX_SMALL_BODY)
        caller = await run_in_threadpool(deps.callers.authenticate, request.headers.get("authorization", ""))
        return _answer(await run_in_threadpool(deps.results.revoke, caller, result_id[:64]))


def _readers(app: FastAPI, deps: Deps) -> None:
    @app.get("/v1/results")
    async def results(request: Request) -> Response:
        caller = await run_in_threadpool(deps.callers.authenticate, request.headers.get("authorization", ""))
        query = dict(request.query_params)
        if unknown := set(query) - LIST_PARAMETERS:
            raise _malformed("the query", f"unknown parameters: {', '.join(sorted(unknown))[:256]}")
        limit = query.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:6]) <= MAX_LIST):
            raise _malformed("the query", f"limit must be 1 to {MAX_LIST}")
        if query.get("verdict", "") not in VERDICTS:
            raise _malformed("the query", "verdict must be Accepted or Refused")
        found = await run_in_threadpool(
            deps.results.list,
            caller,
            namespace=query.get("namespace", ""),
            worker=query.get("worker", ""),
            pod_uid=query.get("podUID", ""),
            verdict=query.get("verdict", ""),
            after=query.get("after", ""),
            limit=int(limit),
        )
        return _answer(ResultList(results=found))

    @app.get("/v1/results/{result_id}")
    async def result(request: Request, result_id: str) -> Response:
        caller = await run_in_threadpool(deps.callers.authenticate, request.headers.get("authorization", ""))
        return _answer(await run_in_threadpool(deps.results.view, caller, result_id[:64]))

    @app.get("/.well-known/jwks.json")
    async def jwks() -> dict[str, list[dict[str, str]]]:
        public = deps.keys.ear_public
        key = {"kty": "OKP", "crv": "Ed25519", "x": b64u(public), "kid": thumbprint(public), "use": "sig", "alg": "EdDSA"}
        return {"keys": [key]}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        await run_in_threadpool(deps.store.collateral_keys)  # the database answers
        return {"status": "ok", "placement": deps.settings.placement.value}


def _handle_errors(app: FastAPI, deps: Deps) -> None:
    @app.middleware("http")
    async def count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            response = await call_next(request)
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:
            # The class tells where to look; the text could hold a secret.
            log.error("internal error", extra={"event": "InternalError", "error": type(error).__name__})
            problem = BrokerError(BrokerReason.INTERNAL_ERROR, "the broker failed", "try again; if it stays, look at the broker's log")
            response = _problem(problem, 500)
        route = request.scope.get("route")
        operation = f"{request.method} {route.path}" if route is not None else "none"
        deps.metrics.requests.labels(operation, str(response.status_code)).inc()
        return response

    @app.exception_handler(ChrysalisError)
    async def refused(_request: Request, error: Exception) -> Response:
        if isinstance(error, BrokerError):
            return _problem(error, error.status)
        if isinstance(error, ChrysalisError):
            return _problem(error, 400 if isinstance(error, WireError) else 403)
        raise error

    @app.exception_handler(HTTPException)
    async def unrouted(_request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        reason = {404: BrokerReason.NOT_FOUND, 405: BrokerReason.METHOD_NOT_ALLOWED}.get(status, BrokerReason.MESSAGE_MALFORMED)
        return _problem(BrokerError(reason, "there is no such operation", "see docs/wire for the broker's API"), status)


async def _housekeeping(deps: Deps) -> None:
    """Trim old results and refresh collateral, while the loop proves that it runs."""
    while True:
        deps.beat.at = deps.clock.monotonic()
        before = unix(deps.clock.now()) - deps.settings.result_retention_seconds
        try:
            await run_in_threadpool(deps.store.trim, before)
            await run_in_threadpool(deps.collateral.refresh)
        except Exception as error:
            log.error("housekeeping failed", extra={"event": "HousekeepingFailed", "error": type(error).__name__})
        await asyncio.sleep(HOUSEKEEPING_SECONDS)


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise BrokerError(BrokerReason.MESSAGE_TOO_LARGE, f"the message is over {limit} bytes", "send less")
    except TimeoutError as error:
        words = f"the message did not arrive within {BODY_SECONDS:g} s"
        raise BrokerError(BrokerReason.MESSAGE_TOO_SLOW, words, "send it again, over a faster way") from error
    return bytes(body)


def _parse(model: type[M], raw: bytes) -> M:
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        raise _malformed(model.__name__, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found[:8])[:1024]) from None


def _malformed(what: str, detail: str) -> BrokerError:
    return BrokerError(BrokerReason.MESSAGE_MALFORMED, f"{what} is not in the form of this version", "compare the versions", detail)


def _label(name: str) -> str:
    if not LABEL.fullmatch(name):
        raise BrokerError(BrokerReason.NOT_FOUND, "key ids and policy names are DNS labels", "check the path")
    return name


def _answer(message: Model) -> Response:
    return Response(message.model_dump_json(by_alias=True, exclude_none=True), media_type=JSON)


def _problem(error: ChrysalisError, status: int) -> Response:
    reasons = [NamedReason.model_validate(error.as_dict())]
    title = "The broker refused"
    if isinstance(error, EvidenceRefused):
        reasons, title = error.reasons, f"The evidence was refused (result {error.result_id})"
    problem = Problem(
        title=title, status=status, reason=reasons[0].reason, detail=reasons[0].message, remedy=reasons[0].remedy, reasons=reasons
    )
    headers = {"retry-after": "1"} if status in (429, 503) else None
    return Response(problem.model_dump_json(by_alias=True), status_code=status, media_type=PROBLEM, headers=headers)
