"""The indexes that kopf keeps, as one typed store.  kopf fills them before it lets any handler run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from chrysalis.controller.executor import Memory
from chrysalis.controller.observed import AccountView, DeploymentView, PodView, WorkerView
from chrysalis.controller.policies import PolicyRecord

NameKey = tuple[str, str]
"""(namespace, name): of a custom resource, or of the worker that a child belongs to."""


class _Versioned(Protocol):
    @property
    def uid(self) -> str: ...
    @property
    def version(self) -> int: ...


V = TypeVar("V", bound=_Versioned)


@dataclass(frozen=True)
class Indexes:
    """kopf's indexes; each maps a key to a collection of views."""

    workers: Mapping[NameKey, Collection[WorkerView]]
    policies: Mapping[NameKey, Collection[PolicyRecord]]
    accounts: Mapping[NameKey, Collection[AccountView]]
    pods: Mapping[NameKey, Collection[PodView]]
    deployments: Mapping[NameKey, Collection[DeploymentView]]


class Cache:
    """What was last seen of each object, or what the API server answered since then."""

    def __init__(self, indexes: Indexes, memory: Memory) -> None:
        self._indexes = indexes
        self._memory = memory

    def worker(self, key: NameKey) -> WorkerView | None:
        """A ConfidentialWorker."""
        return next(iter(_newest(self._indexes.workers.get(key, ()), self._memory.workers)), None)

    def policy(self, key: NameKey) -> PolicyRecord | None:
        """An AttestationPolicy."""
        return next(iter(self._indexes.policies.get(key, ())), None)

    def account(self, key: NameKey) -> AccountView | None:
        """A SettlementAccount."""
        return next(iter(self._indexes.accounts.get(key, ())), None)

    def pods(self, key: NameKey) -> tuple[PodView, ...]:
        """The pods that carry a worker's label, by name."""
        return tuple(sorted(_newest(self._indexes.pods.get(key, ()), self._memory.pods), key=lambda pod: pod.name))

    def deployment(self, key: NameKey) -> DeploymentView | None:
        """The worker's Deployment."""
        return next(iter(_newest(self._indexes.deployments.get(key, ()), self._memory.deployments)), None)

    def workers_in(self, namespace: str) -> list[WorkerView]:
        """All workers of a namespace."""
        return [view for key in list(self._indexes.workers) if key[0] == namespace for view in self._indexes.workers.get(key, ())]

    def all_workers(self) -> list[NameKey]:
        """Every worker."""
        return list(self._indexes.workers)

    def all_policies(self) -> list[NameKey]:
        """Every policy."""
        return list(self._indexes.policies)


def _newest(seen: Iterable[V], written: dict[str, V]) -> list[V]:
    """Each object as the watch showed it, or as the API server answered, whichever is newer; what is caught up is dropped."""
    result = []
    for view in seen:
        answered = written.get(view.uid)
        if answered is not None and answered.version > view.version:
            result.append(answered)
            continue
        if answered is not None:
            del written[view.uid]
        result.append(view)
    return result


def refers_to_policy(worker: WorkerView, name: str) -> bool:
    """Whether a worker's spec names this policy."""
    return _ref(worker.spec.get("policyRef")) == name


def refers_to_account(worker: WorkerView, name: str) -> bool:
    """Whether a worker's spec names this account."""
    return _ref(worker.spec.get("settlementAccountRef")) == name


def ref_name(worker: WorkerView, member: str) -> str:
    """The name in a reference of a worker's spec, "" where there is none."""
    return _ref(worker.spec.get(member))


def _ref(value: Any) -> str:
    return str(value.get("name") or "") if isinstance(value, Mapping) else ""
