"""The HTTP edge inside the trust domain: evidence for clients, OpenAI's embeddings, receipts for the settler.

Everything comes over RA-TLS; a connection belongs to the session (the attestation) whose certificate it was made under,
and its evidence and its right to start jobs are that session's.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.clock import Clock, unix
from chrysalis.errors import ChrysalisError
from chrysalis.receipts import jws
from chrysalis.receipts.objects import Receipt, SettlerToken, Status, Use, check_time
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire.broker import AttestationDocument
from chrysalis.wire.worker import HEADER_RECEIPT, HEADER_SALT, HEADER_TICKET, MAX_BODY_BYTES, ClientList, ReceiptPage
from chrysalis_worker import logs, openai
from chrysalis_worker.inference import Engine
from chrysalis_worker.metering import NOTHING, Job, Meter, encode_salt
from chrysalis_worker.metrics import Metrics
from chrysalis_worker.offers import OfferBook
from chrysalis_worker.reasons import WorkerError, WorkerReason
from chrysalis_worker.receiptlog import ReceiptLog
from chrysalis_worker.session import Appraisable, Session
from chrysalis_worker.state import Phase, WorkerState
from chrysalis_worker.tickets import TicketBook

LOG = logging.getLogger("chrysalis_worker.gateway")
JOB_SECONDS = 60.0
_OFFERED = "this worker offers /v1/models and /v1/embeddings"
BODY_SECONDS = 30.0
"""For a client to send its whole request."""
BODY_BUDGET_BYTES = 64 * 1024 * 1024
"""Of all request bodies that are in memory at once."""
QUOTES_PER_SECOND = 4.0
QUOTE_BURST = 16
MAX_PAGE = 1000
MAX_PAGE_BYTES = 4 * 1024 * 1024
SETTLER_TOKEN_SECONDS = 3600
LEEWAY_SECONDS = 60
JSON = "application/json"
STATE_SESSION = "session"
"""The key in an ASGI scope's state under which the server puts the connection's session."""

Handler = Callable[[Request], Awaitable[Response]]
MakeFresh = Callable[[Session, bytes], Awaitable[Appraisable]]


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The application and what it works on; make it once with `app()`."""

    identity: MeasuredIdentity
    wrk: str
    state: WorkerState
    engine: Engine
    meter: Meter
    offers: OfferBook
    receipts: ReceiptLog
    tickets: TicketBook | None
    fresh: MakeFresh
    """Evidence over a client's nonce with the keys of a session."""
    suspect: Callable[[], None]
    """Called when an inference failed, so that the canary looks at once."""
    clock: Clock
    metrics: Metrics
    job_seconds: float = JOB_SECONDS

    def app(self) -> Starlette:
        """The ASGI application."""
        edge = _Edge(self)
        routes = [
            Route("/.well-known/attestation", edge.guard(edge.attestation), methods=["GET"]),
            Route("/v1/models", edge.guard(edge.models), methods=["GET"]),
            Route("/v1/embeddings", edge.guard(edge.embeddings), methods=["POST"]),
            Route("/v1/receipts", edge.guard(edge.receipts), methods=["GET"]),
            Route("/v1/clients", edge.guard(edge.clients), methods=["PUT"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: edge.unrouted})


class _Edge:
    def __init__(self, gateway: Gateway) -> None:
        self._g = gateway
        self._body_bytes = 0
        self._quoting = asyncio.Lock()
        self._quotes = float(QUOTE_BURST)
        self._quotes_at = gateway.clock.monotonic()

    def guard(self, handler: Handler) -> Handler:
        """Turn refusals into OpenAI's error form, and bugs into a plain 500."""

        async def guarded(request: Request) -> Response:
            try:
                return await handler(request)
            except ChrysalisError as error:
                return self._refusal(error)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:
                # Where it happened, but not the exception's text, in which a prompt may stand.
                logs.event(LOG, "gateway.bug", logging.ERROR, type=type(error).__name__, at=traceback.format_tb(error.__traceback__))
                return self._refusal(_internal())

        return guarded

    async def unrouted(self, request: Request, error: Exception) -> Response:
        """What no route takes."""
        if isinstance(error, HTTPException) and error.status_code == 405:
            return self._refusal(WorkerError(WorkerReason.METHOD_NOT_ALLOWED, f"{request.method} is not offered at this path", _OFFERED))
        return self._refusal(WorkerError(WorkerReason.PATH_NOT_FOUND, "nothing is served at this path", _OFFERED))

    async def attestation(self, request: Request) -> Response:
        """GET /.well-known/attestation[?nonce=64 hex digits]."""
        session = self._session(request)
        if session is None or not self._g.state.valid:
            raise WorkerError(WorkerReason.NOT_READY, "the worker is not attested", "wait; its broker has not accepted it, or not again")
        nonce = _nonce(request)
        if nonce is None:
            stored = session.stored
        else:
            self._take_quote()
            async with self._quoting:
                stored = await self._g.fresh(session, nonce)
        document = AttestationDocument(
            mode="stored" if nonce is None else "fresh-quote",
            evidence=stored.evidence,
            claims_buffer=stored.claims_base64,
            collateral=session.result.collateral,
            ear=session.result.ear,
            receipt_certificate=session.result.receipt_certificate,
            offer=self._g.offers.current(),
        )
        return Response(document.model_dump_json(by_alias=True, exclude_none=True), media_type=JSON, headers={"cache-control": "no-store"})

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        created = unix(self._g.state.phases.get(Phase.SERVING, self._g.clock.now()))
        return Response(openai.models(self._g.identity.model.name, created), media_type=JSON)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        with self._g.state.job(self._session(request)):
            size = _declared_size(request)
            if self._body_bytes + size > BODY_BUDGET_BYTES:
                raise WorkerError(WorkerReason.OVERLOADED, "too many requests at once", "wait a moment, or use another worker")
            self._body_bytes += size
            try:
                return await self._job(request, await _body(request, size))
            finally:
                self._body_bytes -= size

    async def _job(self, request: Request, body: bytes) -> Response:
        asked = openai.parse_embeddings(body)
        self._check_model(asked)
        job = self._g.meter.begin(
            ticket=request.headers.get(HEADER_TICKET),
            salt=request.headers.get(HEADER_SALT),
            body=body,
            least=Use(prompt=len(asked.texts), job=1),  # a text has at least one token
        )
        status, use, code = Status.FAILED, NOTHING, 200
        try:
            embedded = await self._g.engine.embed(asked.texts, self._g.job_seconds)
            counted = Use(prompt=embedded.tokens, job=1)
            self._g.meter.check_cost(job, counted)
            answer = openai.embeddings(asked, embedded)
            status, use = Status.DONE, counted
        except ChrysalisError as error:
            if error.reason == WorkerReason.RESERVATION_EXHAUSTED:
                status = Status.EXHAUSTED
            else:
                self._g.suspect()
            answer, code = self._error(error)
        except BaseException:  # a bug, or cancelled while the worker ends
            self._g.meter.finish(job, Status.FAILED, NOTHING, b"")
            raise
        token = self._g.meter.finish(job, status, use, answer)
        return Response(answer, code, media_type=JSON, headers=_job_headers(job, token))

    async def receipts(self, request: Request) -> Response:
        """GET /v1/receipts?after=SEQ&limit=N."""
        self._authorize(request)
        after, limit = _number(request, "after", 0), _number(request, "limit", MAX_PAGE)
        self._g.state.pulled = max(self._g.state.pulled, min(after, self._g.receipts.last))
        self._g.state.pull.set()
        tokens = self._g.receipts.after(after, min(limit, MAX_PAGE), MAX_PAGE_BYTES)
        named = {Receipt.parse_unverified(token).offer for token in tokens}
        page = ReceiptPage(wrk=self._g.wrk, receipts=tokens, last=self._g.receipts.last, offers=self._g.offers.tokens(named))
        return Response(page.model_dump_json(by_alias=True), media_type=JSON)

    async def clients(self, request: Request) -> Response:
        """PUT /v1/clients."""
        self._authorize(request)
        size = _declared_size(request)
        body = await _body(request, size)
        try:
            sent = ClientList.model_validate_json(body)
        except ValidationError as error:
            raise WorkerError(
                WorkerReason.REQUEST_MALFORMED,
                "the body is not a list of clients of this version",
                "compare the versions",
            ) from error
        if self._g.tickets is None:
            raise WorkerError(WorkerReason.CLIENT_LIST_INVALID, "this worker belongs to no account", "nothing is settled here")
        taken = self._g.tickets.replace_clients(sent.clients)
        logs.event(LOG, "clients.replaced", count=len(taken.keys), iat=taken.iat, exp=taken.exp)
        return Response(status_code=204)

    def _session(self, request: Request) -> Session | None:
        session = request.scope.get("state", {}).get(STATE_SESSION, self._g.state.session)
        return session if isinstance(session, Session) else None

    def _check_model(self, asked: openai.EmbeddingsRequest) -> None:
        name = self._g.identity.model.name
        if asked.model != name:
            raise WorkerError(
                WorkerReason.MODEL_NOT_FOUND,
                f"the model {asked.model[:80]!r} does not exist here",
                f"this worker serves {name!r}",
            )
        if asked.dimensions not in (None, self._g.engine.dimension):
            raise WorkerError(
                WorkerReason.REQUEST_MALFORMED,
                f"dimensions is {asked.dimensions}; this model's vectors have {self._g.engine.dimension}",
                "leave dimensions out",
            )

    def _authorize(self, request: Request) -> None:
        """A settler's token: signed by a measured reservation key, for this worker, in time."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        now = unix(self._g.clock.now())
        try:
            if scheme.lower() != "bearer":
                raise _not_authorized("no bearer token")
            keys = {jws.thumbprint(bytes.fromhex(key)): bytes.fromhex(key) for key in self._g.identity.reservation_keys}
            key = keys.get(jws.peek(token.strip()).kid)
            if key is None:
                raise _not_authorized("not signed by a measured reservation key")
            shown = SettlerToken.parse(token.strip(), key)
            check_time("token", now, exp=shown.exp, not_before=shown.iat, leeway=LEEWAY_SECONDS)
        except (ReceiptError, UnicodeError) as error:
            raise _not_authorized(str(error)) from error
        if shown.aud != self._g.wrk or shown.exp > now + SETTLER_TOKEN_SECONDS:
            raise _not_authorized("for another worker, or valid for too long")

    def _take_quote(self) -> None:
        """A token bucket for all clients together: a quote costs the platform, and it is anybody who asks."""
        now = self._g.clock.monotonic()
        self._quotes = min(float(QUOTE_BURST), self._quotes + (now - self._quotes_at) * QUOTES_PER_SECOND)
        self._quotes_at = now
        if self._quotes < 1:
            raise WorkerError(
                WorkerReason.TOO_MANY_QUOTES, "too many fresh quotes were asked for", "wait some seconds, or verify the stored evidence"
            )
        self._quotes -= 1

    def _refusal(self, error: ChrysalisError) -> Response:
        body, status = self._error(error)
        headers = {"retry-after": "1"} if status in (429, 503) else None
        return Response(body, status, media_type=JSON, headers=headers)

    def _error(self, error: ChrysalisError) -> tuple[bytes, int]:
        status = error.status if isinstance(error, WorkerError) else 500
        self._g.metrics.refused.labels(str(error.reason)).inc()
        level = logging.WARNING if status >= 500 else logging.INFO
        logs.event(LOG, "request.refused", level, reason=str(error.reason), detail=error.detail)
        return openai.error(error, status), status


def _job_headers(job: Job, token: str) -> dict[str, str]:
    headers = {HEADER_RECEIPT: token}
    if job.own_salt:
        headers[HEADER_SALT] = encode_salt(job.salt)
    return headers


def _declared_size(request: Request) -> int:
    """How much memory the body may take: what it declares, or the limit; raises WorkerError before any of it is read."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise WorkerError(WorkerReason.CONTENT_ENCODING_REFUSED, "a compressed request is not taken", "send the JSON as it is")
    declared = request.headers.get("content-length")
    if declared is None:
        return MAX_BODY_BYTES
    size = int(declared) if declared.isdigit() and len(declared) < 16 else MAX_BODY_BYTES + 1
    if size > MAX_BODY_BYTES:
        raise _too_large()
    return size


async def _body(request: Request, limit: int) -> bytes:
    """The whole body; stops reading at the first byte over the limit."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large()
    except TimeoutError as error:
        raise WorkerError(
            WorkerReason.REQUEST_TIMEOUT, f"the request did not arrive within {BODY_SECONDS:g} s", "send it again, or in smaller parts"
        ) from error
    return bytes(body)


def _nonce(request: Request) -> bytes | None:
    if set(request.query_params) - {"nonce"}:
        raise WorkerError(WorkerReason.REQUEST_MALFORMED, "an unknown query parameter", "only nonce is taken")
    text = request.query_params.get("nonce")
    if text is None:
        return None
    try:
        nonce = bytes.fromhex(text) if len(text) == 64 else b""
    except ValueError:
        nonce = b""
    if len(nonce) != 32:
        raise WorkerError(WorkerReason.REQUEST_MALFORMED, "nonce is not 32 bytes in hex", "send 64 hex digits, fresh and random")
    return nonce


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise WorkerError(WorkerReason.REQUEST_MALFORMED, f"{name} is not a whole number", "send decimal digits")
    return int(text)


def _too_large() -> WorkerError:
    return WorkerError(
        WorkerReason.REQUEST_TOO_LARGE, f"the request is larger than {MAX_BODY_BYTES} bytes", "send fewer or shorter texts in one request"
    )


def _not_authorized(detail: str) -> WorkerError:
    return WorkerError(
        WorkerReason.NOT_AUTHORIZED,
        "only this account's settler may do this",
        "sign with a measured reservation key",
        detail,
    )


def _internal() -> WorkerError:
    return WorkerError(
        WorkerReason.INTERNAL, "the worker failed at this request; nothing is billed", "report it with the worker's log of this moment"
    )
