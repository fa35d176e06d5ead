"""The cache of OCSP answers: proved before they are kept, never going back, good until their nextUpdate, shared by the replicas.

1. An attestation has proved its evidence before it comes here; what it needs and is not at hand is asked for, all at once, and
   noted before that: where its owner may ask, since a tenant's own root certifies any number of authorities.
2. At half of its life an answer is asked for again, in the background (`refresh`).  As long as the responder does not answer, the
   last good answer serves until its nextUpdate, at most MAX_LIFE_SECONDS; after that nothing is accepted.
3. An answer that revokes serves like any other; it has all living results judged again (chrysalis.broker.ocsp_store).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as builders

from chrysalis.attestation.gpu import ocsp
from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.broker import collateral_schedule as schedule
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.ocsp_store import NewAnswer, OcspKept, OcspRow, OcspState
from chrysalis.broker.service_rest import ServiceRest
from chrysalis.broker.store import Store
from chrysalis.clock import Clock, unix
from chrysalis.wire.gpu_services import OcspClient, Pair, Unavailable, unavailable

log = logging.getLogger(__name__)

MAX_LIFE_SECONDS = 7 * 86400
"""An answer that is current for longer is asked for again all the same, and serves no longer without that."""
FORGET_SECONDS = 8 * 86400
"""A certificate that no attestation needed for so long is forgotten."""
NOTE_SECONDS = 3600
"""How exactly that is noted."""
BATCH = 32
REFRESH_SECONDS = 20.0
"""A round of `refresh` begins no further requests after this."""


class OcspCache:
    """Answers by certificate.  Thread-safe."""

    def __init__(self, *, store: Store, client: OcspClient, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._client = client
        self._clock = clock
        self._metrics = metrics
        self._rest = ServiceRest("the OCSP responder", clock)

    def answers(self, pairs: Sequence[Pair], asking: Callable[[], AbstractContextManager[None]]) -> list[bytes]:
        """A proved and current answer about each certificate; asks, within `asking()`, for those that are not at hand.

        Raises GpuError (GpuServiceUnavailable) where there is none, and whatever `asking` refuses with.
        """
        now, named = unix(self._clock.now()), {_digest(certificate): (certificate, issuer) for certificate, issuer in pairs}
        rows = self._store.ocsp_rows(named)
        wanting = [digest for digest in named if not _serves(rows.get(digest), now)]
        if wanting and all(digest in rows and rows[digest].next_attempt_at > now for digest in wanting):
            raise unavailable("the OCSP responder", "it gave no usable answer a moment ago")
        if wanting:
            self._rest.check()
        with asking() if wanting else contextlib.nullcontext():
            unnoted = [digest for digest in named if digest not in rows or rows[digest].used_at < now - NOTE_SECONDS]
            if unnoted:
                self._store.note_ocsp([(digest, _der(named[digest][0]), _der(named[digest][1])) for digest in unnoted], now)
                rows = self._store.ocsp_rows(named)
            if wanting:
                self._rest.begin()
                self._fetch([rows[digest] for digest in wanting if digest in rows])
        if wanting:
            now = unix(self._clock.now())
            rows = self._store.ocsp_rows(named)
        found = [row.body for digest in named if (row := rows.get(digest)) and _serves(row, now) and row.body is not None]
        if len(found) < len(named):
            raise unavailable("the OCSP responder", f"{len(named) - len(found)} of {len(named)} certificates have no current answer")
        return found

    def known(self, pairs: Sequence[Pair]) -> list[bytes]:
        """What is kept about these certificates and is current; asks nobody."""
        now, rows = unix(self._clock.now()), self._store.ocsp_rows([_digest(certificate) for certificate, _ in pairs])
        return [row.body for row in rows.values() if row.body is not None and _serves(row, now)]

    def refresh(self) -> None:
        """Ask again for what is past half of its life; takes at most about REFRESH_SECONDS and one answer's time."""
        begun = self._clock.monotonic()
        self._store.forget_ocsp(unix(self._clock.now()) - FORGET_SECONDS)
        while rows := self._store.ocsp_due(unix(self._clock.now()), BATCH):
            self._fetch(rows)
            if self._clock.monotonic() - begun > REFRESH_SECONDS:
                return

    def _fetch(self, rows: Sequence[OcspRow]) -> None:
        """Ask about all of these and keep what is proved."""
        pairs = [(x509.load_der_x509_certificate(row.certificate), x509.load_der_x509_certificate(row.issuer)) for row in rows]
        good: list[NewAnswer] = []
        failures: dict[str, GpuError] = {}
        answers = self._asked(pairs)
        now = unix(self._clock.now())
        for row, answer in zip(rows, answers, strict=True):
            if isinstance(answer, GpuError):
                failures[row.digest] = answer
            else:
                good.append(_new(row.digest, answer, now))
        kept = self._store.keep_ocsp(good, now) if good else {}
        for digest, outcome in kept.items():
            if outcome is OcspKept.ROLLED_BACK:
                failures[digest] = unavailable("the OCSP responder", "its answer is older than the one that is kept")
        by_digest = {row.digest: row for row in rows}
        for digest, failure in failures.items():
            row = by_digest[digest]
            wait = schedule.after_failure(now, row.failures + 1, secrets.randbelow(1000) / 1000, held=_serves(row, now))
            self._store.ocsp_failed(digest, wait)
            detail = {"event": "OcspFailed", "certificate": digest, "detail": failure.detail}
            log.warning("no usable OCSP answer", extra=detail)
        self._metrics.gpu_service_requests.labels("ocsp", "answered").inc(len(rows) - len(failures))
        self._metrics.gpu_service_requests.labels("ocsp", "failed").inc(len(failures))

    def _asked(self, pairs: Sequence[Pair]) -> list[bytes | GpuError]:
        silent = False
        try:
            answers = self._client.fetch(pairs)
            silent = bool(answers) and all(isinstance(answer, Unavailable) and answer.silent for answer in answers)
            return answers
        finally:
            self._rest.ended(silent=silent)


def _new(digest: str, body: bytes, now: int) -> NewAnswer:
    response = ocsp.read([body])[0].response
    until = response.next_update_utc
    if until is None:
        raise AssertionError("a proved answer says until when it is current")
    ends_at = min(unix(until), now + MAX_LIFE_SECONDS)
    revoked = response.certificate_status == builders.OCSPCertStatus.REVOKED
    return NewAnswer(
        digest,
        body,
        OcspState.REVOKED if revoked else OcspState.GOOD,
        unix(response.this_update_utc),
        ends_at,
        schedule.after_success(now, ends_at, secrets.randbelow(1000) / 1000),
    )


def _serves(row: OcspRow | None, now: int) -> bool:
    return row is not None and row.body is not None and now < row.ends_at


def _digest(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
