"""A worker image in a Simulated trust domain with GPUs, on the real cluster: the driver library is where a worker looks for it."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tomli_w

from chrysalis.api import initdata, names
from chrysalis.api.policy_gpu import GpuRules
from chrysalis.clock import SystemClock
from chrysalis.wire import gpu
from e2e.cluster import Cluster
from e2e.simtd.runtime import SOCKET

pytestmark = pytest.mark.cluster
PORT = 8185
NONCE = bytes(range(32))
ASK = """
import asyncio, json, sys
from chrysalis_worker.nvml import NvmlGpus

async def ask():
    source = NvmlGpus()
    devices = await source.gpus(bytes.fromhex(sys.argv[1]))
    before = await source.ready()
    await source.set_ready(True)
    print(json.dumps({"devices": [one.to_json_dict() for one in devices], "before": before, "after": await source.ready()}))

asyncio.run(ask())
"""


@pytest.fixture
def hardware(cluster: Cluster) -> Iterator[str]:
    """The Simulated platform of this cluster with two GPUs for each domain; its address."""
    state = cluster.layout.simtd
    words = ["--state", str(state), "--listen", f"{cluster.host_ip}:{PORT}", "--gpus", "2"]
    process = cluster.start("simtd-gpus", [sys.executable, "-m", "e2e.simtd.platform", *words], environment=dict(os.environ))
    cluster.wait("the Simulated platform", (state / SOCKET).exists, 20)
    yield f"http://{cluster.host_ip}:{PORT}"
    os.kill(process.pid, signal.SIGTERM)
    cluster.wait("the Simulated platform's end", lambda: not process.alive(), 20)


def domain(name: str, image: str) -> dict[str, Any]:
    """A pod whose measured container asks NVML as the worker does, under the restricted pod security."""
    args = ["/opt/cv/bin/python3", "-I", "-c", ASK, NONCE.hex()]
    allow = json.dumps([{"name": "gateway", "image": image, "args": args}])
    document = tomli_w.dumps({"version": "0.1.0", "algorithm": "sha384", "data": {"allow.json": allow}}).encode()
    container = {
        "name": "gateway",
        "image": image,
        "imagePullPolicy": "Never",
        "command": args,
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "runtimeClassName": names.RUNTIME_CLASS_SIMULATED,
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
    }
    annotations = {names.ANNOTATION_INITDATA: initdata.to_annotation(document)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations}, "spec": spec}


def test_each_domain_sees_gpus_of_its_own(cluster: Cluster, namespace: str, image: Callable[[str], str], hardware: str) -> None:
    reference = image("chrysalis-worker")
    seen: dict[str, dict[str, Any]] = {}
    for name in ("one", "two"):
        cluster.kubectl("create", "--namespace", namespace, "-f", "-", input=json.dumps(domain(name, reference)))
    for name in ("one", "two"):
        cluster.kubectl("wait", "--namespace", namespace, f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
        seen[name] = json.loads(cluster.kubectl("logs", "--namespace", namespace, name))
    with urllib.request.urlopen(f"{hardware}/simulated/gpu-rules.json", timeout=5) as answer:
        rules = GpuRules.model_validate_json(answer.read())
    for said in seen.values():
        assert (said["before"], said["after"]) == (False, True)
        verdict = gpu.appraise([gpu.GpuDevice(**one) for one in said["devices"]], rules=rules, nonce=NONCE, at=SystemClock().now())
        assert (verdict.accepted, verdict.evidence_class) == (True, "Simulated"), verdict.reasons
    chains = {base64.b64decode(one["chain"]) for said in seen.values() for one in said["devices"]}
    assert len(chains) == 4
