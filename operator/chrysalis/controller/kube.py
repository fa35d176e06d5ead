"""The Kubernetes API as the controller uses it: JSON in, JSON out, over the official asynchronous client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.exceptions import ApiException

from chrysalis.controller.reasons import ControllerError, ControllerReason

APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json"

NOT_FOUND, CONFLICT, UNPROCESSABLE = 404, 409, 422
REQUEST_SECONDS = 15.0
AT_ONCE = 32
"""More requests at once make an API server no faster."""

Json = dict[str, Any]


class KubernetesError(ControllerError):
    """A request was refused or not answered.  status is 0 where there was no answer."""

    def __init__(self, status: int, message: str, detail: str = "") -> None:
        if status:
            reason, remedy = ControllerReason.KUBERNETES_REFUSED, "check the operator's ClusterRole, and what admission policies say"
        else:
            reason, remedy = ControllerReason.KUBERNETES_UNREACHABLE, "check that the API server runs and can be reached"
        super().__init__(reason, message, remedy, detail)
        self.status = status


class Kubernetes:
    """Requests to one API server."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def send(
        self, method: str, path: str, body: Any = None, *, content_type: str = JSON, query: dict[str, str] | None = None
    ) -> Json:
        """One request; returns the answer's object; raises KubernetesError."""
        request = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": JSON, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        async with self._slots:
            try:
                response = await self._api.call_api(*request, _request_timeout=REQUEST_SECONDS)
                data: bytes = await response.response.read()
            except ApiException as error:
                raise KubernetesError(int(error.status or 0), f"{method} {path}: {error.reason}", _message(error.body)) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise KubernetesError(0, f"{method} {path}: no answer", f"{type(error).__name__}: {error}") from error
        if not 200 <= response.status < 300:
            raise KubernetesError(response.status, f"{method} {path}: {_message(data)}")
        try:
            found = json.loads(data) if data else {}
        except ValueError as error:
            raise KubernetesError(0, f"{method} {path}: the answer is not JSON") from error
        return found if isinstance(found, dict) else {}

    async def find(self, path: str) -> Json | None:
        """GET an object; None where there is none."""
        try:
            return await self.send("GET", path)
        except KubernetesError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def write(self, method: str, path: str, body: Any) -> bool:
        """POST or PUT; False when somebody was faster."""
        try:
            await self.send(method, path, body)
        except KubernetesError as error:
            if error.status == CONFLICT:
                return False
            raise
        return True


_PLURALS = {
    "Deployment": "deployments",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
}


def path_of(child: Json) -> str:
    """The path of one of the children that rendering makes."""
    api_version, metadata = child["apiVersion"], child["metadata"]
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    return f"{root}/namespaces/{metadata['namespace']}/{_PLURALS[child['kind']]}/{metadata['name']}"


def _message(body: Any) -> str:
    """What the API server says in a Status object, bounded."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        found = json.loads(text)
        return str(found.get("message", ""))[:1024] if isinstance(found, dict) else text[:256]
    except ValueError:
        return text[:256]
