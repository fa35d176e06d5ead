"""`chrysalis status`: a worker's conditions and its pods, in the order in which they turn, with what to do where one says no."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp
import click
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration, CoreV1Api, CustomObjectsApi
from kubernetes.aio.client.exceptions import ApiException

from chrysalis.api import names
from chrysalis.api.conditions import ConditionType, status_of
from chrysalis.cli import failures, printing
from chrysalis.errors import ChrysalisError

EXIT_NO = 1
EXIT_UNREACHABLE = 3
REQUEST_SECONDS = 15.0
UNUSABLE = (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, AttributeError, LookupError)
"""What the library raises for a file of another form: it looks for what it needs, and says what was missing only where it thought of it."""
RIGHTS = "ask with an account that may get ConfidentialWorkers and list pods there"
GIVE_ONE = "give one with --kubeconfig, or name it in $KUBECONFIG"
REACH = "look at --kubeconfig and --context, and whether `kubectl version` gets an answer"
COPIED = ("mrconfigid", "tcbStatus", "evidenceClass", "expiresAt", "limitedBy", "wallet", "earned")
"""Members of the status that are shown as they are."""
LABELS = {"tcbStatus": "TCB", "evidenceClass": "evidence", "expiresAt": "expires", "limitedBy": "limited by", "earned": "earned"}
ORDER = (
    ConditionType.STALLED,
    ConditionType.RECONCILING,
    ConditionType.ATTESTED,
    ConditionType.KEY_RELEASED,
    ConditionType.SERVING,
    ConditionType.SETTLING,
    ConditionType.READY,
)
BAD_WHEN_TRUE = {ConditionType.STALLED}
NEUTRAL = {ConditionType.RECONCILING}


class StatusReason(StrEnum):
    """Why there is no status to show."""

    WORKER_NOT_FOUND = "WorkerNotFound"
    CLUSTER_UNUSABLE = "ClusterUnusable"


class StatusError(ChrysalisError):
    """The cluster did not show the worker."""


@click.command()
@click.argument("worker")
@click.option("-n", "--namespace", help="By default, the kubeconfig's.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="By default $KUBECONFIG, or ~/.kube/config.")
@click.option("--context", help="Which of the kubeconfig's contexts.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(worker: str, namespace: str | None, kubeconfig: Path | None, context: str | None, output: str) -> int:
    """Show a ConfidentialWorker's conditions and pods; exit 0 when it is Ready, 1 when it is not.

    WORKER is a name, or cw/NAME.
    """
    name = worker.removeprefix("cw/")
    if kubeconfig is not None and not kubeconfig.exists():
        raise StatusError(StatusReason.CLUSTER_UNUSABLE, "no kubeconfig can be used", GIVE_ONE, f"there is no file {kubeconfig}")
    try:
        found, pods = asyncio.run(_read(name, namespace, kubeconfig, context))
    except ApiException as error:
        if error.status == 404:
            raise StatusError(
                StatusReason.WORKER_NOT_FOUND, f"there is no ConfidentialWorker {name!r} in that namespace", "look with `kubectl get cw -A`"
            ) from error
        refused = StatusError(StatusReason.CLUSTER_UNUSABLE, f"the API server refused: {error.status} {error.reason}", RIGHTS)
        return failures.tell([refused], EXIT_UNREACHABLE)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        away = StatusError(StatusReason.CLUSTER_UNUSABLE, "the API server cannot be reached", REACH, str(error)[:300])
        return failures.tell([away], EXIT_UNREACHABLE)
    summary = summarise(found, pods)
    if output == "json":
        click.echo(json.dumps(summary, indent=2))
    else:
        printing.lines(lines(summary))
    return 0 if summary["ready"] else EXIT_NO


def summarise(worker: Mapping[str, Any], pods: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What is shown, as data: from the objects as the API server gives them."""
    status = worker.get("status") or {}
    conditions = list(status.get("conditions") or [])
    generation = worker["metadata"].get("generation", 0)
    current = status.get("observedGeneration", 0) >= generation
    return {
        "schemaVersion": "chrysalis/v1",
        "namespace": worker["metadata"]["namespace"],
        "worker": worker["metadata"]["name"],
        "ready": current and status_of(conditions, ConditionType.READY) == "True",
        "current": current,
        "replicas": (worker.get("spec") or {}).get("replicas", 1),
        "conditions": [c for kind in ORDER for c in conditions if c.get("type") == kind],
        "pods": [_pod(pod) for pod in sorted(pods, key=lambda p: str(p["metadata"]["name"]))],
        **{key: status[key] for key in COPIED if key in status},
    }


def _pod(pod: Mapping[str, Any]) -> dict[str, Any]:
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    conditions = list(status.get("conditions") or [])
    return {
        "name": metadata["name"],
        "node": spec.get("nodeName") or "",
        "gated": any(gate.get("name") == names.GATE_ATTESTATION for gate in spec.get("schedulingGates") or []),
        "admitted": (metadata.get("annotations") or {}).get(names.ANNOTATION_ADMITTED) == metadata.get("uid"),
        "attested": status_of(conditions, names.READINESS_ATTESTED),
        "ready": status_of(conditions, "Ready"),
        "phase": status.get("phase", ""),
    }


def lines(summary: Mapping[str, Any]) -> list[str]:
    """What is shown, for people."""
    shown = [f"{summary['namespace']}/{summary['worker']}: {'ready' if summary['ready'] else 'not ready'}"]
    if not summary["current"]:
        shown.append("  the operator has not looked at the latest change of the spec yet")
    for condition in summary["conditions"]:
        kind, state = str(condition["type"]), str(condition["status"])
        good = state == ("False" if kind in BAD_WHEN_TRUE else "True")
        mark = "·" if kind in NEUTRAL or state == "Unknown" else ("✓" if good else "✗")
        words = condition.get("message") or ""
        shown.append(f"  {mark} {kind:<12} {state:<8} {condition.get('reason', ''):<24} {words}".rstrip())
    for pod in summary["pods"]:
        where = pod["node"] or ("gated" if pod["gated"] else "not placed")
        admitted = "admitted" if pod["admitted"] else ("waits at its gate" if pod["gated"] else "NOT admitted by the operator")
        shown.append(f"  pod {pod['name']}  {where}  {admitted}  attested={pod['attested']}  ready={pod['ready']}")
    for key, label in LABELS.items():
        if summary.get(key):
            shown.append(f"  {label:<14} {summary[key]}")
    return shown


async def _read(
    name: str, namespace: str | None, kubeconfig: Path | None, context: str | None
) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    logging.getLogger("kubernetes").addHandler(logging.NullHandler())  # what it warns of is in its error, or follows from it
    configuration = Configuration()
    loader: Any = config  # untyped
    try:
        path = str(kubeconfig) if kubeconfig else None
        await loader.load_kube_config(config_file=path, context=context, client_configuration=configuration)
        _, active = loader.list_kube_config_contexts(config_file=path)
        chosen = namespace or active.get("context", {}).get("namespace") or "default"
    except UNUSABLE as error:
        raise StatusError(
            StatusReason.CLUSTER_UNUSABLE, "no kubeconfig can be used", GIVE_ONE, f"{type(error).__name__}: {error}"[:300]
        ) from error
    configuration.retries = 0
    async with ApiClient(configuration) as api:
        found: Any = await CustomObjectsApi(api).get_namespaced_custom_object(
            names.GROUP, names.VERSION, chosen, names.PLURAL_WORKER, name, _request_timeout=REQUEST_SECONDS
        )
        listed: Any = await CoreV1Api(api).list_namespaced_pod(
            chosen, label_selector=f"{names.LABEL_WORKER}={name}", _request_timeout=REQUEST_SECONDS
        )
        return found, [api.sanitize_for_serialization(pod) for pod in listed.items]
