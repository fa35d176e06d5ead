"""The gate before the GPUs: they take work only while a result of the broker's is valid, and Triton starts only then.

    started                 GPUs that take work already, without a valid result of this domain's: told to stop
    accepted                the ready state is set; Triton may start
    renewed                 set again if NVML says that the GPUs are not ready
    result over, none new   Triton is stopped, then the ready state is taken back

The end of the last result stands in a file of the domain's memory, so that an agent that was killed and comes again does not
take back what is still its right: most drivers allow that once, for good (see nvml.py, docs/adr/0009).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chrysalis.clock import Clock
from chrysalis_worker import logs
from chrysalis_worker.evidence import Gpus
from chrysalis_worker.metrics import Metrics
from chrysalis_worker.reasons import WorkerError, WorkerReason
from chrysalis_worker.state import LOG

FILE = "gpus-until"
"""In the domain's memory: the end of the last accepted result, on the monotonic clock, as text."""
_NOT_SELF = (
    "the guest must leave the GPUs' ready state to the agent: take nvrc.smi.srs=1 out of its kernel's parameters, and delete the pod"
)


@dataclass
class GpuGate:
    """Opens and closes the GPUs.  `settle` makes the ready state what the results allow; all the rest only notes or asks."""

    gpus: Gpus
    clock: Clock
    metrics: Metrics
    folder: Path
    """The domain's memory (PodPaths.receipts)."""
    stop_triton: Callable[[], Awaitable[None]]
    """Ends Triton; raises nothing when it has ended already."""
    present: bool | None = None
    """Whether the domain has GPUs; None before NVML was asked."""
    _until: float = field(init=False)
    _accepted: bool = False
    """Whether the broker accepted this agent's evidence; the file alone opens nothing."""
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._until = _read(self.folder / FILE)

    @property
    def seconds_left(self) -> float:
        """Until the last result ends; not above 0 when there is none, or it has ended."""
        return self._until - self.clock.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether Triton may run: there are no GPUs, or they were made ready and the result that allowed it has not ended."""
        return self._open.is_set()

    def accept(self, deadline: float) -> None:
        """Note that the broker accepted; deadline: the end of the result on the monotonic clock.  `settle` does the rest."""
        self._until, self._accepted = deadline, True
        if self.present is False:
            return
        try:
            _write(self.folder / FILE, deadline)
        except OSError as error:  # a full volume costs the domain only if the agent is killed, too
            logs.event(LOG, "gpus.file-failed", logging.WARNING, detail=str(error))

    async def settle(self) -> None:
        """Make the GPUs' ready state what the results allow; raises WorkerError where NVML does not let it.

        Without a valid result, whatever NVML does, the gate is closed afterwards and Triton stopped.
        """
        async with self._turn:
            allowed = self.seconds_left > 0
            closed = not allowed and await self._close()
            try:
                ready = await self.gpus.ready()
            except WorkerError:
                if not allowed and not closed:  # what an agent before this one has started may run still
                    await self.stop_triton()
                raise
            self.present = ready is not None
            if ready is None:
                self._open.set()
                return
            self.metrics.gpus_ready.set(int(ready))
            if allowed and self._accepted:
                if not ready:
                    self._open.clear()
                    await self._set(True)
                self._open.set()
            elif not allowed and ready:
                await self._withdraw()

    async def check_open(self) -> None:
        """Settle, and raise WorkerError unless the gate is open then."""
        await self.settle()
        if not self.is_open:
            raise WorkerError(
                WorkerReason.ATTESTATION_EXPIRED,
                "the attestation result ended before the GPUs were made ready",
                "wait for the renewal; if it does not come, see why the broker refuses",
            )

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Wait until Triton may run, and keep the gate from closing while it is started; raises WorkerError (GpuNotReady)."""
        await self._open.wait()
        async with self._turn:
            if not self.is_open or await self.gpus.ready() is False:
                self._open.clear()
                raise WorkerError(
                    WorkerReason.GPU_NOT_READY,
                    "the GPUs take no work",
                    "wait: the agent makes them ready as soon as there is a valid attestation result",
                )
            yield

    async def _close(self) -> bool:
        """Triton ends before the GPUs do; False, and nothing happens, where this agent did not let it start, or it has no GPUs."""
        if not self.present or not self.is_open:
            return False
        self._open.clear()
        logs.event(LOG, "gpus.closing", logging.WARNING)
        await self.stop_triton()
        return True

    async def _set(self, ready: bool) -> None:
        await self.gpus.set_ready(ready)
        self.metrics.gpus_ready.set(int(ready))
        self.metrics.gpu_ready_changes.labels("ready" if ready else "not-ready").inc()
        logs.event(LOG, "gpus.ready" if ready else "gpus.not-ready", logging.INFO if ready else logging.WARNING)

    async def _withdraw(self) -> None:
        """Take the ready state back; GPUs that were ready before any acceptance and stay so are a reason of their own."""
        early = self._until == float("-inf")
        if early:
            logs.event(LOG, "gpus.ready-too-early", logging.WARNING)
        await self.stop_triton()
        try:
            await self._set(False)
        except WorkerError as error:
            if not early:
                raise
            raise WorkerError(
                WorkerReason.GPU_READY_TOO_EARLY,
                "the GPUs take work although the domain was never accepted, and the driver does not let the agent stop that",
                _NOT_SELF,
                error.message,
            ) from error


def _read(path: Path) -> float:
    """The end of the last accepted result; minus infinity where there was none, or nothing that can be read."""
    try:
        until = float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return float("-inf")
    return until if abs(until) < float("inf") else float("-inf")  # NaN and infinity are no time


def _write(path: Path, until: float) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(repr(until), encoding="ascii")
    os.replace(new, path)
