"""The settler's HTTP edge: published epochs for anyone, receipts for their own parties; health and metrics beside it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from prometheus_client import generate_latest

from chrysalis.clock import Clock, unix
from chrysalis.errors import ChrysalisError
from chrysalis.receipts import jws
from chrysalis.receipts.objects import PartyToken, check_time
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.settlement.metrics import Metrics
from chrysalis.settlement.reasons import SettlementError, SettlementReason
from chrysalis.settlement.service import AccountSettler
from chrysalis.wire.broker import Problem
from chrysalis.wire.settler import FILE_CONTENT, FILE_EARNED, FILE_LEAVES, PartyReceipts

FILES = {FILE_CONTENT, FILE_EARNED, FILE_LEAVES}
MAX_PAGE = 1000
PROBLEM_TYPE = "application/problem+json"
CONTRACT = re.compile(r"[0-9a-f]{64}")

Settlers = Callable[[], list[AccountSettler]]


def public_app(settlers: Settlers, clock: Clock) -> FastAPI:
    """The service on port 8444.  With several accounts, each stands under /{contract as 64 hex digits}/ too."""
    app = FastAPI(title="Chrysalis settler", openapi_url=None, docs_url=None, redoc_url=None)

    @app.exception_handler(ChrysalisError)
    async def _problem(_request: Request, error: Exception) -> JSONResponse:
        return problem(error)

    def settler_of(contract: str | None) -> AccountSettler:
        held = settlers()
        chosen = [s for s in held if contract is None or s.spec.contract == f"0:{contract}"]
        if len(chosen) != 1:
            raise SettlementError(
                SettlementReason.ACCOUNT_INVALID,
                "no such account is settled here" if not chosen else "several accounts are settled here",
                "ask for /CONTRACT/latest.json with the contract's 64 hex digits",
            )
        return chosen[0]

    async def latest(contract: str | None = None) -> Response:
        return _file(settler_of(contract), "latest.json")

    async def epoch_file(epoch: int, name: str, contract: str | None = None) -> Response:
        if name not in FILES or epoch < 1:
            return _absent()
        return _file(settler_of(contract), f"epochs/{epoch}/{name}")

    async def receipts(
        after: Annotated[int, Query(ge=0, lt=1 << 62)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 500,
        authorization: Annotated[str, Header(max_length=8192)] = "",
        contract: str | None = None,
    ) -> Response:
        settler = settler_of(contract)
        return await asyncio.to_thread(_receipts, settler, authorization, after, limit, clock)

    for prefix in ("", "/{contract}"):
        app.add_api_route(prefix + "/latest.json", latest, methods=["GET"])
        app.add_api_route(prefix + "/epochs/{epoch}/{name}", epoch_file, methods=["GET"])
        app.add_api_route(prefix + "/v1/receipts", receipts, methods=["GET"])
    return app


def health_app(ready: Callable[[], bool], alive: Callable[[], bool]) -> FastAPI:
    """/healthz and /readyz."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response("ok\n" if alive() else "the loop stands still\n", status_code=200 if alive() else 503, media_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        return Response("ok\n" if ready() else "starting\n", status_code=200 if ready() else 503, media_type="text/plain")

    return app


def metrics_app(metrics: Metrics) -> FastAPI:
    """/metrics."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    return app


def problem(error: Exception) -> JSONResponse:
    """A ChrysalisError as a problem document (RFC 9457)."""
    if not isinstance(error, ChrysalisError):
        raise error
    status = STATUS.get(str(error.reason), 401 if isinstance(error, ReceiptError) else 404)
    body = Problem(title=error.message, status=status, reason=str(error.reason), detail=error.message, remedy=error.remedy)
    return JSONResponse(body.to_json_dict(), status_code=status, media_type=PROBLEM_TYPE)


STATUS: dict[str, int] = {SettlementReason.PARTY_UNKNOWN: 403, SettlementReason.ACCOUNT_INVALID: 404}


def _receipts(settler: AccountSettler, authorization: str, after: int, limit: int, clock: Clock) -> Response:
    """Whose receipts: of a listed client's own tickets, or, for a reservation key, of the whole account."""
    token = authorization.removeprefix("Bearer ").strip()
    kid = jws.peek(token).kid
    owners = {jws.thumbprint(bytes.fromhex(key)): bytes.fromhex(key) for key in settler.spec.reservation_keys}
    owner = owners.get(kid)
    key = owner or settler.ledger.kid_of_client(kid)
    if key is None:
        raise SettlementError(
            SettlementReason.PARTY_UNKNOWN,
            "the token's key is neither a client of this account nor its reservation key",
            "sign with the key that signed the tickets, or with the account's reservation key",
        )
    shown = PartyToken.parse(token, key)
    check_time("token", unix(clock.now()), exp=shown.exp, not_before=shown.iat, leeway=60)
    if shown.aud != settler.spec.set_name:
        raise SettlementError(SettlementReason.PARTY_UNKNOWN, "the token is for another account", "sign one for this set", shown.aud)
    rows = settler.ledger.records(after=after, limit=limit + 1, kid=None if owner else kid)
    page = PartyReceipts(
        lines=[record.to_line() for _, record in rows[:limit]],
        next=rows[min(limit, len(rows)) - 1][0] + 1 if rows else after,
        more=len(rows) > limit,
    )
    return JSONResponse(page.to_json_dict())


def _file(settler: AccountSettler, name: str) -> Response:
    path = settler.publisher.folder / name
    if not path.is_file():
        return _absent()
    media = "application/json" if name.endswith(".json") else "application/octet-stream"
    return FileResponse(path, media_type=media)


def _absent() -> Response:
    return problem(SettlementError(SettlementReason.ACCOUNT_INVALID, "nothing is published under this name yet", "see /latest.json"))
