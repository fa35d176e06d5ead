"""admit.single: from `kubectl apply` of a ConfidentialWorker to Ready, against a plain Deployment that runs the same Triton.

The worker has one replica, a sealed model, and runs in a Simulated trust domain; the Deployment runs the worker image's
tritonserver on the same model in the clear, with Kubernetes' probes at the same intervals and the same resources.  Both are
on one cluster of their own (CHRYSALIS_INSTANCE, by default `bench`), nothing else is on it, and they take turns.  Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import Row
from chrysalis.api import names
from chrysalis_worker import paths
from chrysalis_worker.supervisor import ServerCommand
from e2e.demo import chain, ground, hardware, install, objects
from e2e.demo.story import Console
from e2e.demo.world import World

IDS = ("admit.single",)
ROUNDS = 7
READY_SECONDS = 120
NAME = "bench"
PLAIN = "plain"
HTTP_PORT = 8000
CPU = "1"
"""Of Triton's container on both sides; the demo's 200m would make both wait for Triton's own start alone."""
MEMORY = "768Mi"
PROBE_SECONDS = 1


def measure() -> list[Row]:
    """Bring everything up, measure in turns, end everything; raises StepFailed where the demo's steps would."""
    world = World(
        instance=os.environ.get("CHRYSALIS_INSTANCE") or "bench", state=Path(tempfile.mkdtemp(prefix="chrysalis-bench-")), keep=False
    )
    console = Console(stream=sys.stderr)
    try:
        for step in (ground.cluster, hardware.simulated_tdx, chain.ton_devnet, ground.images, install.install):
            with console.heartbeat():
                step(world, console)
        return [_row(*_rounds(world, console))]
    finally:
        if world.cluster is not None:
            world.cluster.down()
        shutil.rmtree(world.state, ignore_errors=True)


def _rounds(world: World, console: Console) -> tuple[list[float], list[float]]:
    """Seconds of each round, ours and the plain Deployment's, in turns."""
    # the install's own worker has warmed the images and the model up; it must not take the measured ones' CPU
    _gone(world, "cw", install.WORKER, objects.NAMESPACE)
    world.kubectl("create", "namespace", PLAIN)
    _let_anyone_read(world.state / "repository")
    confidential, plain = json.dumps(_confidential(world)), json.dumps(_plain(world))
    ours: list[float] = []
    theirs: list[float] = []
    marks: list[dict[str, float]] = []
    for number in range(1, ROUNDS + 1):
        theirs.append(_seconds(world, plain, "deployment", PLAIN, "Available"))
        _gone(world, "deployment", NAME, PLAIN)
        applied = world.clock.now()
        ours.append(_seconds(world, confidential, "cw", objects.NAMESPACE, "Ready"))
        pod = install.worker_pods(world, NAME)[0]["metadata"]["name"]
        marks.append(phases(world.kubectl("logs", pod, "-n", objects.NAMESPACE, "-c", names.CONTAINER_GATEWAY), applied))
        _gone(world, "cw", NAME, objects.NAMESPACE)
        console.say(f"round {number} of {ROUNDS}: plain {theirs[-1]:.2f} s, confidential {ours[-1]:.2f} s")
    medians = {name: statistics.median(mark[name] for mark in marks if name in mark) for name in marks[0]}
    console.say("since apply: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in medians.items()))
    return ours, theirs


def phases(log: str, applied: datetime) -> dict[str, float]:
    """The seconds from `applied` to each phase that an agent's log names, in its order."""
    reached = {}
    for line in log.splitlines():
        with contextlib.suppress(ValueError):  # a line that is not the agent's
            event = json.loads(line)
            if event.get("event") == "phase.reached":
                reached[str(event["phase"])] = (datetime.fromisoformat(event["time"]) - applied).total_seconds()
    return reached


def _seconds(world: World, manifest: str, kind: str, namespace: str, condition: str) -> float:
    """From before `kubectl apply` until `kubectl wait` has seen the condition."""
    started = time.perf_counter()
    world.kubectl("apply", "-f", "-", given=manifest)
    world.kubectl("wait", f"{kind}/{NAME}", "-n", namespace, f"--for=condition={condition}", f"--timeout={READY_SECONDS}s")
    return time.perf_counter() - started


def _gone(world: World, kind: str, name: str, namespace: str) -> None:
    """Delete an object and wait until its pods are gone, too."""
    world.kubectl("delete", kind, name, "-n", namespace, "--wait=true")
    no_pods: Callable[[], bool] = lambda: not world.get("pods", "-n", namespace)["items"]  # noqa: E731
    hardware.until(f"the pods of {name} are gone", no_pods, READY_SECONDS)


def _row(ours: list[float], theirs: list[float]) -> Row:
    value, reference = statistics.median(ours), statistics.median(theirs)
    spread = f"{min(ours):.1f}–{max(ours):.1f} s against {min(theirs):.1f}–{max(theirs):.1f} s"
    return Row(
        id="admit.single",
        value=value,
        unit="s",
        reference=f"plain Deployment: {reference:.2f} s; {len(ours)} rounds, {spread}",
        ratio=value / reference,
        reach=None,
        ok=None,
    )


def _confidential(world: World) -> dict[str, Any]:
    # neither name, replicas nor resources are measured, so the demo's policy and key are this worker's, too
    body = install.worker_object(world, name=NAME, replicas=1)
    body["spec"]["resources"] = {"cpu": CPU, "memory": MEMORY}
    return body


def _plain(world: World) -> dict[str, Any]:
    """What somebody would write who trusts the machine: Triton on a folder of it, and Triton's own health over HTTP."""
    labels = {"app": NAME}
    limits = {"cpu": CPU, "memory": MEMORY}
    server = ServerCommand()
    environment = [{"name": name, "value": value} for name, value in server.environment().items()]
    container = {
        "name": "triton",
        "image": world.images["chrysalis-worker"],
        "imagePullPolicy": "Never",
        "command": plain_argv(server),
        "env": environment,
        "ports": [{"name": "http", "containerPort": HTTP_PORT}],
        "startupProbe": _probe("/v2/health/live", 600),
        "readinessProbe": _probe("/v2/health/ready", 2),
        "resources": {"requests": limits, "limits": limits},
        "volumeMounts": [
            {"name": "model", "mountPath": str(paths.RUN_MODEL), "readOnly": True},
            {"name": "tmp", "mountPath": str(paths.SCRATCH)},
            {"name": "shm", "mountPath": str(paths.SHARED_MEMORY)},
        ],
    }
    volumes = [
        {"name": "model", "hostPath": {"path": str(world.state / "repository")}},
        {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
    ]
    pod = {"enableServiceLinks": False, "automountServiceAccountToken": False, "containers": [container], "volumes": volumes}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": PLAIN},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def plain_argv(server: ServerCommand) -> list[str]:
    """The worker's own arguments of Triton, but with HTTP for the kubelet's probes instead of the private gRPC socket."""
    private = ("--allow-http", "--grpc-")
    kept = [word for word in server.argv() if not word.startswith(private)]
    return [*kept, "--allow-grpc=false", f"--http-port={HTTP_PORT}"]


def _probe(path: str, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": PROBE_SECONDS,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }


def _let_anyone_read(folder: Path) -> None:
    """The pod runs as a user of its own."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
