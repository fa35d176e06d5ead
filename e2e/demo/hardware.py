"""Step 3: the Simulated TDX platform, and proof that its guests enforce what was measured."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from chrysalis.api import initdata, names
from chrysalis.attestation import quote as quotes
from e2e.demo.story import Console, StepFailed, expect
from e2e.demo.world import World
from e2e.images import build
from e2e.simtd.pki import SimulatedPlatform
from e2e.simtd.runtime import SOCKET

PORT = 8180
NAMESPACE = "default"
ASK = """
import sys, urllib.parse, urllib.request
print(urllib.request.urlopen(
    "http://127.0.0.1:8006/aa/evidence?encoding=base64&runtime_data=" + urllib.parse.quote(sys.argv[1]), timeout=10).read().decode())
"""


def platform_url(world: World) -> str:
    """Where the platform serves its collateral; pods reach it, too."""
    return f"http://{world.running.host_ip}:{PORT}"


def simulated_tdx(world: World, console: Console) -> str:
    """Start the platform; a measured pod gets a quote that is genuine under its root, anything else is refused."""
    state = world.running.layout.simtd
    world.running.start(
        "simtd-platform",
        [sys.executable, "-m", "e2e.simtd.platform", "--state", str(state), "--listen", f"{world.running.host_ip}:{PORT}"],
        environment=dict(os.environ),
    )
    until("the Simulated platform answers", lambda: (state / SOCKET).exists() and _reachable(platform_url(world)), 60)
    platform = SimulatedPlatform.load(state)
    world.facts["root_der"] = platform.root_der
    firmware = urllib.request.urlopen(f"{platform_url(world)}/simulated/firmware.json", timeout=10).read()
    world.facts["firmware"] = json.loads(firmware)
    world.secret_file("firmware.json", firmware)
    world.secret_file("simulated-root.der", platform.root_der)

    pause = build("pause", console.doing).reference
    toml = _initdata(pause, ["/pause"])
    # pods are refused until the controller has made the default service account
    account = ("get", "serviceaccount", "default", "-n", NAMESPACE, "--ignore-not-found", "-o", "name")
    until("the namespace has its service account", lambda: world.kubectl(*account), 60)
    world.kubectl("apply", "-f", "-", given=json.dumps(_pod("measured", pause, ["/pause"], toml)))
    world.kubectl("apply", "-f", "-", given=json.dumps(_pod("other-arguments", pause, ["/pause", "--debug"], toml)))
    world.kubectl("wait", "pod/measured", "--for=condition=Ready", "--timeout=110s")
    console.say("a pod whose container is the measured one runs")

    nonce = secrets.token_bytes(64)
    evidence = _evidence_of(world, str(world.get("pod", "measured")["status"]["podIP"]), nonce)
    raw = base64.b64decode(evidence["quote"])
    parsed = quotes.parse(raw)
    expect(parsed.report_data == nonce, "the quote does not carry the report data that was asked for")
    expect(parsed.mrconfigid == initdata.mrconfigid(toml), "MRCONFIGID is not the SHA-384 of the pod's initdata")
    path = world.secret_file("simulated.quote", raw)
    collateral = world.secret_file("simulated-collateral.json", platform.collateral(world.clock.now()).encode())
    words = ["verify", str(path), "--collateral", str(collateral), "-o", "json"]
    judged = json.loads(world.chrysalis(*words, "--root", str(world.state / "simulated-root.der")))
    expect(judged["evidenceClass"] == "Simulated", "a simulated quote does not say that it is Simulated")
    console.say("its quote carries MRCONFIGID = SHA-384(initdata) and verifies under the simulator's root, as evidence class Simulated")
    against_intel = json.loads(world.chrysalis(*words, codes=(1,)))
    console.say(f"under Intel's root it is refused: {against_intel['reasons'][0]['reason']}")

    refusal = until("the kubelet reports the refused container", lambda: _waiting(world.get("pod", "other-arguments")), 120)
    expect("does not allow container" in refusal, f"the pod with other arguments says: {refusal}")
    console.say("a pod with one argument more does not start: the initdata's policy does not allow it")
    said = world.refused("exec", "measured", "--", "/pause")
    expect("exec is not allowed" in said, f"exec was refused for another reason: {said}")
    console.say("kubectl exec is refused by the guest")
    world.kubectl("delete", "pod", "measured", "other-arguments", "--grace-period=1", "--wait=true")
    return "a guest starts only what was measured, refuses exec, and its quotes verify under a root that is not Intel's"


def until(what: str, ask: Callable[[], Any], seconds: float) -> Any:
    """Ask until the answer is true and return it; raises StepFailed when the seconds are over."""
    deadline = time.monotonic() + seconds
    while True:
        found = ask()
        if found:
            return found
        if time.monotonic() > deadline:
            raise StepFailed(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(0.2)


def _reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/simulated/root.der", timeout=5) as answer:
            return int(answer.status) == 200
    except OSError:
        return False


def _initdata(image: str, args: list[str]) -> bytes:
    """Initdata with an allow-list of one container and the identity of no real worker."""
    zeros = "sha256:" + "0" * 64
    return initdata.Initdata.model_validate(
        {
            "containers": [{"name": "measured", "image": image, "args": args}],
            "identity": {
                "templateVersion": 1,
                "isolation": "PodTD",
                "imageDigest": image.split("@")[1],
                "model": {
                    "name": "none",
                    "package": {"url": "http://none", "digest": zeros, "sizeBytes": 1},
                    "digest": zeros,
                    "keyId": "none",
                },
                "policyName": "none",
                "broker": {"url": "https://none", "spkiSha256": "0" * 64, "earKey": "0" * 64},
            },
        }
    ).to_toml()


def _pod(name: str, image: str, args: list[str], toml: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {names.ANNOTATION_INITDATA: initdata.to_annotation(toml)}},
        "spec": {
            "runtimeClassName": names.RUNTIME_CLASS_SIMULATED,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "containers": [{"name": "measured", "image": image, "command": args, "imagePullPolicy": "Never"}],
        },
    }


def _waiting(pod: dict[str, Any]) -> str:
    for status in pod.get("status", {}).get("containerStatuses", []):
        for state in (status.get("state", {}), status.get("lastState", {})):
            message = (state.get("waiting") or state.get("terminated") or {}).get("message", "")
            if "simtd:" in message:
                return str(message)
    return ""


def _evidence_of(world: World, address: str, report_data: bytes) -> dict[str, str]:
    """Ask the guest's service from inside the network namespace of the pod with this address."""
    # this one folder and no deeper: other folders of containerd's state come and go with their containers while one looks
    namespaces = sorted(path for node in world.running.layout.nodes for path in node.pod_namespaces.glob("*"))
    for namespace in namespaces:
        enter = ["nsenter", f"--net={namespace}"]
        if f" {address}/" not in subprocess.run([*enter, "ip", "-4", "-o", "address"], capture_output=True, text=True).stdout:
            continue
        words = [*enter, sys.executable, "-c", ASK, base64.b64encode(report_data).decode()]
        done = subprocess.run(words, capture_output=True, text=True)
        expect(done.returncode == 0, f"the guest's evidence service does not answer: {done.stderr[-300:]}")
        evidence: dict[str, str] = json.loads(done.stdout)
        return evidence
    raise StepFailed(f"no network namespace of this machine has the pod's address {address}")
