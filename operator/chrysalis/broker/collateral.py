"""The cache of collateral: fetched early, never going back, kept until it ends.

Fetched documents are candidates: an appraisal uses them first, and only when it proves them genuine do they replace what
is stored.  So a false answer from the network can neither evict good collateral nor raise the mark that protects against
older documents (with real ones, going back turned OutOfDate into UpToDate).
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chrysalis.attestation.collateral import MAX_COLLATERAL_BYTES, Collateral, chain, common_name
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.pccs import CollateralFetcher
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.store import Store
from chrysalis.clock import Clock, from_unix, unix

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
"""After a fetch that failed."""
UNCHANGED_SECONDS = 900.0
"""After a fetch that brought nothing new."""
JITTER_PERCENT = 20


@dataclass(frozen=True)
class Candidate:
    """Collateral to appraise with, and whether it is the stored one."""

    fmspc: str
    ca: str
    collateral: Collateral
    stored: bool


class CollateralCache:
    """Collateral by (FMSPC, PCK authority) and the settings' update channel.  Thread-safe."""

    def __init__(self, *, store: Store, fetcher: CollateralFetcher | None, update_channel: str, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._fetcher = fetcher
        self._channel = update_channel
        self._clock = clock
        self._metrics = metrics
        self._lock = threading.Lock()
        self._fetching: dict[tuple[str, str], threading.Lock] = {}
        self._fresh: dict[tuple[str, str], Collateral] = {}
        self._not_before: dict[tuple[str, str], float] = {}  # monotonic time of the next attempt

    def candidates(self, fmspc: str, ca: str) -> Sequence[Candidate]:
        """What to appraise with, best first; raises BrokerError (CollateralUnavailable, CollateralMissing)."""
        key = (fmspc.upper(), ca)
        held = self._held(key)
        failure: BrokerError | None = None
        if held is None or self._due(key, held):
            with self._lock_of(key):
                try:
                    self._fetch(key, held)
                except BrokerError as error:
                    failure = error
        fresh = self._fresh.get(key)
        found = [Candidate(*key, collateral=fresh, stored=False)] if fresh is not None else []
        if held is not None:
            found.append(Candidate(*key, collateral=held, stored=True))
        if not found:
            raise failure or BrokerError(
                BrokerReason.COLLATERAL_MISSING if self._fetcher is None else BrokerReason.COLLATERAL_UNAVAILABLE,
                f"there is no collateral for FMSPC {key[0]} ({ca} CA)",
                "set collateral.url, or preload the collateral of this platform from a file",
            )
        return found

    def prove(self, candidate: Candidate) -> None:
        """An appraisal found this collateral genuine, and none of the candidates before it.

        A fresh one is stored unless it is older than the stored one; a stored one shows that the fresh one is worthless.
        """
        key = (candidate.fmspc, candidate.ca)
        with self._lock_of(key):
            if candidate.stored:
                if self._fresh.pop(key, None) is not None:
                    self._metrics.collateral_fetches.labels("forged").inc()
                return
            held = self._held(key)
            if held is None or (held != candidate.collateral and not older(candidate.collateral, held)):
                self._put(key, candidate.collateral)
            if self._fresh.get(key) == candidate.collateral:
                del self._fresh[key]

    def preload(self, path: Path) -> None:
        """Store a file that the broker's operator vouches for; raises BrokerError (SettingsInvalid, CollateralRolledBack)."""
        try:
            with path.open("rb") as file:
                collateral = Collateral.from_json(file.read(MAX_COLLATERAL_BYTES + 1))
            key = (collateral.tcb.fmspc, authority(collateral.pck_crl_issuer_chain.encode(), issuer=False))
            held = self._held(key)
            if held == collateral:
                return
            if held is not None and older(collateral, held):
                raise BrokerError(
                    BrokerReason.COLLATERAL_ROLLED_BACK,
                    f"{path} is older than the stored collateral of FMSPC {key[0]}",
                    "remove it from collateral.preload, or put a current file in its place",
                )
        except (OSError, AttestationError) as error:
            raise BrokerError(
                BrokerReason.SETTINGS_INVALID, f"{path} is no collateral", "preload QuoteCollateralV3 JSON files", str(error)
            ) from error
        self._put(key, collateral)

    def refresh(self) -> None:
        """Fetch what is past half of its life; called now and then, so that attestations do not wait for it."""
        for fmspc, ca, channel in self._store.collateral_keys():
            key = (fmspc, ca)
            held = self._held(key)
            if channel == self._channel and held is not None and self._due(key, held):
                with self._lock_of(key):
                    try:
                        self._fetch(key, held)
                    except BrokerError as error:
                        log.warning("collateral could not be refreshed", extra={"event": "CollateralRefresh", "reason": error.reason})

    def _fetch(self, key: tuple[str, str], held: Collateral | None) -> None:
        """Get a candidate, unless one was asked for just now; holds the key's lock."""
        if self._fetcher is None or self._clock.monotonic() < self._not_before.get(key, 0.0):
            return
        self._not_before[key] = self._clock.monotonic() + RETRY_SECONDS
        try:
            fetched = self._fetcher.fetch(*key)
            goes_back = held is not None and older(fetched, held)
        except BrokerError:
            self._metrics.collateral_fetches.labels("failed").inc()
            raise
        except AttestationError as error:
            self._metrics.collateral_fetches.labels("failed").inc()
            raise BrokerError(
                BrokerReason.COLLATERAL_UNAVAILABLE, "the PCCS's documents cannot be read", "check what answers there", str(error)
            ) from error
        if goes_back or fetched == held:
            self._metrics.collateral_fetches.labels("older" if goes_back else "unchanged").inc()
            self._not_before[key] = self._clock.monotonic() + UNCHANGED_SECONDS
            return
        self._metrics.collateral_fetches.labels("fetched").inc()
        self._fresh[key] = fetched

    def _due(self, key: tuple[str, str], held: Collateral) -> bool:
        if self._fetcher is None or key in self._fresh:
            return False
        stored = self._store.collateral(*key, self._channel)
        if stored is None:
            return True
        life = (ends(held) - from_unix(stored[1])).total_seconds()
        jitter = 1 + (secrets.randbelow(2 * JITTER_PERCENT + 1) - JITTER_PERCENT) / 100
        return (self._clock.now() - from_unix(stored[1])).total_seconds() > life / 2 * jitter

    def _held(self, key: tuple[str, str]) -> Collateral | None:
        stored = self._store.collateral(*key, self._channel)
        return None if stored is None else Collateral.from_json(stored[0])

    def _put(self, key: tuple[str, str], collateral: Collateral) -> None:
        self._store.put_collateral(*key, self._channel, collateral.to_json(), unix(self._clock.now()))
        self._metrics.collateral_expiry.labels(*key).set(unix(ends(collateral)))

    def _lock_of(self, key: tuple[str, str]) -> threading.Lock:
        with self._lock:
            return self._fetching.setdefault(key, threading.Lock())


def ends(collateral: Collateral) -> datetime:
    """The earliest nextUpdate or end of a signer's certificate."""
    return min(expiry.at for expiry in collateral.expiries)


def older(new: Collateral, held: Collateral) -> bool:
    """Whether any part of `new` goes back behind `held`; raises AttestationError when a document cannot be read."""
    return any(
        [
            new.tcb.evaluation_data_number < held.tcb.evaluation_data_number,
            new.tcb.issue_date < held.tcb.issue_date,
            new.qe.evaluation_data_number < held.qe.evaluation_data_number,
            new.qe.issue_date < held.qe.issue_date,
            new.pck_crl_facts.number < held.pck_crl_facts.number,
            new.pck_crl_facts.this_update < held.pck_crl_facts.this_update,
            new.root_crl_facts.number < held.root_crl_facts.number,
            new.root_crl_facts.this_update < held.root_crl_facts.this_update,
        ]
    )


def authority(pem: bytes, *, issuer: bool) -> str:
    """`platform` or `processor`: which of Intel's PCK authorities a chain's leaf is, or (issuer) was signed by.

    Raises AttestationError when the chain cannot be read or its leaf names neither.
    """
    leaf = chain(pem, "PCK chain")[0]
    name = leaf.issuer.rfc4514_string() if issuer else common_name(leaf)
    for kind in ("platform", "processor"):
        if kind in name.lower():
            return kind
    raise AttestationError(AttestationReason.COLLATERAL_MISMATCH, "the PCK chain names neither Platform nor Processor CA", name[:256])
