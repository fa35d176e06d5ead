"""NVIDIA's services as the broker asks them: never for evidence that is not proved otherwise, never for longer than is stated, and
not so often that one tenant, or a service that hangs, keeps the others' evidence from being judged.

1. Only so many requests at once (CONCURRENT), whatever the number of threads that judge; who finds no place comes back later.
2. An owner whose workers ask more often than BURST and PER_MINUTE allow waits alone.
3. A service that is silent is left alone for a while: attestations are then told at once to come back.  What a tenant's own evidence
   makes a service say or refuse is no such silence.
4. An attestation's answer from the attestation service is for its nonce and never serves another one; OCSP answers are kept
   (chrysalis.broker.ocsp_cache).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from chrysalis.api.policy_gpu import GpuRevocation, GpuRules
from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.broker.collateral_schedule import Allowance
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.ocsp_cache import OcspCache
from chrysalis.broker.service_rest import ServiceRest
from chrysalis.broker.store import Store
from chrysalis.clock import Clock
from chrysalis.wire.gpu import GpuAnswers, GpuDevice
from chrysalis.wire.gpu_service_settings import GpuServiceSettings
from chrysalis.wire.gpu_services import NrasAnswer, NrasClient, OcspClient, Pair, Unavailable, ask, authorities, unavailable

log = logging.getLogger(__name__)

CONCURRENT = 4
WAIT_SECONDS = 2.0
"""How long an attestation waits for a place; then the worker is told to come back."""
BURST, PER_MINUTE = 64, 60
"""Of one owner's workers, for each service: a worker asks once for each of its results."""
MAX_OWNERS = 1024


class BrokersGpuServices:
    """Asks what a policy's rules want asked.  Thread-safe."""

    def __init__(self, settings: GpuServiceSettings, *, store: Store, clock: Clock, metrics: Metrics) -> None:
        """Raises OSError where a caFile cannot be read."""
        self._clock = clock
        self._metrics = metrics
        self._nras = NrasClient(settings.nras, clock) if settings.nras else None
        client = OcspClient(settings.ocsp, clock) if settings.ocsp else None
        self._ocsp = OcspCache(store=store, client=client, clock=clock, metrics=metrics) if client else None
        self._slots = threading.BoundedSemaphore(CONCURRENT)
        self._lock = threading.Lock()  # of the members below
        self._allowances: OrderedDict[tuple[str, str], Allowance] = OrderedDict()
        self._rest = ServiceRest("NVIDIA's attestation service", clock)

    def ask(self, sent: Sequence[GpuDevice], *, rules: GpuRules, nonce: bytes, owner: str) -> GpuAnswers:
        """All that the rules want asked about evidence that lacks nothing else; owner: of the policy, hex.

        Raises GpuError: GpuServiceNotConfigured, GpuServiceUnavailable, GpuServiceRefused.
        """
        try:
            return ask(
                sent,
                rules=rules,
                nonce=nonce,
                nras_source=_Turn(self, owner) if self._nras is not None else None,
                ocsp_source=_OcspTurn(self, owner) if self._ocsp is not None else None,
            )
        except Unavailable as error:  # addresses and a library's words are for whoever runs the broker
            log.warning("GPUs cannot be judged now", extra={"event": "GpuServiceUnavailable", "detail": error.detail})
            raise GpuError(error.reason, error.message, error.word) from error

    def again(self, sent: Sequence[GpuDevice], rules: GpuRules, stored: GpuAnswers | None) -> GpuAnswers | None:
        """What stored evidence is judged by: the answers that were stored with it, and what is known of the certificates by now."""
        if rules.revocation is not GpuRevocation.REQUIRED or self._ocsp is None or not sent:
            return stored
        newer = GpuAnswers.of_ocsp(self._ocsp.known(authorities(sent)))
        kept = stored or GpuAnswers()
        return kept.model_copy(update={"ocsp": list(dict.fromkeys([*kept.ocsp, *newer]))})

    def refresh(self) -> None:
        """Ask again for OCSP answers that are past half of their life; called now and then."""
        if self._ocsp is not None:
            self._ocsp.refresh()

    def ask_nras(self, sent: Sequence[GpuDevice], nonce: bytes, owner: str) -> NrasAnswer:
        """One request, in its turn; raises GpuError."""
        if self._nras is None:
            raise AssertionError("asked without a service")
        self._rest.check()
        with self._turn("nras", owner):
            self._rest.begin()
            silent = False
            try:
                answer = self._nras.ask(sent, nonce)
            except GpuError as error:
                silent = isinstance(error, Unavailable) and error.silent
                self._metrics.gpu_service_requests.labels("nras", "failed").inc()
                raise
            finally:
                self._rest.ended(silent=silent)
            self._metrics.gpu_service_requests.labels("nras", "answered").inc()
            return answer

    def ocsp_answers(self, pairs: Sequence[Pair], owner: str) -> list[bytes]:
        """Kept or fetched ones; raises GpuError."""
        if self._ocsp is None:
            raise AssertionError("asked without a responder")
        return self._ocsp.answers(pairs, lambda: self._turn("ocsp", owner))

    @contextlib.contextmanager
    def _turn(self, service: str, owner: str) -> Iterator[None]:
        """A place among those who ask; raises GpuError (GpuServiceUnavailable)."""
        with self._lock:
            now = self._clock.monotonic()
            allowance = self._allowances.setdefault((service, owner), Allowance(BURST, PER_MINUTE, now))
            self._allowances.move_to_end((service, owner))
            while len(self._allowances) > MAX_OWNERS:
                self._allowances.popitem(last=False)
            allowed = allowance.take(now)
        if not allowed:
            raise unavailable("the broker", "this owner's workers ask more often than the broker asks NVIDIA's services for one owner")
        if not self._slots.acquire(timeout=WAIT_SECONDS):
            raise unavailable("the broker", "as many requests to NVIDIA's services as it makes at once are under way")
        try:
            yield
        finally:
            self._slots.release()


class _Turn:
    """NrasSource for one owner."""

    def __init__(self, services: BrokersGpuServices, owner: str) -> None:
        self._services, self._owner = services, owner

    def ask(self, sent: Sequence[GpuDevice], nonce: bytes) -> NrasAnswer:
        return self._services.ask_nras(sent, nonce, self._owner)


class _OcspTurn:
    """OcspSource for one owner."""

    def __init__(self, services: BrokersGpuServices, owner: str) -> None:
        self._services, self._owner = services, owner

    def answers(self, pairs: Sequence[Pair]) -> list[bytes]:
        return self._services.ocsp_answers(pairs, self._owner)
