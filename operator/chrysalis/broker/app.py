"""The HTTP application: its routes, errors as problem documents, and the housekeeping beside them; no work on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from chrysalis.broker import database, openapi
from chrysalis.broker.deps import Deps
from chrysalis.broker.edge import Edge
from chrysalis.broker.messages import problem
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.routes import administrators, attestation, bundles, owners, readers, references, simulations, workers
from chrysalis.clock import unix
from chrysalis.errors import ChrysalisError
from chrysalis.wire.reasons import WireError

log = logging.getLogger(__name__)

BEAT_SECONDS = 5
HOUSEKEEPING_SECONDS = 30
REAPPRAISAL_SECONDS = 0.3
ROUTES = (workers, owners, readers, simulations, administrators, bundles, references, attestation)


def create_app(deps: Deps) -> FastAPI:
    """The broker's HTTP application, version 1 of the API (chrysalis.wire.broker)."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(task) for task in (_beating(deps), _housekeeping(deps), _reappraising(deps), _asking(deps))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    app = FastAPI(title="Chrysalis broker", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(Edge, deps=deps)
    _handle_errors(app)
    for module in ROUTES:
        module.register(app, deps)
    openapi.register(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ChrysalisError)
    async def refused(_request: Request, error: Exception) -> Response:
        if isinstance(error, BrokerError):
            return problem(error, error.status)
        if isinstance(error, ChrysalisError):
            return problem(error, 400 if isinstance(error, WireError) else 403)
        raise error

    @app.exception_handler(SQLAlchemyError)
    async def without_database(_request: Request, error: Exception) -> Response:
        refusal = database.unavailable(error) if isinstance(error, SQLAlchemyError) else None
        if refusal is None:
            raise error
        return problem(refusal, refusal.status)

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        reason = {404: BrokerReason.NOT_FOUND, 405: BrokerReason.METHOD_NOT_ALLOWED}.get(status, BrokerReason.MESSAGE_MALFORMED)
        answer = problem(BrokerError(reason, "there is no such operation", "see docs/wire for the broker's API"), status)
        if status == 405:  # RFC 9110, section 15.5.6: of every route of this path, not of the first alone
            answer.headers["allow"] = ", ".join(sorted(_methods(app, request)))
        return answer


def _methods(app: FastAPI, request: Request) -> set[str]:
    routes = [route for route in app.router.routes if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in routes for method in route.methods or ()}


async def _beating(deps: Deps) -> None:
    """Prove that the event loop runs, whatever the database or another service does meanwhile: a new process would not help them."""
    while True:
        deps.beat.at = deps.clock.monotonic()
        await asyncio.sleep(BEAT_SECONDS)


async def _housekeeping(deps: Deps) -> None:
    """Trim old results, refresh collateral and verify the audit log's new records."""
    while True:
        before = unix(deps.clock.now()) - deps.settings.result_retention_seconds
        tasks: tuple[Callable[[], object], ...] = (partial(deps.store.trim, before), deps.collateral.refresh, deps.audit_check.verify)
        for task in tasks:
            try:
                await to_thread.run_sync(task, limiter=deps.own_tasks)
            except Exception as error:  # the one must not keep the other from its work
                reason = error.reason if isinstance(error, BrokerError) else ""
                log.error("housekeeping failed", extra={"event": "HousekeepingFailed", "reason": reason, "error": type(error).__name__})
        await asyncio.sleep(HOUSEKEEPING_SECONDS)


async def _reappraising(deps: Deps) -> None:
    """Work off what is to be judged again: what this process or another replica has asked for, or left when it was killed."""
    while True:
        try:
            await to_thread.run_sync(deps.reappraiser.work, limiter=deps.own_tasks)
        except Exception as error:
            log.error("re-appraisal failed", extra={"event": "ReappraisalFailed", "error": type(error).__name__})
        await asyncio.sleep(REAPPRAISAL_SECONDS)


async def _asking(deps: Deps) -> None:
    """Refresh OCSP answers; apart from housekeeping, so that a responder that hangs does not add to its time."""
    while True:
        try:
            await to_thread.run_sync(deps.gpu_services.refresh, limiter=deps.own_tasks)
        except Exception as error:
            log.error("OCSP answers are not refreshed", extra={"event": "HousekeepingFailed", "error": type(error).__name__})
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
