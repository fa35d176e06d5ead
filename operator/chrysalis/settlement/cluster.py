"""What the settler reads from and writes to Kubernetes, and how it finds workers: the broker's results beside the pods' addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

import aiohttp
from kubernetes.aio.client import ApiClient, CoordinationV1Api, CoreV1Api, CustomObjectsApi, V1Lease, V1LeaseSpec, V1ObjectMeta
from kubernetes.aio.client.exceptions import ApiException
from pydantic import ValidationError

from chrysalis.api import names
from chrysalis.api.account import SettlementAccountSpec
from chrysalis.clock import Clock, rfc3339
from chrysalis.settlement.collector import Found, newest_by_key
from chrysalis.settlement.lease import LeaseRecord
from chrysalis.wire.broker import ResultView
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.reasons import WireError, WireReason

REQUEST_SECONDS = 10.0
MAX_RESULTS = 1000
RESULT_SECONDS = 3.0
"""The broker is asked at most this often; pods are read each round."""
CONFLICT, NOT_FOUND = 409, 404
Unreachable = (ApiException, aiohttp.ClientError, TimeoutError)


@dataclass(frozen=True)
class AccountObject:
    """A SettlementAccount as it stands in the cluster; `spec` is None when it is not valid, and `problem` says why."""

    namespace: str
    name: str
    generation: int
    conditions: Sequence[dict[str, Any]]
    spec: SettlementAccountSpec | None
    problem: str = ""


class Accounts:
    """SettlementAccounts: read, and their status written."""

    def __init__(self, api: ApiClient, namespaces: Sequence[str]) -> None:
        self._objects = CustomObjectsApi(api)
        self._namespaces = list(namespaces)

    async def all(self) -> list[AccountObject]:
        """Every account in the namespaces that this settler serves; raises WireError."""
        group: dict[str, Any] = {
            "group": names.GROUP,
            "version": names.VERSION,
            "plural": names.PLURAL_ACCOUNT,
            "_request_timeout": REQUEST_SECONDS,
        }
        lists: list[Any]
        try:
            if self._namespaces:
                lists = [await self._objects.list_namespaced_custom_object(namespace=n, **group) for n in self._namespaces]
            else:
                lists = [await self._objects.list_cluster_custom_object(**group)]
        except Unreachable as error:
            _unreachable(error)
        return [account_of(item) for page in lists for item in page.get("items", [])]

    async def write_status(self, account: AccountObject, status: dict[str, Any]) -> None:
        """Replace the members of the status; an account that is gone meanwhile is no error.  Raises WireError."""
        try:
            await self._objects.patch_namespaced_custom_object_status(
                group=names.GROUP,
                version=names.VERSION,
                namespace=account.namespace,
                plural=names.PLURAL_ACCOUNT,
                name=account.name,
                body={"status": status},
                field_manager="chrysalis-settler",
                _content_type="application/merge-patch+json",
                _request_timeout=REQUEST_SECONDS,
            )
        except ApiException as error:
            if error.status != NOT_FOUND:
                _unreachable(error)
        except (aiohttp.ClientError, TimeoutError) as error:
            _unreachable(error)


def account_of(item: dict[str, Any]) -> AccountObject:
    """One object of the API server's list."""
    metadata, status = item.get("metadata", {}), item.get("status") or {}
    spec, problem = None, ""
    try:
        spec = SettlementAccountSpec.model_validate(item.get("spec"))
    except ValidationError as error:
        problem = str(error)[:1024]
    return AccountObject(
        namespace=str(metadata.get("namespace", "")),
        name=str(metadata.get("name", "")),
        generation=int(metadata.get("generation", 0)),
        conditions=list(status.get("conditions") or []),
        spec=spec,
        problem=problem,
    )


class ClusterDirectory:
    """Workers of one namespace: the broker's newest result for each receipt key, at the address of the pod that it claims.

    The claim is the host's word: a lie leads to a server that does not have the pinned key.
    """

    def __init__(self, api: ApiClient, broker: BrokerClient, namespace: str, clock: Clock) -> None:
        self._core = CoreV1Api(api)
        self._broker = broker
        self._namespace = namespace
        self._clock = clock
        self._results: list[ResultView] = []
        self._asked_at: float | None = None

    async def workers(self) -> Sequence[Found]:
        """See collector.Directory."""
        if self._asked_at is None or self._clock.monotonic() - self._asked_at >= RESULT_SECONDS:
            self._results = await self._broker.results(namespace=self._namespace, verdict="Accepted", limit=MAX_RESULTS)
            self._asked_at = self._clock.monotonic()
        try:
            pods: Any = await self._core.list_namespaced_pod(
                self._namespace, label_selector=names.LABEL_WORKER, _request_timeout=REQUEST_SECONDS
            )
        except Unreachable as error:
            _unreachable(error)
        return match(
            self._results, {pod.metadata.uid: (pod.status.pod_ip or "", pod.metadata.labels[names.LABEL_WORKER]) for pod in pods.items}
        )


def match(results: Sequence[ResultView], pods: dict[str, tuple[str, str]]) -> list[Found]:
    """Results beside pods by uid; pods: uid -> (address, worker's name).  Pods without a result or an address are left out."""
    found = []
    for result in newest_by_key(results).values():
        address, name = pods.get(result.claimed.pod_uid, ("", ""))
        if address:
            host = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
            found.append(Found(result=result, endpoint=f"https://{host}:{names.PORT_GATEWAY}", name=name))
    return found


class KubernetesLease:
    """One coordination.k8s.io/v1 Lease (lease.LeaseStore)."""

    def __init__(self, api: ApiClient, namespace: str, name: str, clock: Clock) -> None:
        self._leases = CoordinationV1Api(api)
        self._namespace = namespace
        self._name = name
        self._clock = clock

    async def read(self) -> LeaseRecord | None:
        """The Lease; raises WireError."""
        try:
            lease: Any = await self._leases.read_namespaced_lease(self._name, self._namespace, _request_timeout=REQUEST_SECONDS)
        except ApiException as error:
            if error.status == NOT_FOUND:
                return None
            _unreachable(error)
        except (aiohttp.ClientError, TimeoutError) as error:
            _unreachable(error)
        spec = lease.spec or V1LeaseSpec()
        renewed = spec.renew_time if isinstance(spec.renew_time, datetime) else datetime.fromtimestamp(0, UTC)
        return LeaseRecord(spec.holder_identity or "", rfc3339(renewed), spec.lease_duration_seconds or 1, lease.metadata.resource_version)

    async def write(self, holder: str, duration_seconds: int, version: str | None) -> bool:
        """Create or replace; False when another writer was faster; raises WireError."""
        spec = V1LeaseSpec(holder_identity=holder or None, lease_duration_seconds=duration_seconds, renew_time=self._clock.now())
        lease = V1Lease(metadata=V1ObjectMeta(name=self._name, namespace=self._namespace, resource_version=version), spec=spec)
        try:
            if version is None:
                await self._leases.create_namespaced_lease(self._namespace, lease, _request_timeout=REQUEST_SECONDS)
            else:
                await self._leases.replace_namespaced_lease(self._name, self._namespace, lease, _request_timeout=REQUEST_SECONDS)
        except ApiException as error:
            if error.status == CONFLICT:
                return False
            _unreachable(error)
        except (aiohttp.ClientError, TimeoutError) as error:
            _unreachable(error)
        return True


def _unreachable(error: BaseException) -> NoReturn:
    raise WireError(
        WireReason.SERVICE_UNREACHABLE,
        "the Kubernetes API server did not do what the settler asked",
        "check that it runs, and that the service account may read pods and SettlementAccounts, write their status, and its Lease",
        f"{type(error).__name__}: {error}"[:512],
    ) from error
