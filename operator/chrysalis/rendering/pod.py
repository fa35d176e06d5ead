"""The pod template, version 1: two containers of one image, in one trust domain.

Volumes and everything else that is not in the initdata are untrusted input to the worker; what stands here serves
availability, and the restricted profile of pod security.
"""

from __future__ import annotations

from typing import Any

from chrysalis.api import names
from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.rendering.identity import COMMANDS

Json = dict[str, Any]

USER = 65532
MIB = 1 << 20
GRACE_SECONDS = 75
"""Longer than the worker's drain and Triton's own exit timeout together."""
START_ATTEMPTS = 600
"""Seconds that a trust domain may take to boot and the agent to answer."""
GATEWAY_BASE_MIB = 512

_SECURITY: Json = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def labels(name: str) -> dict[str, str]:
    """Labels of a worker's pods and other children."""
    return {
        names.LABEL_WORKER: name,
        "app.kubernetes.io/name": "chrysalis-worker",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": names.FIELD_MANAGER,
    }


def selector(name: str) -> dict[str, str]:
    """The one label that selects a worker's pods."""
    return {names.LABEL_WORKER: name}


def service_account(name: str) -> str:
    """The name of the worker's ServiceAccount, which has no rights and no token."""
    return f"{name}-worker"


def template(name: str, spec: ConfidentialWorkerSpec, annotation: str) -> Json:
    """The pod template of a Deployment; `annotation` is the packed initdata."""
    return {
        "metadata": {
            "labels": labels(name),
            "annotations": {
                names.ANNOTATION_INITDATA: annotation,
                names.ANNOTATION_TEMPLATE_VERSION: str(spec.template_version),
            },
        },
        "spec": {
            "runtimeClassName": spec.runtime_class_name,
            "schedulingGates": [{"name": names.GATE_ATTESTATION}],
            "readinessGates": [{"conditionType": names.READINESS_ATTESTED}],
            "serviceAccountName": service_account(name),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": selector(name)},
                }
            ],
            "initContainers": [_gateway(spec)],
            "containers": [_triton(spec)],
            "volumes": _volumes(spec),
        },
    }


def _gateway(spec: ConfidentialWorkerSpec) -> Json:
    # A native sidecar: it starts before Triton and stops after it.
    memory = GATEWAY_BASE_MIB + 3 * _mib(spec.model.package.size_bytes)  # the package, its archive and what it unpacks to
    return {
        "name": names.CONTAINER_GATEWAY,
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": COMMANDS[names.CONTAINER_GATEWAY],
        "ports": [
            {"name": "https", "containerPort": names.PORT_GATEWAY, "protocol": "TCP"},
            {"name": "health", "containerPort": names.PORT_HEALTH, "protocol": "TCP"},
            {"name": "metrics", "containerPort": names.PORT_METRICS, "protocol": "TCP"},
        ],
        "startupProbe": _probe("/healthz", period=1, failures=START_ATTEMPTS),
        "livenessProbe": _probe("/healthz", period=10, failures=6),
        "readinessProbe": _probe("/readyz", period=1, failures=2),
        # No limit on its CPU: it stands in every request's way, and its own admission bounds what it does.
        "resources": {"requests": {"cpu": "100m", "memory": f"{memory}Mi"}, "limits": {"memory": f"{memory}Mi"}},
        "securityContext": _SECURITY,
        "volumeMounts": [
            _mount("model", "run/model"),
            _mount("triton", "run/triton"),
            _mount("receipts", "run/receipts"),
            _mount("gateway-tmp", "tmp"),
            _mount("podinfo", "run/podinfo", read_only=True),
        ],
    }


def _triton(spec: ConfidentialWorkerSpec) -> Json:
    # Limits equal requests: a trust domain's size is fixed when it starts.
    resources = {"cpu": spec.resources.cpu, "memory": spec.resources.memory}
    return {
        "name": names.CONTAINER_TRITON,
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        "command": COMMANDS[names.CONTAINER_TRITON],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": _SECURITY,
        "volumeMounts": [
            _mount("model", "run/model", read_only=True),
            _mount("triton", "run/triton"),
            _mount("triton-tmp", "tmp"),
            _mount("triton-shm", "dev/shm"),  # Triton and its stubs share tensors here
        ],
    }


def _volumes(spec: ConfidentialWorkerSpec) -> list[Json]:
    model = 64 + 2 * _mib(spec.model.package.size_bytes)
    return [
        _memory("model", model),
        _memory("triton", 16),
        _memory("receipts", 64),
        _memory("gateway-tmp", 64 + _mib(spec.model.package.size_bytes)),
        _memory("triton-tmp", 64),
        _memory("triton-shm", 256),
        {
            "name": "podinfo",
            "downwardAPI": {
                "defaultMode": 0o444,
                "items": [
                    _item("initdata", f"metadata.annotations['{names.ANNOTATION_INITDATA}']"),
                    _item("uid", "metadata.uid"),
                    _item("name", "metadata.name"),
                    _item("namespace", "metadata.namespace"),
                    _item("worker", f"metadata.labels['{names.LABEL_WORKER}']"),
                ],
            },
        },
    ]


def _mount(volume: str, path: str, *, read_only: bool = False) -> Json:
    return {"name": volume, "mountPath": f"/{path}"} | ({"readOnly": True} if read_only else {})


def _memory(name: str, mib: int) -> Json:
    # In memory, so that nothing of a model, a receipt or a prompt reaches the host's disk.
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": f"{mib}Mi"}}


def _item(path: str, field: str) -> Json:
    return {"path": path, "fieldRef": {"apiVersion": "v1", "fieldPath": field}}


def _probe(path: str, *, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": "health", "scheme": "HTTP"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }


def _mib(size: int) -> int:
    return -(-size // MIB)
