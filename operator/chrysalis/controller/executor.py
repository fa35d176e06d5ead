"""Carries out the actions of a plan against the API server; remembers what it wrote until the watch shows it, too."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chrysalis.api import names
from chrysalis.clock import Clock, rfc3339
from chrysalis.controller.actions import Announce, ApplyChildren, OpenGate, Plan, SetAttested, WriteStatus
from chrysalis.controller.kube import (
    APPLY,
    CONFLICT,
    JSON_PATCH,
    NOT_FOUND,
    STRATEGIC,
    UNPROCESSABLE,
    Json,
    Kubernetes,
    KubernetesError,
    path_of,
)
from chrysalis.controller.metrics import Metrics
from chrysalis.controller.observed import DeploymentView, PodView, WorkerView, deployment_view, pod_view, worker_view
from chrysalis.controller.reasons import ControllerError, ControllerReason

log = logging.getLogger(__name__)

DEPLOYMENT_LAG_SECONDS = 5.0
"""How long a Deployment that was applied may be missing from the cache before it is taken for deleted."""
FIELD = {"fieldManager": names.FIELD_MANAGER}
FORCE = {**FIELD, "force": "true"}


@dataclass
class Applied:
    """What was last applied for a worker."""

    digest: str
    deployment_generation: int
    at: float  # monotonic


@dataclass
class Memory:
    """What the API server answered, by uid, until the cache has caught up; and what was applied, by the worker's uid."""

    workers: dict[str, WorkerView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    deployments: dict[str, DeploymentView] = field(default_factory=dict)
    applied: dict[str, Applied] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)

    def forget(self, worker: WorkerView) -> None:
        """Drop everything about a worker that is gone."""
        self.workers.pop(worker.uid, None)
        self.applied.pop(worker.uid, None)
        self.taken.pop(worker.uid, None)


class Executor:
    """Writes to Kubernetes, and only while this replica leads."""

    def __init__(
        self, kubernetes: Kubernetes, *, leading: Callable[[], bool], clock: Clock, metrics: Metrics, resync_seconds: float, identity: str
    ) -> None:
        self._kubernetes = kubernetes
        self._leading = leading
        self._clock = clock
        self._metrics = metrics
        self._resync = resync_seconds
        self._identity = identity
        self.memory = Memory()

    async def carry_out(self, worker: WorkerView, deployment: DeploymentView | None, plan: Plan) -> None:
        """Carry out a plan in its order; gates and conditions of pods at once.  Raises ControllerError."""
        for action in plan.actions:
            if isinstance(action, ApplyChildren):
                await self._apply(worker, deployment, action)
        pods = [action for action in plan.actions if isinstance(action, OpenGate | SetAttested)]
        outcomes = await asyncio.gather(*(self._pod(worker.namespace, action) for action in pods), return_exceptions=True)
        for action in plan.actions:
            if isinstance(action, WriteStatus):
                await self.write_status(names.PLURAL_WORKER, names.KIND_WORKER, worker.namespace, worker.name, worker.uid, action.status)
            elif isinstance(action, Announce):
                await self._announce(worker, action)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def write_status(self, plural: str, kind: str, namespace: str, name: str, uid: str, status: Mapping[str, Any]) -> None:
        """Write a custom resource's status; one that is gone, or was made anew, is left alone."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "status": dict(status),
        }
        path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{plural}/{name}/status"
        answer = await self._send_unless_gone("PATCH", path, body, content_type=APPLY, query=FORCE)
        if answer is not None and kind == names.KIND_WORKER:
            self.memory.workers[uid] = worker_view(answer)

    async def _apply(self, worker: WorkerView, deployment: DeploymentView | None, action: ApplyChildren) -> None:
        digest = hashlib.sha256(json.dumps(action.children, sort_keys=True).encode()).hexdigest()
        held = self.memory.applied.get(worker.uid)
        now = self._clock.monotonic()
        if held is not None and held.digest == digest and now - held.at < self._resync:
            changed = deployment is not None and deployment.generation > held.deployment_generation
            lost = deployment is None and now - held.at > DEPLOYMENT_LAG_SECONDS
            if not changed and not lost:
                return
        if held is None or now - held.at >= self._resync:
            await self._check_ownership(worker, action)
            if worker.uid in self.memory.taken:
                return
        generation = 0
        for child in action.children:
            answer = await self._send("PATCH", path_of(dict(child)), child, content_type=APPLY, query=FORCE)
            if child["kind"] == "Deployment":
                view = deployment_view(answer)
                generation = view.generation
                self.memory.deployments[view.uid] = view
        self.memory.applied[worker.uid] = Applied(digest, generation, now)

    async def _check_ownership(self, worker: WorkerView, action: ApplyChildren) -> None:
        """Objects of these names that belong to somebody else are never taken over."""
        for child in action.children:
            found = await self._kubernetes.find(path_of(dict(child)))
            if found is None:
                continue
            owners = (found.get("metadata") or {}).get("ownerReferences") or []
            if not any(owner.get("uid") == worker.uid for owner in owners):
                self.memory.taken[worker.uid] = f"{child['kind']} {child['metadata']['name']!r}"
                return
        self.memory.taken.pop(worker.uid, None)

    async def recheck_ownership(self, worker: WorkerView, children: ApplyChildren) -> None:
        """Look again whether a name that was taken is free by now."""
        if worker.uid in self.memory.taken:
            await self._check_ownership(worker, children)

    async def _pod(self, namespace: str, action: OpenGate | SetAttested) -> None:
        path = f"/api/v1/namespaces/{namespace}/pods/{action.pod}"
        if isinstance(action, OpenGate):
            answer = await self._open_gate(path, action)
        else:
            answer = await self._send_unless_gone("PATCH", f"{path}/status", self._condition(action), content_type=STRATEGIC, query=FIELD)
        if answer is not None:
            self.memory.pods[action.uid] = pod_view(answer)

    async def _open_gate(self, path: str, action: OpenGate) -> Json | None:
        """Take away the gate and record that the operator did, in one patch that fails unless the pod is still the one that was judged."""
        annotation = names.ANNOTATION_ADMITTED.replace("~", "~0").replace("/", "~1")
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": action.uid},
            {"op": "test", "path": f"/spec/schedulingGates/{action.gate}/name", "value": names.GATE_ATTESTATION},
            {"op": "remove", "path": f"/spec/schedulingGates/{action.gate}"},
            {"op": "add", "path": f"/metadata/annotations/{annotation}", "value": action.uid},
        ]
        answer = await self._send_unless_gone("PATCH", path, patch, content_type=JSON_PATCH, query=FIELD)
        if answer is not None:
            self._metrics.gates_opened.inc()
        return answer

    def _condition(self, action: SetAttested) -> Json:
        condition = {
            "type": names.READINESS_ATTESTED,
            "status": str(action.value),
            "reason": action.reason,
            "message": action.message[:1024],
            "lastTransitionTime": rfc3339(self._clock.now()),
        }
        return {"metadata": {"uid": action.uid}, "status": {"conditions": [condition]}}

    async def _announce(self, worker: WorkerView, action: Announce) -> None:
        """An Event; that it could not be written is logged and changes nothing."""
        now = rfc3339(self._clock.now())
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{worker.name}.", "namespace": worker.namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND_WORKER,
                "name": worker.name,
                "namespace": worker.namespace,
                "uid": worker.uid,
            },
            "type": "Warning" if action.warning else "Normal",
            "reason": action.reason,
            "message": action.message[:1024],
            "source": {"component": names.FIELD_MANAGER},
            "reportingComponent": names.FIELD_MANAGER,
            "reportingInstance": self._identity[:128],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._metrics.announced.labels("warning" if action.warning else "normal", action.reason).inc()
        try:
            await self._send("POST", f"/api/v1/namespaces/{worker.namespace}/events", event)
        except ControllerError as error:
            log.warning("%s", error, extra={"event": "EventNotWritten", "reason": error.reason})

    async def _send(
        self, method: str, path: str, body: Any, *, content_type: str = "application/json", query: dict[str, str] | None = None
    ) -> Json:
        """One write, if this replica may; raises ControllerError."""
        if not self._leading():
            raise ControllerError(ControllerReason.NOT_LEADER, "another replica leads by now", "nothing is to be done")
        return await self._kubernetes.send(method, path, body, content_type=content_type, query=query)

    async def _send_unless_gone(self, method: str, path: str, body: Any, *, content_type: str, query: dict[str, str]) -> Json | None:
        """The answer; None where the object is gone, is another by now, or changed meanwhile: its next event brings us back."""
        try:
            return await self._send(method, path, body, content_type=content_type, query=query)
        except KubernetesError as error:
            outdated = error.status == UNPROCESSABLE and content_type == JSON_PATCH and "denied" not in error.message + error.detail
            if error.status in {NOT_FOUND, CONFLICT} or outdated:
                return None
            raise
