"""The cache of collateral: proved before it is kept, never going back, good until its nextUpdate, shared by the replicas.

1. A document is asked for only when the quote that needs it was proved to come from a platform under the policy's trust
   root, and only so many unknown platforms a minute.
2. What comes is checked without any quote (chrysalis.attestation.collateral_check); only genuine and current documents are
   kept, each under its trust root, and one that is older than the kept one is refused and reported.
3. At half of its life a document is asked for again, in the background (`refresh`); attestations do not wait for that.
   As long as no source answers well, the last good document serves until it ends; after that nothing is accepted.
4. One replica asks at a time: it claims the document's row for the time that an answer may take.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chrysalis.attestation import anchor as anchors
from chrysalis.attestation import collateral_file, pck_chain
from chrysalis.attestation.anchor import INTEL_ANCHOR, TrustAnchor
from chrysalis.attestation.collateral import MAX_COLLATERAL_BYTES, Collateral
from chrysalis.attestation.collateral_check import check, root_of
from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument, join, split
from chrysalis.attestation.pck_chain import Platform
from chrysalis.attestation.quote import Quote
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.broker import collateral_schedule as schedule
from chrysalis.broker.collateral_reasons import REMEDIES, Answer, CollateralReason, DocumentKey, Failure
from chrysalis.broker.collateral_store import Kept, Row
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.pccs import CollateralFetcher
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.remembered import Remembered
from chrysalis.broker.store import Store
from chrysalis.clock import Clock, from_unix, rfc3339, unix

log = logging.getLogger(__name__)

CLAIM_SECONDS = 90
"""More than the longest `collateral.timeoutSeconds`: a replica that died gives its claim back after this."""
WAIT_SECONDS = 2.0
"""How long an attestation waits for a fetch that another one has begun; then the worker is told to come back."""
CONCURRENT_FETCHES = 2
"""By attestations, so that a PCCS that hangs does not hold all of their threads."""
UNKNOWN_BURST, UNKNOWN_PER_MINUTE = 16, 8
"""Platforms that were never seen before, for which this replica asks."""
REFRESH_SECONDS = 20.0
"""A round of `refresh` begins no further requests after this."""
BATCH = 16
FORGET_SECONDS = 3600
JOINED = 64
"""Platforms whose collateral is kept parsed."""
MAX_PRELOADED = 256
_CODE = AttestationReason


@dataclass(frozen=True)
class DocumentStatus:
    """One document as an operator sees it.  Times are Unix seconds, 0 where there is none.

    state: Current, Expired, or Missing.  reason: of the last failure since it was confirmed, or empty.
    """

    root: str
    document: str
    name: str
    update: str
    state: str
    number: int
    issued_at: int
    ends_at: int
    checked_at: int
    next_attempt_at: int
    failures: int
    reason: str
    failed_at: int


class CollateralCache:
    """Collateral by trust root, FMSPC, PCK authority and update channel.  Thread-safe."""

    def __init__(self, *, store: Store, fetcher: CollateralFetcher | None, update_channel: str, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._fetcher = fetcher
        self._channel = update_channel
        self._clock = clock
        self._metrics = metrics
        self._replica = secrets.token_hex(8)
        self._lock = threading.Lock()  # of the members below
        self._anchors: dict[str, TrustAnchor] = {INTEL_ANCHOR.sha256: INTEL_ANCHOR}
        self._known: Remembered[tuple[DocumentKey, ...], dict[DocumentKey, Row]] = Remembered(JOINED)
        self._joined: OrderedDict[tuple[str, ...], Collateral] = OrderedDict()
        # Whoever owns a simulated root certifies any number of platforms; real ones do not queue behind those.
        self._allowances = {real: schedule.Allowance(UNKNOWN_BURST, UNKNOWN_PER_MINUTE, clock.monotonic()) for real in (False, True)}
        self._subscribers: list[Callable[[Sequence[DocumentKey]], None]] = []
        self._slots = threading.BoundedSemaphore(CONCURRENT_FETCHES)
        self._asking: dict[tuple[str, str], threading.Lock] = {}
        self._preload: tuple[Path, ...] = ()
        self._loaded: dict[Path, tuple[int, int]] = {}

    def for_quote(self, quote: Quote, anchor: TrustAnchor, at: datetime, *, ask: bool = True, shared: int | None = None) -> Collateral:
        """The collateral of a quote's platform under a trust anchor; may ask for what is missing or has ended.

        shared: `Inputs.shared` as read a moment ago: documents that serve are not replaced without it.
        It may still have ended when no source answers: the appraisal then refuses it (CollateralExpired).  Raises
        AttestationError for a quote that is not proved to be of a platform under the anchor, BrokerError
        (CollateralUnavailable, CollateralMissing) where a document was never had.
        """
        platform = pck_chain.claimed(quote)
        keys = self.keys(platform, anchor)
        now = unix(at)
        rows = self._known.find(keys, shared, lambda: self._store.collateral_rows(keys)) or {}
        wanting = [key for key in keys if not _serves(rows.get(key), now)]
        if wanting and shared is not None:  # one that comes for the first time replaces none
            rows = self._store.collateral_rows(keys)
            wanting = [key for key in keys if not _serves(rows.get(key), now)]
        if wanting:
            if pck_chain.prove(quote, anchor, at) != platform:
                raise AttestationError(_CODE.CERTIFICATE_INVALID, "the quote names one platform and is certified for another")
            self._remember(anchor)
            if ask:
                self._ask(anchor, wanting, rows, now)
            rows = self._store.collateral_rows(keys)
        missing = [key for key in keys if not _held(rows.get(key))]
        if missing:
            raise self._unavailable(missing[0], rows.get(missing[0]))
        return self._join(keys, rows)

    def keys(self, platform: Platform, anchor: TrustAnchor) -> tuple[DocumentKey, ...]:
        """The four documents of a platform's collateral, in the order of DocumentKind."""
        return (
            DocumentKey(anchor.sha256, DocumentKind.ROOT_CRL),
            DocumentKey(anchor.sha256, DocumentKind.PCK_CRL, platform.ca),
            DocumentKey(anchor.sha256, DocumentKind.TCB_INFO, platform.fmspc, self._channel),
            DocumentKey(anchor.sha256, DocumentKind.QE_IDENTITY, "", self._channel),
        )

    def subscribe(self, callback: Callable[[Sequence[DocumentKey]], None]) -> None:
        """Call back, on the thread that stored them and after they are durable, with the documents that have changed.

        Re-appraisal does not hang on this: the store asks for it in the transaction that changes the document.
        """
        with self._lock:
            self._subscribers.append(callback)

    def preload(self, paths: Sequence[Path]) -> None:
        """Keep the documents of these files and folders, now and whenever they change (looked at by `refresh`).

        Raises BrokerError (SettingsInvalid) for a file that cannot be read or is not genuine.  Documents that have ended or
        are older than the kept ones are left out, and reported.
        """
        self._preload = tuple(paths)
        for path in self._files():
            self._load(path)

    def refresh(self) -> None:
        """Ask for what is past half of its life and read preloaded files that changed; called now and then.

        Takes at most about REFRESH_SECONDS and one answer's time, whatever the sources do.
        """
        self._reload()
        now, begun = unix(self._clock.now()), self._clock.monotonic()
        self._store.forget_missing_collateral(now - FORGET_SECONDS)
        rows = self._store.collateral_rows()
        self._measure(rows.values(), now)
        if self._fetcher is None:
            return
        due: dict[str, list[DocumentKey]] = {}
        for row in rows.values():
            if row.digest and row.next_attempt_at <= now and row.key.update in ("", self._channel):
                due.setdefault(row.key.root, []).append(row.key)
        for root, keys in due.items():
            anchor = self._anchor(root, rows)
            for start in range(0, len(keys) if anchor else 0, BATCH):
                if anchor is None or self._clock.monotonic() - begun > REFRESH_SECONDS:
                    return
                self._fetch(anchor, _ordered(keys[start : start + BATCH]), rows)

    def status(self) -> list[DocumentStatus]:
        """Every document, those that never came included."""
        now = unix(self._clock.now())
        return [
            DocumentStatus(
                root=_root_name(row.key.root),
                document=row.key.kind.value,
                name=row.key.name,
                update=row.key.update,
                state="Current" if _serves(row, now) else "Expired" if row.digest else "Missing",
                number=row.number,
                issued_at=row.issued_at,
                ends_at=row.ends_at,
                checked_at=row.checked_at,
                next_attempt_at=row.next_attempt_at,
                failures=row.failures,
                reason=row.reason,
                failed_at=row.failed_at,
            )
            for row in self._store.collateral_rows().values()
        ]

    def status_json(self) -> bytes:
        """The status as JSON, for the metrics port."""
        return json.dumps({"schemaVersion": "chrysalis/v1", "documents": [vars(document) for document in self.status()]}).encode()

    # Asking

    def _ask(self, anchor: TrustAnchor, wanting: Sequence[DocumentKey], rows: Mapping[DocumentKey, Row], now: int) -> None:
        """Fetch what an attestation waits for, unless somebody does it now or it was tried a moment ago."""
        if self._fetcher is None:
            return
        ready = [key for key in wanting if key not in rows or rows[key].next_attempt_at <= now]
        unknown = any(key.kind is DocumentKind.TCB_INFO and key not in rows for key in ready)
        if not ready:
            return
        lock = self._lock_of(anchor.sha256, wanting)
        if not lock.acquire(timeout=WAIT_SECONDS):
            return
        try:
            rows = self._store.collateral_rows(wanting)  # whoever held the lock may have brought them
            ready = [key for key in ready if not _serves(rows.get(key), now) and (key not in rows or rows[key].next_attempt_at <= now)]
            if not ready:
                return
            if unknown and not self._may_ask_for_one_more(anchor):
                self._metrics.collateral_failures.labels(DocumentKind.TCB_INFO.value, CollateralReason.TOO_MANY_PLATFORMS).inc()
                raise BrokerError(
                    BrokerReason.COLLATERAL_UNAVAILABLE,
                    "too many platforms that were never seen before ask to be admitted",
                    REMEDIES[CollateralReason.TOO_MANY_PLATFORMS],
                    CollateralReason.TOO_MANY_PLATFORMS,
                )
            if not self._slots.acquire(timeout=WAIT_SECONDS):
                return
            try:
                if not self._fetch(anchor, ready, rows):
                    self._wait_for_another_replica(ready, now)
            finally:
                self._slots.release()
        finally:
            lock.release()

    def _wait_for_another_replica(self, keys: Sequence[DocumentKey], now: int) -> None:
        for _ in range(int(WAIT_SECONDS / 0.1)):
            rows = self._store.collateral_rows(keys)
            if all(_serves(rows.get(key), now) or (key in rows and rows[key].failures) for key in keys):
                return
            time.sleep(0.1)

    def _fetch(self, anchor: TrustAnchor, keys: Sequence[DocumentKey], rows: Mapping[DocumentKey, Row]) -> bool:
        """Ask for documents of one anchor and keep what is good; False when another replica asks for all of them."""
        if self._fetcher is None:
            return False
        claimed = self._store.claim_collateral(keys, self._replica, unix(self._clock.now()), CLAIM_SECONDS)
        if not claimed:
            return False
        self._keep(anchor, self._fetcher.fetch(claimed, anchor), rows)
        return True

    def _keep(self, anchor: TrustAnchor, answers: Mapping[DocumentKey, Answer], rows: Mapping[DocumentKey, Row]) -> None:
        now = self._clock.now()
        failures: dict[DocumentKey, Failure] = {key: answer for key, answer in answers.items() if isinstance(answer, Failure)}
        good: list[tuple[DocumentKey, SignedDocument, int]] = []
        root_crl = self._store.collateral_document(DocumentKey(anchor.sha256, DocumentKind.ROOT_CRL))
        for key in _ordered(answers):
            document = answers[key]
            if isinstance(document, Failure):
                continue
            try:
                check(document, anchor, now, name=key.name, root_crl=root_crl)
                good.append((key, document, schedule.after_success(unix(now), unix(document.ends), _spread())))
            except AttestationError as error:
                failures[key] = Failure(error.reason, error.message, error.detail)
                continue
            if key.kind is DocumentKind.ROOT_CRL and (root_crl is None or not document.goes_back_behind(root_crl)):
                root_crl = document  # what it revokes does not sign the others any more
        for key, outcome in self._store_all(good, unix(now)).items():
            self._metrics.collateral_fetches.labels(outcome.value).inc()
            if outcome is Kept.ROLLED_BACK:
                failures[key] = _rolled_back(key)
        for key, failure in failures.items():
            self._failed(key, failure, rows.get(key), unix(now))

    def _store_all(self, good: Sequence[tuple[DocumentKey, SignedDocument, int]], now: int) -> dict[DocumentKey, Kept]:
        if not good:
            return {}
        kept = self._store.keep_collateral(good, now)
        changed = [key for key, outcome in kept.items() if outcome is Kept.STORED]
        for key in changed:
            log.info("collateral stored", extra={"event": "CollateralStored", "document": key.kind.value, "subject": key.name})
        if changed:
            with self._lock:
                subscribers = list(self._subscribers)
            for callback in subscribers:
                callback(changed)
        return kept

    def _failed(self, key: DocumentKey, failure: Failure, row: Row | None, now: int) -> None:
        self._metrics.collateral_fetches.labels("failed").inc()
        self._metrics.collateral_failures.labels(key.kind.value, failure.reason.value).inc()
        unknown = failure.reason is CollateralReason.NOT_FOUND
        failures = (row.failures if row else 0) + 1
        next_attempt_at = schedule.after_failure(now, failures, _spread(), held=_serves(row, now), unknown=unknown)
        self._store.collateral_failed(key, failure.reason.value, now, next_attempt_at)
        log.warning(
            "collateral not taken: %s",
            failure.message,
            extra={
                "event": "CollateralRolledBack" if failure.reason is CollateralReason.ROLLED_BACK else "CollateralNotTaken",
                "reason": failure.reason.value,
                "document": key.kind.value,
                "subject": key.name,
                "detail": failure.detail,
            },
        )

    def _unavailable(self, key: DocumentKey, row: Row | None) -> BrokerError:
        reason = row.reason if row and row.reason else CollateralReason.NO_SOURCE if self._fetcher is None else ""
        what = f"{key.kind.value} of {key.name}" if key.name else key.kind.value
        known = reason in CollateralReason.__members__.values()
        return BrokerError(
            BrokerReason.COLLATERAL_MISSING if self._fetcher is None else BrokerReason.COLLATERAL_UNAVAILABLE,
            f"there is no {what} to judge this platform with" + (f": {reason}" if reason else "; it is being asked for"),
            REMEDIES[CollateralReason(reason)] if known else "check what answers at collateral.url, or preload collateral from files",
            f"{reason} at {rfc3339(from_unix(row.failed_at))}" if row and row.reason else "",
        )

    # Files

    def _files(self) -> list[Path]:
        found: list[Path] = []
        for path in self._preload:
            found += sorted(path.glob("*.json")) if path.is_dir() else [path]
        return found[:MAX_PRELOADED]

    def _load(self, path: Path) -> None:
        try:
            stat = path.stat()
            with path.open("rb") as file:
                collateral = collateral_file.read(file.read(MAX_COLLATERAL_BYTES + 1))
            anchor = root_of(collateral)
            ca = pck_chain.authority_of_crl(split(collateral)[DocumentKind.PCK_CRL].certificates)
            keys = self.keys(Platform(collateral.tcb.fmspc, ca), anchor)
            documents = split(collateral)
            good, now = [], self._clock.now()
            for key in keys:
                document = documents[key.kind]
                try:
                    check(document, anchor, now, name=key.name, root_crl=documents[DocumentKind.ROOT_CRL])
                    good.append((key, document, schedule.after_success(unix(now), unix(document.ends), _spread())))
                except AttestationError as error:
                    if error.reason not in (_CODE.COLLATERAL_EXPIRED, _CODE.COLLATERAL_NOT_YET_VALID, _CODE.CERTIFICATE_EXPIRED):
                        raise
                    self._left_out(path, key, error.reason.value)
        except (OSError, AttestationError) as error:
            raise BrokerError(
                BrokerReason.SETTINGS_INVALID, f"{path} is no genuine collateral", "preload QuoteCollateralV3 JSON files", str(error)
            ) from error
        self._remember(anchor)
        self._loaded[path] = (stat.st_mtime_ns, stat.st_size)
        for key, outcome in self._store_all(good, unix(now)).items():
            if outcome is Kept.ROLLED_BACK:
                self._left_out(path, key, CollateralReason.ROLLED_BACK.value)

    def _left_out(self, path: Path, key: DocumentKey, reason: str) -> None:
        self._metrics.collateral_failures.labels(key.kind.value, reason).inc()
        extra = {"event": "CollateralPreload", "reason": reason, "document": key.kind.value, "subject": key.name, "file": str(path)}
        log.warning("a document of a preloaded file is not taken", extra=extra)

    def _reload(self) -> None:
        for path in self._files():
            try:
                stat = path.stat()
                if self._loaded.get(path) != (stat.st_mtime_ns, stat.st_size):
                    self._loaded[path] = (stat.st_mtime_ns, stat.st_size)  # a bad file is reported once
                    self._load(path)
            except (OSError, BrokerError) as error:
                reason = error.reason if isinstance(error, BrokerError) else type(error).__name__
                log.error("a preloaded file cannot be used", extra={"event": "CollateralPreload", "reason": reason, "file": str(path)})

    # What is kept

    def _join(self, keys: Sequence[DocumentKey], rows: Mapping[DocumentKey, Row]) -> Collateral:
        """The collateral of rows that are all there; parsed once for each set of documents."""
        digests = tuple(rows[key].digest for key in keys)
        with self._lock:
            found = self._joined.get(digests)
            if found is not None:
                self._joined.move_to_end(digests)
                return found
        documents = {key.kind: self._store.collateral_document(key) for key in keys}
        collateral = join({kind: document for kind, document in documents.items() if document is not None})
        with self._lock:
            self._joined[tuple(document.digest for document in documents.values() if document)] = collateral
            while len(self._joined) > JOINED:
                self._joined.popitem(last=False)
        return collateral

    def _anchor(self, root: str, rows: Iterable[DocumentKey]) -> TrustAnchor | None:
        """The anchor of a digest; one that no policy named since the start is in the chain of its own documents."""
        with self._lock:
            found = self._anchors.get(root)
        if found is not None:
            return found
        for key in rows:
            document = self._store.collateral_document(key) if key.root == root and key.kind is not DocumentKind.ROOT_CRL else None
            if document is not None:
                last = anchors.of_certificate(document.certificates[-1])
                if last.sha256 == root:
                    self._remember(last)
                    return last
        return None

    def _remember(self, anchor: TrustAnchor) -> None:
        with self._lock:
            self._anchors[anchor.sha256] = anchor

    def _may_ask_for_one_more(self, anchor: TrustAnchor) -> bool:
        with self._lock:
            return self._allowances[anchor.sha256 == INTEL_ANCHOR.sha256].take(self._clock.monotonic())

    def _lock_of(self, root: str, keys: Sequence[DocumentKey]) -> threading.Lock:
        name = next((key.name for key in keys if key.kind is DocumentKind.TCB_INFO), "")
        with self._lock:
            if len(self._asking) > 4 * JOINED:
                self._asking = {key: lock for key, lock in self._asking.items() if lock.locked()}
            return self._asking.setdefault((root, name), threading.Lock())

    def _measure(self, rows: Iterable[Row], now: int) -> None:
        for row in rows:
            if row.digest:
                labels = (row.key.kind.value, row.key.name, _root_name(row.key.root))
                self._metrics.collateral_expiry.labels(*labels).set(row.ends_at)
                self._metrics.collateral_age.labels(*labels).set(now - row.checked_at)


def _held(row: Row | None) -> bool:
    return row is not None and bool(row.digest)


def _serves(row: Row | None, now: int) -> bool:
    """Whether there is a document and it has not ended."""
    return row is not None and bool(row.digest) and now < row.ends_at


def _ordered(keys: Iterable[DocumentKey]) -> list[DocumentKey]:
    order = list(DocumentKind)
    return sorted(keys, key=lambda key: (order.index(key.kind), key.name))


def _rolled_back(key: DocumentKey) -> Failure:
    return Failure(CollateralReason.ROLLED_BACK, f"the {key.kind.value} that was served is older than the one that is kept")


def _root_name(root: str) -> str:
    return "Intel" if root == INTEL_ANCHOR.sha256 else root[:16]


def _spread() -> float:
    return secrets.randbelow(1 << 20) / (1 << 20)
