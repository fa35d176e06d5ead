"""What the broker says about a worker, and what it said last when it cannot be asked."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.clock import Clock
from chrysalis.controller.admission import sentence
from chrysalis.controller.observed import BrokerView
from chrysalis.controller.reasons import ControllerReason
from chrysalis.controller.settings import BrokerSettings
from chrysalis.wire.broker import ResultView
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.reasons import WireError, WireReason

log = logging.getLogger(__name__)

HEALTH_SECONDS = 1.0
"""How long an answer to `healthy` is used for all workers."""
MAX_PINS = 16
MAX_RESULTS = 1000
RESULTS_PER_REPLICA = 8
MAX_REFUSALS = 100


class Broker(Protocol):
    """The part of wire.broker_client.BrokerClient that the controller needs."""

    async def results(self, *, namespace: str = "", worker: str = "", verdict: str = "", limit: int = 100) -> list[ResultView]:
        """Attempts to attest, newest first; raises WireError."""

    async def healthy(self) -> bool:
        """Whether it answers and is ready."""

    async def aclose(self) -> None:
        """Close the connections."""


class Brokers:
    """The configured broker, reached under each pin that workers name.

    The controller's token goes to the configured URL alone, and only over a connection on which the server proved the pinned
    key; a worker's spec.broker.url is for the worker.
    """

    def __init__(self, settings: BrokerSettings, clock: Clock, connect: Callable[[str], Broker] | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._connect = connect or self._client
        self._clients: OrderedDict[str, Broker] = OrderedDict()
        self._healthy: dict[str, tuple[float, bool]] = {}
        self._last: dict[tuple[str, str], tuple[ResultView, ...]] = {}

    async def view(self, namespace: str, worker: str, spec: ConfidentialWorkerSpec) -> BrokerView:
        """Ask about one worker; never raises: a broker that cannot be asked is a view, too."""
        pin = spec.broker.spki_sha256.lower()
        remembered = self._last.get((namespace, worker), ())
        if self._settings.spki_sha256 is not None and pin != self._settings.spki_sha256.lower():
            return BrokerView(False, ControllerReason.BROKER_PIN_MISMATCH, _OTHER_BROKER, remembered)
        try:
            client = await self._of(pin)
            if not await self._is_healthy(pin, client):
                text = f"the broker at {self._settings.url} does not answer or is not ready; look at its pod and its log"
                return BrokerView(False, ControllerReason.BROKER_UNREACHABLE, text, remembered)
            # Asked for one by one: whoever floods the broker with refused evidence must not push accepted results off the list.
            limit = min(MAX_RESULTS, max(100, RESULTS_PER_REPLICA * spec.replicas))
            accepted = await client.results(namespace=namespace, worker=worker, verdict="Accepted", limit=limit)
            refused = await client.results(namespace=namespace, worker=worker, verdict="Refused", limit=MAX_REFUSALS)
            results = (*accepted, *refused)
        except WireError as error:
            if error.reason == WireReason.PIN_MISMATCH:
                return BrokerView(False, ControllerReason.BROKER_PIN_MISMATCH, _OTHER_BROKER, remembered)
            log.warning("%s", error, extra={"event": "BrokerUnreachable", "reason": error.reason, "worker": f"{namespace}/{worker}"})
            return BrokerView(False, ControllerReason.BROKER_UNREACHABLE, sentence(error.message, error.remedy), remembered)
        self._last[(namespace, worker)] = results
        return BrokerView(True, results=results)

    def forget(self, namespace: str, worker: str) -> None:
        """Drop what is remembered of a worker that is gone."""
        self._last.pop((namespace, worker), None)

    def all_healthy(self) -> bool:
        """Whether every broker that was asked lately was well; for a gauge."""
        return all(healthy for _, healthy in self._healthy.values())

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()

    async def _of(self, pin: str) -> Broker:
        if pin not in self._clients:
            self._clients[pin] = self._connect(pin)
            if len(self._clients) > MAX_PINS:
                oldest, client = self._clients.popitem(last=False)
                self._healthy.pop(oldest, None)
                await client.aclose()
        self._clients.move_to_end(pin)
        return self._clients[pin]

    async def _is_healthy(self, pin: str, client: Broker) -> bool:
        asked, healthy = self._healthy.get(pin, (0.0, False))
        if pin not in self._healthy or self._clock.monotonic() - asked >= HEALTH_SECONDS:
            healthy = await client.healthy()
            self._healthy[pin] = (self._clock.monotonic(), healthy)
        return healthy

    def _client(self, pin: str) -> Broker:
        path = self._settings.token_file
        token = None if path is None else lambda: _read_token(path)
        return BrokerClient(self._settings.url, spki_sha256=pin, token=token, timeout=float(self._settings.timeout_seconds))


_OTHER_BROKER = (
    "spec.broker.spkiSha256 is not the key of the broker that this operator asks; "
    "set the one that `chrysalis keys pin` shows, or configure the operator for that other broker"
)


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()  # the kubelet rotates it
    except OSError as error:
        raise WireError(
            WireReason.SERVICE_UNREACHABLE,
            "the controller's token cannot be read",
            "mount it where tokenFile says",
            str(error),
        ) from error
