"""What a worker is doing, in one place: which phase it is in, whether it takes jobs, and why not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any

from chrysalis.clock import Clock, rfc3339
from chrysalis.errors import ChrysalisError
from chrysalis_worker import logs
from chrysalis_worker.reasons import WorkerError, WorkerReason
from chrysalis_worker.session import Session

LOG = logging.getLogger("chrysalis_worker.agent")
MAX_IN_FLIGHT = 64


class Phase(StrEnum):
    """The way to being ready, in order; two may pass each other, since the package is fetched while evidence is judged.

    GpusReady is reached only where there are GPUs.
    """

    STARTED = "Started"
    ATTESTED = "Attested"
    GPUS_READY = "GpusReady"
    PACKAGE_FETCHED = "PackageFetched"
    KEY_RELEASED = "KeyReleased"
    MODEL_OPENED = "ModelOpened"
    TRITON_READY = "TritonReady"
    SERVING = "Serving"


class WorkerState:
    """Changed by the agent, read by gateway and health server; all on one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self.phases: dict[Phase, datetime] = {}
        self.session: Session | None = None
        self._over_until = float("-inf")
        self.canary_passes = False
        self.draining = False
        self.problem: ChrysalisError | None = None
        self.in_flight = 0
        self.pulled = 0
        """The settler holds receipts up to this seq: it has asked for what comes after."""
        self.pull = asyncio.Event()
        """Set at each request for receipts."""
        self.unpulled: Callable[[], int] = lambda: 0
        """How many receipts it does not hold yet."""
        self.idle = asyncio.Event()
        """Set while no job is in flight."""
        self.idle.set()

    def reach(self, phase: Phase, **fields: object) -> None:
        """Note the first time that a phase is reached."""
        if phase not in self.phases:
            self.phases[phase] = self._clock.now()
            since = round(self._clock.monotonic() - self._began, 3)
            logs.event(LOG, "phase.reached", phase=str(phase), since_start_seconds=since, **fields)

    def trouble(self, event: str, error: ChrysalisError, **fields: object) -> None:
        """Note what stands in the way, and log it."""
        self.problem = error
        logs.event(LOG, event, logging.WARNING, **error.as_dict(), **fields)

    @property
    def valid(self) -> bool:
        """Whether there is a result that has not ended."""
        return self.session is not None and self._lives(self.session)

    def end_results(self) -> None:
        """The broker says that the current result has ended, and refuses another: no job starts under it or an earlier one."""
        if self.session is not None:
            self._over_until = self.session.asked_at

    def _lives(self, session: Session) -> bool:
        return session.asked_at > self._over_until and self._clock.monotonic() < session.deadline

    @property
    def ready(self) -> bool:
        """Whether new jobs are taken."""
        return self.valid and self.canary_passes and not self.draining

    @contextmanager
    def job(self, session: Session | None) -> Iterator[None]:
        """Count a job in flight; raises WorkerError when no new one may start on a connection of this session."""
        if self.draining:
            raise WorkerError(WorkerReason.DRAINING, "the worker is ending", "send the job to another worker")
        if not self.canary_passes:
            raise WorkerError(WorkerReason.NOT_READY, "the model is not ready", "wait, or send the job to another worker")
        if session is None or not self._lives(session):
            raise WorkerError(
                WorkerReason.ATTESTATION_EXPIRED,
                "the attestation result under which this connection was made has ended",
                "connect again and verify the new evidence; if that fails too, the worker could not renew its result",
            )
        if self.in_flight >= MAX_IN_FLIGHT:
            raise WorkerError(WorkerReason.OVERLOADED, "too many jobs at once", "wait a moment, or send the job to another worker")
        self.in_flight += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self.idle.set()

    def status(self) -> dict[str, Any]:
        """The JSON of /status; nothing in it is secret."""
        result = self.session.result if self.session is not None else None
        return {
            "schemaVersion": "chrysalis/v1",
            "ready": self.ready,
            "draining": self.draining,
            "canaryPasses": self.canary_passes,
            "jobsInFlight": self.in_flight,
            "phases": [{"phase": str(phase), "at": at.isoformat().replace("+00:00", "Z")} for phase, at in self.phases.items()],
            "problem": None if self.ready or self.problem is None else self.problem.as_dict(),
            "result": None
            if result is None
            else {
                "id": result.result_id,
                "expiresAt": rfc3339(result.expires_at),
                "limitedBy": result.limited_by,
                "evidenceClass": result.evidence_class,
                "tcbStatus": result.tcb_status,
                "placement": str(result.placement),
            },
        }
