"""The controller at work: takes keys from the queue, observes, reconciles and carries out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import ValidationError

from chrysalis.api import names
from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.clock import Clock, parse_rfc3339
from chrysalis.controller import policies
from chrysalis.controller.actions import ApplyChildren, Plan, WriteStatus
from chrysalis.controller.admission import prepare
from chrysalis.controller.brokers import Brokers
from chrysalis.controller.cache import Cache, Indexes, NameKey, ref_name
from chrysalis.controller.executor import Executor
from chrysalis.controller.metrics import Metrics
from chrysalis.controller.observed import BrokerView, Observed, WorkerView
from chrysalis.controller.reasons import ControllerError, ControllerReason
from chrysalis.controller.reconcile import Cadence, reconcile
from chrysalis.controller.workqueue import WorkQueue
from chrysalis.rendering import owned

log = logging.getLogger(__name__)

RETRY_FIRST_SECONDS = 0.25
RETRY_MOST_SECONDS = 60.0
STUCK_SECONDS = 120.0
"""A reconciliation that takes longer is reported by /healthz."""


@dataclass(frozen=True)
class Key:
    """An object to work on."""

    kind: str
    namespace: str
    name: str

    @property
    def of(self) -> NameKey:
        """Its key in the cache."""
        return (self.namespace, self.name)


@dataclass
class Runtime:
    """Everything that the tasks share."""

    clock: Clock
    executor: Executor
    brokers: Brokers
    metrics: Metrics
    cadence: Cadence
    queue: WorkQueue[Key]
    cache: Cache | None = None
    beat: float | None = None
    _working: dict[Key, float] = field(default_factory=dict)
    _failures: dict[Key, int] = field(default_factory=dict)
    _uids: dict[Key, WorkerView] = field(default_factory=dict)

    def bind(self, indexes: Indexes) -> None:
        """Take kopf's indexes, which exist once the first handler runs."""
        if self.cache is None:
            self.cache = Cache(indexes, self.executor.memory)

    def add_all(self) -> None:
        """Work on everything, as after taking the Lease."""
        if self.cache is None:
            return
        for namespace, name in self.cache.all_policies():
            self.queue.add(Key(names.KIND_POLICY, namespace, name))
        for namespace, name in self.cache.all_workers():
            self.queue.add(Key(names.KIND_WORKER, namespace, name))

    def add_workers(self, namespace: str, member: str, name: str) -> None:
        """Work on all workers of a namespace that refer to this object."""
        if self.cache is not None:
            for worker in self.cache.workers_in(namespace):
                if ref_name(worker, member) == name:
                    self.queue.add(Key(names.KIND_WORKER, namespace, worker.name))

    def stuck(self) -> bool:
        """Whether some key is worked on for longer than any work takes."""
        now = self.clock.monotonic()
        return any(now - since > STUCK_SECONDS for since in self._working.values())

    async def work(self, leading: Callable[[], bool]) -> None:
        """Take keys for ever; keys that arrive while another replica leads are dropped, since taking the Lease adds all."""
        while True:
            key = await self.queue.get()
            try:
                if leading():
                    await self._work_on(key)
            finally:
                self.queue.done(key)
                self.metrics.queue.set(len(self.queue))

    async def _work_on(self, key: Key) -> None:
        self._working[key] = self.clock.monotonic()
        outcome = "ok"
        try:
            with self.metrics.seconds.time():
                again = await (self._worker(key) if key.kind == names.KIND_WORKER else self._policy(key))
            self._failures.pop(key, None)
            if again is not None:
                self.queue.add_after(key, again)
        except ControllerError as error:
            outcome = str(error.reason)
            self._retry(key, f"{error}: {error.detail}", outcome)
        except Exception as error:  # one object's surprise must not stop the others
            outcome = "Failed"
            log.exception("reconciliation failed", extra={"event": "ReconcileFailed", "worker": "/".join(key.of)})
            self._retry(key, type(error).__name__, outcome)
        finally:
            self._working.pop(key, None)
            self.metrics.reconciles.labels(key.kind, outcome).inc()

    def _retry(self, key: Key, message: str, reason: str) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        seconds = min(RETRY_FIRST_SECONDS * 2 ** min(count - 1, 16), RETRY_MOST_SECONDS)
        log.warning("%s; again in %.2f s", message, seconds, extra={"event": "Retry", "reason": reason, "worker": "/".join(key.of)})
        self.queue.add_after(key, seconds)

    async def _worker(self, key: Key) -> float | None:
        """One reconciliation; gives the seconds until the next, None for an object that is gone."""
        cache = self.cache
        worker = cache.worker(key.of) if cache is not None else None
        if cache is None or worker is None:
            self._forget(key)
            return None
        known = self._uids.get(key)
        if known is not None and known.uid != worker.uid:
            self._forget(key)
        self._uids[key] = worker
        broker = await self._ask_broker(worker)
        observed = self._observe(key, broker)
        if observed is None:
            return None
        if observed.taken:
            await self._look_again_for_names(observed)
            observed = self._observe(key, broker) or observed
        plan = reconcile(observed, self.cadence)
        await self.executor.carry_out(observed.worker, observed.deployment, plan)
        self._measure(key, plan)
        if self.executor.memory.taken.get(worker.uid, "") != observed.taken:
            return 0.0  # found only while applying
        return plan.again_in_seconds

    async def _ask_broker(self, worker: WorkerView) -> BrokerView:
        try:
            spec = ConfidentialWorkerSpec.model_validate(worker.spec)
        except ValidationError:
            return BrokerView(False, ControllerReason.BROKER_UNREACHABLE, "the worker's spec does not say which broker")
        return await self.brokers.view(worker.namespace, worker.name, spec)

    def _observe(self, key: Key, broker: BrokerView) -> Observed | None:
        """One consistent picture, taken without waiting for anything in between."""
        if self.cache is None or (worker := self.cache.worker(key.of)) is None:
            return None
        policy = self.cache.policy((worker.namespace, ref_name(worker, "policyRef")))
        return Observed(
            worker=worker,
            policy=policy.view if policy is not None else None,
            account=self.cache.account((worker.namespace, ref_name(worker, "settlementAccountRef"))),
            pods=self.cache.pods(key.of),
            deployment=self.cache.deployment(key.of),
            broker=broker,
            at=self.clock.now(),
            taken=self.executor.memory.taken.get(worker.uid, ""),
        )

    async def _look_again_for_names(self, observed: Observed) -> None:
        prepared = prepare(observed)
        if prepared.rendered is not None:
            children = owned(prepared.rendered.children, name=observed.worker.name, uid=observed.worker.uid)
            await self.executor.recheck_ownership(observed.worker, ApplyChildren(tuple(children)))

    def _measure(self, key: Key, plan: Plan) -> None:
        for action in plan.actions:
            if isinstance(action, WriteStatus):
                self.metrics.ready.labels(*key.of).set(action.status.get("readyReplicas", 0))
                text = action.status.get("expiresAt")
                self.metrics.expires.labels(*key.of).set(parse_rfc3339(text).timestamp() if text else 0)

    def _forget(self, key: Key) -> None:
        self.queue.forget(key)
        self._failures.pop(key, None)
        self.brokers.forget(*key.of)
        self.metrics.forget(*key.of)
        if (worker := self._uids.pop(key, None)) is not None:
            self.executor.memory.forget(worker)

    async def _policy(self, key: Key) -> float | None:
        found = self.cache.policy(key.of) if self.cache is not None else None
        if found is not None and (status := policies.status(found, self.clock.now())) is not None:
            await self.executor.write_status(names.PLURAL_POLICY, names.KIND_POLICY, found.namespace, found.name, found.uid, status)
        return None if found is None else policies.LINT_SECONDS
