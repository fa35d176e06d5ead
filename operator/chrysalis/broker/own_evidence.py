"""The broker's evidence about itself: a broker that says InTD shows every asker a fresh quote over its own keys."""

from __future__ import annotations

import base64
import json
import secrets
import threading

import httpx

from chrysalis.api.policy import Placement
from chrysalis.attestation import anchor
from chrysalis.attestation import quote as quotes
from chrysalis.attestation.broker_binding import bind_broker
from chrysalis.attestation.reasons import AttestationError
from chrysalis.broker.collateral import CollateralCache
from chrysalis.broker.own_evidence_settings import OwnEvidenceSettings
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.state_keys import StateKeys
from chrysalis.clock import Clock
from chrysalis.errors import ChrysalisError
from chrysalis.wire.broker import MAX_EVENT_LOG_BYTES, MAX_QUOTE_BYTES
from chrysalis.wire.broker_evidence import BrokerEvidence

MAX_ANSWER_BYTES = (MAX_QUOTE_BYTES + MAX_EVENT_LOG_BYTES) * 4 // 3 + 4096
NONCE_BYTES = 32
QUOTES_PER_SECOND = 1.0
QUOTE_BURST = 8
"""A quote costs the platform, and it is anybody who asks."""


class OwnEvidence:
    """Makes the broker's own evidence.  Thread-safe; one quote at a time."""

    def __init__(self, settings: OwnEvidenceSettings | None, *, keys: StateKeys, collateral: CollateralCache, clock: Clock) -> None:
        self._settings = settings
        self._keys = keys
        self._collateral = collateral
        self._clock = clock
        self._quoting = threading.Lock()
        self._left = float(QUOTE_BURST)
        self._left_at = clock.monotonic()

    def check(self) -> None:
        """Make a quote once, so that a broker that only says InTD does not start; raises BrokerError (OwnEvidenceUnavailable)."""
        if self._settings is not None:
            self._quote(self._settings, secrets.token_bytes(NONCE_BYTES))

    def make(self, nonce: bytes) -> BrokerEvidence:
        """Fresh evidence over a nonce of 32 bytes.

        Raises BrokerError: NotFound where the broker is in no trust domain, Busy, OwnEvidenceUnavailable.
        """
        settings = self._settings
        if settings is None:
            raise BrokerError(
                BrokerReason.NOT_FOUND,
                "this broker does not run in a trust domain and has no evidence about itself",
                "trust it as you trust whoever runs it, or use a broker whose placement is InTD",
            )
        self._take()
        quote, event_log = self._quote(settings, nonce)
        return BrokerEvidence(
            placement=Placement.IN_TD,
            nonce=nonce.hex(),
            spki_sha256=self._keys.tls_spki_sha256.hex(),
            ear_key=self._keys.ear_public.hex(),
            quote=base64.b64encode(quote).decode(),
            event_log=base64.b64encode(event_log).decode(),
            collateral=self._documents(settings, quote),
        )

    def _take(self) -> None:
        now = self._clock.monotonic()
        with self._quoting:
            self._left = min(float(QUOTE_BURST), self._left + (now - self._left_at) * QUOTES_PER_SECOND)
            self._left_at = now
            if self._left < 1:
                raise BrokerError(BrokerReason.BUSY, "too many quotes were asked for", "ask again in some seconds")
            self._left -= 1

    def _quote(self, settings: OwnEvidenceSettings, nonce: bytes) -> tuple[bytes, bytes]:
        bound = bind_broker(nonce=nonce, tls_spki_sha256=self._keys.tls_spki_sha256, ear_key=self._keys.ear_public)
        with self._quoting:
            quote, event_log = _ask(settings, bound.report_data)
        try:
            if quotes.parse(quote).report_data != bound.report_data:
                raise _unavailable("the quote does not carry the report data that was asked for")
        except AttestationError as error:
            raise _unavailable(f"{error.reason}: {error.message}") from error
        return quote, event_log

    def _documents(self, settings: OwnEvidenceSettings, quote: bytes) -> str:
        """Collateral of the own platform; "" when there is none at hand: the asker may have it."""
        try:
            parsed, root = quotes.parse(quote), anchor.from_der(settings.root) if settings.root else anchor.INTEL_ANCHOR
            return self._collateral.for_quote(parsed, root, self._clock.now()).to_json()
        except ChrysalisError:
            return ""


def _ask(settings: OwnEvidenceSettings, report_data: bytes) -> tuple[bytes, bytes]:
    """Quote and boot event log from the guest's service; raises BrokerError (OwnEvidenceUnavailable)."""
    query = {"runtime_data": base64.b64encode(report_data).decode(), "encoding": "base64"}
    url = settings.url.rstrip("/") + "/aa/evidence"
    raw = bytearray()
    try:
        with (
            httpx.Client(timeout=settings.timeout_seconds, trust_env=False) as http,
            http.stream("GET", url, params=query) as response,
        ):
            for chunk in response.iter_bytes():
                raw += chunk
                if len(raw) > MAX_ANSWER_BYTES:
                    raise _unavailable(f"the answer is over {MAX_ANSWER_BYTES} bytes")
            if response.status_code != httpx.codes.OK:
                raise _unavailable(f"HTTP {response.status_code}")
        answer = json.loads(raw)
        quote = base64.b64decode(answer["quote"], validate=True)
        event_log = base64.b64decode(answer.get("cc_eventlog") or "", validate=True)
    except httpx.HTTPError as error:
        raise _unavailable(f"{type(error).__name__}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unavailable(f"the answer is not the JSON that is expected: {type(error).__name__}") from error
    if not quote or len(quote) > MAX_QUOTE_BYTES or len(event_log) > MAX_EVENT_LOG_BYTES:
        raise _unavailable(f"a quote of {len(quote)} bytes, an event log of {len(event_log)} bytes")
    return quote, event_log


def _unavailable(detail: str) -> BrokerError:
    return BrokerError(
        BrokerReason.OWN_EVIDENCE_UNAVAILABLE,
        "the broker's placement is InTD, but no evidence about it can be had",
        "run it in a trust domain whose guest offers the attestation service that `ownEvidence` names, or state its true placement",
        detail,
    )
