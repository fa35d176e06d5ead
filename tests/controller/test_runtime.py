"""Runtime and executor together, over an API server in memory: what is written, when, and what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from chrysalis.api import names
from chrysalis.clock import ManualClock
from chrysalis.controller.brokers import Brokers
from chrysalis.controller.cache import Indexes
from chrysalis.controller.executor import Executor
from chrysalis.controller.health import paths
from chrysalis.controller.kube import Kubernetes, KubernetesError
from chrysalis.controller.metrics import Metrics
from chrysalis.controller.observed import BrokerView
from chrysalis.controller.reconcile import Cadence
from chrysalis.controller.runtime import Key, Runtime
from chrysalis.controller.workqueue import WorkQueue

Factory = Callable[..., Any]
KEY = Key(names.KIND_WORKER, "pool", "embedder")


class Server:
    """Records writes, and answers like an API server."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, str, Any]] = []
        self.objects: dict[str, dict[str, Any]] = {}
        self.fail: dict[str, KubernetesError] = {}
        self.version = 100
        self.spec: dict[str, Any] = {}

    async def find(self, path: str) -> dict[str, Any] | None:
        return self.objects.get(path)

    async def send(self, method: str, path: str, body: Any = None, *, content_type: str = "", query: Any = None) -> dict[str, Any]:
        for part, error in self.fail.items():
            if part in path:
                raise error
        self.writes.append((method, path, json.loads(json.dumps(body))))
        self.version += 1
        metadata = {"name": "x", "namespace": "pool", "uid": "w-1", "generation": 2, "resourceVersion": str(self.version)}
        if isinstance(body, dict):
            metadata |= body.get("metadata", {})
            if "/deployments/" in path:
                body = {**body, "status": {"observedGeneration": 2, "updatedReplicas": 1}}
            if path.endswith("embedder/status"):
                body = {"spec": self.spec, **body}
            self.objects[path] = {**body, "metadata": metadata}
            return {**body, "metadata": metadata}
        return {"metadata": {**metadata, "uid": "u-1", "annotations": {names.ANNOTATION_ADMITTED: "u-1"}}, "spec": {}, "status": {}}


class FakeBrokers:
    def __init__(self, view: BrokerView) -> None:
        self.found = view

    async def view(self, namespace: str, worker: str, spec: object) -> BrokerView:
        return self.found

    def forget(self, namespace: str, worker: str) -> None:
        """Nothing is remembered."""


class World:
    """A runtime with everything around it in memory."""

    def __init__(self, clock: ManualClock, observed: Any) -> None:
        self.clock = clock
        self.server = Server()
        self.server.spec = dict(observed.worker.spec)
        self.metrics = Metrics()
        self.leads = True
        self.indexes: dict[str, dict[tuple[str, str], list[Any]]] = {
            "workers": {KEY.of: [observed.worker]},
            "policies": {},
            "accounts": {},
            "pods": {KEY.of: list(observed.pods)},
            "deployments": {KEY.of: [observed.deployment]},
        }
        self.brokers = FakeBrokers(observed.broker)
        executor = Executor(
            cast(Kubernetes, self.server),
            leading=lambda: self.leads,
            clock=clock,
            metrics=self.metrics,
            resync_seconds=600,
            identity="me",
        )
        self.runtime = Runtime(clock, executor, cast(Brokers, self.brokers), self.metrics, Cadence(), WorkQueue(clock))
        self.runtime.bind(Indexes(**cast(Any, self.indexes)))

    def show(self, index: str, *views: Any) -> None:
        """Let kopf's index hold these views of the worker or its children."""
        self.indexes[index].clear()
        if views:
            self.indexes[index][KEY.of] = list(views)

    def once(self) -> list[tuple[str, str]]:
        """Work on the worker once; gives what was written, as method and last parts of the path."""
        self.server.writes.clear()

        async def scenario() -> None:
            self.runtime.queue.add(KEY)
            working = asyncio.create_task(self.runtime.work(lambda: self.leads))
            for _ in range(100):  # nothing here waits for anything real
                await asyncio.sleep(0)
            working.cancel()

        asyncio.run(scenario())
        return [(method, "/".join(path.split("/")[-2:])) for method, path, _ in self.server.writes]


@pytest.fixture
def world(clock: ManualClock, observed: Factory) -> World:
    return World(clock, replace(observed(), at=clock.now()))


CHILDREN = [
    ("PATCH", "serviceaccounts/embedder-worker"),
    ("PATCH", "networkpolicies/embedder"),
    ("PATCH", "services/embedder"),
    ("PATCH", "poddisruptionbudgets/embedder"),
    ("PATCH", "deployments/embedder"),
]


def test_children_are_applied_once_and_the_status_written_once(world: World) -> None:
    world.show("pods")
    written = world.once()
    assert written[:5] == CHILDREN
    assert ("PATCH", "embedder/status") in written
    assert world.once() == []
    world.clock.advance(601)
    assert [w for w in world.once() if w in CHILDREN] == CHILDREN


def test_a_changed_deployment_is_put_right(world: World) -> None:
    world.once()
    view = world.indexes["deployments"][KEY.of][0]
    world.show("deployments", replace(view, generation=5, version=5000))
    assert ("PATCH", "deployments/embedder") in world.once()


def test_a_deleted_deployment_comes_back(world: World) -> None:
    world.once()
    world.show("deployments")
    assert ("PATCH", "deployments/embedder") not in world.once(), "the cache may lag"
    world.clock.advance(6)
    assert ("PATCH", "deployments/embedder") in world.once()


def test_a_gate_is_opened_and_recorded_in_one_patch(world: World, pod: Factory) -> None:
    policy = type("P", (), {"view": type("V", (), {"valid": True, "reason": "", "message": ""})()})()
    world.indexes["policies"][("pool", "minilm-policy")] = [policy]
    born = pod(gate=1, admitted="", node="", ready=False, attested="Unknown", gateway_started=None, phase="Pending")
    world.show("pods", born)
    written = world.once()
    assert written.count(("PATCH", f"pods/{born.name}")) == 1
    patch = next(body for _, path, body in world.server.writes if path.endswith(born.name))
    assert [step["op"] for step in patch] == ["test", "test", "remove", "add"]
    assert patch[0]["value"] == "u-1"
    assert patch[2]["path"] == "/spec/schedulingGates/1"
    assert patch[3] == {"op": "add", "path": "/metadata/annotations/chrysalis.dev~1admitted", "value": "u-1"}
    assert ("PATCH", f"pods/{born.name}") not in world.once(), "the answer is remembered until the watch shows it"


def test_a_foreign_object_of_the_same_name_is_not_taken_over(world: World) -> None:
    path = "/api/v1/namespaces/pool/services/embedder"
    world.server.objects[path] = {"metadata": {"ownerReferences": [{"uid": "somebody"}]}}
    written = world.once()
    assert not [w for w in written if w in CHILDREN]
    assert not [w for w in world.once() if w in CHILDREN]
    conditions = {c["type"]: c for c in world.runtime.executor.memory.workers["w-1"].conditions}
    assert conditions["Stalled"]["reason"] == "ChildNameTaken"
    del world.server.objects[path]
    assert [w for w in world.once() if w in CHILDREN] == CHILDREN


def test_nothing_is_written_while_another_replica_leads(world: World) -> None:
    world.leads = False
    assert world.once() == []


def test_a_refused_write_is_tried_again_later(world: World) -> None:
    world.server.fail["deployments"] = KubernetesError(403, "forbidden")
    world.once()
    assert world.runtime._failures == {KEY: 1}
    world.server.fail.clear()
    world.clock.advance(1)
    world.once()
    assert world.runtime._failures == {}


@pytest.mark.parametrize("status", [404, 409])
def test_a_pod_that_is_gone_meanwhile_is_no_failure(world: World, pod: Factory, status: int) -> None:
    world.show("pods", pod(attested="Unknown", ready=False))
    world.server.fail["/pods/"] = KubernetesError(status, "gone")
    world.once()
    assert world.runtime._failures == {}


def test_an_event_that_cannot_be_written_changes_nothing(world: World) -> None:
    world.server.fail["/events"] = KubernetesError(403, "forbidden")
    world.once()
    assert world.runtime._failures == {}


def test_a_worker_that_is_gone_is_forgotten(world: World) -> None:
    world.once()
    assert b"embedder" in paths(world.runtime, world.clock, world.metrics)[1]["/metrics"]()[2]
    world.show("workers")
    assert world.once() == []
    assert world.runtime.executor.memory.applied == {}
    assert b"embedder" not in paths(world.runtime, world.clock, world.metrics)[1]["/metrics"]()[2]


def test_health(world: World) -> None:
    health, _ = paths(world.runtime, world.clock, world.metrics)
    assert (health["/healthz"]()[0], health["/readyz"]()[0]) == (200, 503)
    world.runtime.beat = world.clock.monotonic()
    assert (health["/healthz"]()[0], health["/readyz"]()[0]) == (200, 200)
    world.clock.advance(31)
    assert health["/healthz"]()[0] == 503
    world.runtime.beat = world.clock.monotonic()
    world.runtime._working[KEY] = world.clock.monotonic() - 121
    assert health["/healthz"]()[0] == 503
