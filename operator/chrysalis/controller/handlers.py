"""kopf's side: indexes of views, and events that put keys into the queue.  Nothing is decided here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import kopf

from chrysalis.api import names
from chrysalis.controller import observed, policies
from chrysalis.controller.cache import Indexes, NameKey
from chrysalis.controller.runtime import Key, Runtime

log = logging.getLogger(__name__)

WATCH_SECONDS = 300
"""The API server ends a watch after this time, and we end one that says nothing for a little longer: no operator goes deaf."""
CONNECT_SECONDS = 10
REQUEST_SECONDS = 30

V = TypeVar("V")
INDEXES = ("workers", "policies", "accounts", "pods", "deployments")


def register(registry: kopf.OperatorRegistry, runtime: Runtime, login: Callable[..., Any]) -> None:
    """Put all handlers of this controller into a registry."""
    kopf.on.startup(registry=registry)(configure)
    kopf.on.login(registry=registry)(login)
    custom = {"workers": names.PLURAL_WORKER, "policies": names.PLURAL_POLICY, "accounts": names.PLURAL_ACCOUNT}
    views: dict[str, Callable[[Mapping[str, Any]], object]] = {
        "workers": observed.worker_view,
        "policies": policies.record,
        "accounts": observed.account_view,
    }
    for index, plural in custom.items():
        kopf.index(names.GROUP, names.VERSION, plural, id=index, registry=registry)(_by_name(views[index]))
        kopf.on.event(names.GROUP, names.VERSION, plural, id=f"{index}-event", registry=registry)(_event(runtime, index))
    label = {names.LABEL_WORKER: kopf.PRESENT}
    for index, group, plural, view in (
        ("pods", ("", "v1"), "pods", observed.pod_view),
        ("deployments", ("apps", "v1"), "deployments", observed.deployment_view),
    ):
        kopf.index(*group, plural, id=index, labels=label, registry=registry)(_by_worker(view))
        kopf.on.event(*group, plural, id=f"{index}-event", labels=label, registry=registry)(_event(runtime, index))


def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """kopf's own settings: nothing that writes, and timeouts on everything that waits."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 30
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS


def _by_name(view: Callable[[Mapping[str, Any]], V]) -> Callable[..., dict[NameKey, V]]:
    def index(body: Mapping[str, Any], namespace: str, name: str, **_: Any) -> dict[NameKey, V]:
        return {(namespace, name): view(body)}

    return index


def _by_worker(view: Callable[[Mapping[str, Any]], V]) -> Callable[..., dict[NameKey, V]]:
    def index(body: Mapping[str, Any], namespace: str, labels: Mapping[str, str], **_: Any) -> dict[NameKey, V]:
        return {(namespace, labels[names.LABEL_WORKER]): view(body)}

    return index


def _event(runtime: Runtime, index: str) -> Callable[..., None]:
    """Bind the indexes at the first event, then name what must be looked at."""

    def event(namespace: str, name: str, labels: Mapping[str, str], **indexes: Any) -> None:
        runtime.bind(Indexes(**{each: indexes[each] for each in INDEXES}))
        if index == "workers":
            runtime.queue.add(Key(names.KIND_WORKER, namespace, name))
        elif index == "policies":
            runtime.queue.add(Key(names.KIND_POLICY, namespace, name))
            runtime.add_workers(namespace, "policyRef", name)
        elif index == "accounts":
            runtime.add_workers(namespace, "settlementAccountRef", name)
        else:
            runtime.queue.add(Key(names.KIND_WORKER, namespace, labels[names.LABEL_WORKER]))

    return event
