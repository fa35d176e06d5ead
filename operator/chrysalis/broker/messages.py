"""Messages at the HTTP edge: bounded bodies, strict parsing, answers and problem documents (RFC 9457)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection
from typing import TypeVar

from fastapi import Request, Response
from pydantic import ValidationError

from chrysalis.api.base import Model
from chrysalis.broker.attestor import EvidenceRefused
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.errors import ChrysalisError
from chrysalis.wire.broker import NamedReason, Problem

MAX_EVIDENCE_BODY = 2 * 1024 * 1024
MAX_ENVELOPE_BODY = 1024 * 1024
MAX_SMALL_BODY = 4096
MAX_PARAMETER = 512
BODY_SECONDS = 20.0
"""For a client to send its whole message."""
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
RESULT = re.compile(r"[0-9A-Za-z-]{1,36}")
NO_RESULT = "-"
OWN_AFFAIRS = frozenset(
    {
        BrokerReason.CALLER_CHECK_UNAVAILABLE,
        BrokerReason.DATABASE_UNAVAILABLE,
        BrokerReason.KEY_SERVICE_UNAVAILABLE,
        BrokerReason.OWN_EVIDENCE_UNAVAILABLE,
        BrokerReason.STATE_UNUSABLE,
    }
)
"""Reasons whose detail names addresses, files and services of the broker's: strangers are told the reason and the remedy."""
JSON = "application/json"
PROBLEM = "application/problem+json"

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Model)


async def body(request: Request, limit: int) -> bytes:
    """The request's whole body; raises BrokerError: MessageTooLarge over `limit` bytes, MessageTooSlow over BODY_SECONDS."""
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and int(stated[:20]) > limit:  # before it is sent, where the client asks (100-continue)
        raise _too_large(limit)
    read = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                read += piece
                if len(read) > limit:
                    raise _too_large(limit)
    except TimeoutError as error:
        words = f"the message did not arrive within {BODY_SECONDS:g} s"
        raise BrokerError(BrokerReason.MESSAGE_TOO_SLOW, words, "send it again, over a faster way") from error
    return bytes(read)


def _too_large(limit: int) -> BrokerError:
    return BrokerError(BrokerReason.MESSAGE_TOO_LARGE, f"the message is over {limit} bytes", "send less")


async def message(request: Request, model: type[M], limit: int) -> M:
    """The request's body as a message of this type.

    What can be read is taken, whatever its Content-Type says: curl calls every body a form unless it is told otherwise.  Raises
    BrokerError: those of `body`; MessageMalformed; ContentTypeUnsupported for what cannot be read and does not say that it is JSON
    (RFC 9110, section 15.5.16: because of its stated type, or of what it is seen to be).
    """
    raw = await body(request, limit)
    try:
        return _parsed(model, raw)
    except BrokerError as error:
        stated = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if stated in ("", JSON):  # who states none leaves it to the reader (RFC 9110, section 8.3)
            raise
        raise unsupported(model.__name__, error.detail) from None


def _parsed(model: type[M], raw: bytes) -> M:
    """A message of this type; raises BrokerError (MessageMalformed) that never repeats the input."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        raise malformed(model.__name__, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found[:8])[:1024]) from None


def unsupported(what: str, detail: str) -> BrokerError:
    """The error for a message that cannot be read and that says itself that it is no JSON."""
    return BrokerError(
        BrokerReason.CONTENT_TYPE_UNSUPPORTED,
        f"the message cannot be read as {what}, and its Content-Type is not application/json",
        "send JSON, with the header Content-Type: application/json",
        detail,
    )


def malformed(what: str, detail: str) -> BrokerError:
    """The error for a message, or a query, that cannot be read."""
    return BrokerError(BrokerReason.MESSAGE_MALFORMED, f"{what} is not in the form of this version", "compare the versions", detail)


def label(name: str) -> str:
    """A key id or policy name from the path; raises BrokerError (NotFound) for what is not a DNS label."""
    if not LABEL.fullmatch(name):
        raise BrokerError(BrokerReason.NOT_FOUND, "key ids and policy names are DNS labels", "check the path")
    return name


def result_name(name: str) -> str:
    """A result's id as a stranger names it: itself where it can be one, else one that no result has."""
    return name if RESULT.fullmatch(name) else NO_RESULT


def parameters(request: Request, known: Collection[str]) -> dict[str, str]:
    """The query's parameters; raises BrokerError (MessageMalformed) for unknown, repeated, overlong or unprintable ones."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known or name in found or len(value) > MAX_PARAMETER or not value.isprintable():
            raise malformed("the query", f"parameter {name[:64]!r} is unknown, repeated, over {MAX_PARAMETER} characters or unprintable")
        found[name] = value
    return found


def whole_number(text: str, name: str, least: int, most: int) -> int:
    """A parameter's value; raises BrokerError (MessageMalformed)."""
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
        raise malformed("the query", f"{name} must be {least} to {most}")
    return int(text)


def answer(message: Model, status: int = 200) -> Response:
    """The message as JSON, absent fields left out."""
    return Response(message.model_dump_json(by_alias=True, exclude_none=True), status_code=status, media_type=JSON)


def problem(error: ChrysalisError, status: int) -> Response:
    """The refusal as a problem document with every reason; what a library said of the broker's own surroundings goes to its log."""
    reasons = [NamedReason.model_validate(error.as_dict())]
    title = "The broker refused"
    if isinstance(error, EvidenceRefused):
        reasons, title = error.reasons, f"The evidence was refused (result {error.result_id})"
    for reason in reasons:
        if reason.reason in OWN_AFFAIRS and reason.detail:
            log.error("not for callers", extra={"event": "DetailWithheld", "reason": reason.reason, "error": reason.detail})
    reasons = [reason.model_copy(update={"detail": ""}) if reason.reason in OWN_AFFAIRS else reason for reason in reasons]
    document = Problem(
        title=title, status=status, reason=reasons[0].reason, detail=reasons[0].message, remedy=reasons[0].remedy, reasons=reasons
    )
    headers: dict[str, str] = {}
    if status in (429, 503):
        headers["retry-after"] = "1"
    if status == 401:
        headers["www-authenticate"] = "Bearer"  # RFC 9110, section 15.5.2
    if status == 415:
        headers["accept"] = JSON  # RFC 9110, section 12.5.1: in an answer, what the next request may send
    return Response(document.model_dump_json(by_alias=True), status_code=status, media_type=PROBLEM, headers=headers)
