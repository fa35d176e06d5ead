"""Which of several replicas acts: a Kubernetes Lease, judged by this process's own monotonic clock.

The holder stops acting when it could not renew for two thirds of the duration, by its own clock; another replica takes over
when it saw no renewal for the whole duration, by its own.  Wall clocks are written for people and never compared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from chrysalis.clock import Clock
from chrysalis.controller.kube import Kubernetes
from chrysalis.controller.reasons import ControllerError
from chrysalis.controller.settings import LeaseSettings

log = logging.getLogger(__name__)

TRUSTED_PART = 2 / 3


class Leadership:
    """One replica's view of the Lease."""

    def __init__(self, kubernetes: Kubernetes, settings: LeaseSettings, *, identity: str, clock: Clock) -> None:
        self._kubernetes = kubernetes
        self._settings = settings
        self._identity = identity
        self._clock = clock
        self._renewed: float | None = None  # when the last successful renewal was sent
        self._seen: tuple[str, str] = ("", "")  # holder and renewTime as last read
        self._seen_at = 0.0
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{settings.namespace}/leases"

    def held(self) -> bool:
        """Whether this replica may act now; asked before every write."""
        trusted = self._settings.duration_seconds * TRUSTED_PART
        return self._renewed is not None and self._clock.monotonic() - self._renewed < trusted

    async def keep(self, on_taken: Callable[[], None]) -> None:
        """Take and renew the Lease for ever; on_taken is called each time that this replica begins to lead."""
        while True:
            before = self.held()
            try:
                await self.attempt()
            except ControllerError as error:
                log.warning("%s", error, extra={"event": "LeaseUnavailable", "reason": error.reason})
            if self.held() and not before:
                log.info("leading", extra={"event": "LeaseTaken"})
                on_taken()
            elif before and not self.held():
                log.warning("no longer leading", extra={"event": "LeaseLost"})
            await asyncio.sleep(self._settings.renew_seconds)

    async def attempt(self) -> None:
        """One attempt to renew or take; raises ControllerError when the API server cannot be asked."""
        asked = self._clock.monotonic()
        lease = await self._kubernetes.find(f"{self._path}/{self._settings.name}")
        if lease is None:
            if await self._kubernetes.write("POST", self._path, self._lease({})):
                self._renewed = asked
            return
        spec = lease.get("spec") or {}
        seen = (str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or ""))
        if seen != self._seen:
            self._seen, self._seen_at = seen, asked
        duration = float(spec.get("leaseDurationSeconds") or self._settings.duration_seconds)
        if seen[0] not in ("", self._identity):
            if self._renewed is not None:
                self._renewed = None  # somebody else took it
            if asked - self._seen_at < duration:
                return
        if await self._kubernetes.write("PUT", f"{self._path}/{self._settings.name}", self._lease(lease)):
            self._renewed = asked

    async def release(self) -> None:
        """Let another replica begin at once; for an orderly end.  Errors are not worth waiting for."""
        if not self.held():
            return
        self._renewed = None
        try:
            lease = await self._kubernetes.find(f"{self._path}/{self._settings.name}")
            if lease is not None and (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._kubernetes.write("PUT", f"{self._path}/{self._settings.name}", lease)
        except ControllerError as error:
            log.info("%s", error, extra={"event": "LeaseNotReleased", "reason": error.reason})

    def _lease(self, held: dict[str, Any]) -> dict[str, Any]:
        """The Lease to write; its resourceVersion, if any, makes the write fail when somebody was faster."""
        spec = dict(held.get("spec") or {})
        now = _micro_time(self._clock.now())
        if spec.get("holderIdentity") != self._identity:
            spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (1 if held else 0)}
        spec |= {"holderIdentity": self._identity, "leaseDurationSeconds": self._settings.duration_seconds, "renewTime": now}
        metadata = held.get("metadata") or {"name": self._settings.name, "namespace": self._settings.namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def _micro_time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
