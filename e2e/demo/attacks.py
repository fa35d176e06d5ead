"""Step 11: what must not work, does not.  Each attempt is real, and each refusal is the product's own words."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from pyrage import x25519

from chrysalis.api import names
from e2e.demo import objects
from e2e.demo.hardware import until
from e2e.demo.install import (
    PRICES,
    READY_SECONDS,
    WORKER,
    measurements_of,
    policy_object,
    worker_object,
    worker_pods,
)
from e2e.demo.money import audit_words
from e2e.demo.serving import endpoint
from e2e.demo.story import Console, StepFailed, expect
from e2e.demo.world import World

SECOND_TENANT = "tenant-b"
ADMISSION = "validatingadmissionpolicybindings"
WATCH_SECONDS = 8
"""How long a pod that must never become ready is watched."""


def must_not_work(world: World, console: Console) -> str:
    """The attempts, one after the other; each raises StepFailed when it succeeds."""
    attempts = (
        _measured_otherwise,
        _bound_by_hand,
        _entered,
        _other_policy,
        _second_tenant,
        _admission_removed,
        _receipts_changed,
    )
    for attempt in attempts:
        console.doing(attempt.__name__.strip("_").replace("_", " "))
        attempt(world, console)
    return "no key, no readiness, no entry, no byte and no payment for any of them"


def _condition(world: World, worker: str, kind: str, namespace: str = objects.NAMESPACE) -> dict[str, Any]:
    """A condition of a worker, {} while it is not there."""
    status = world.get("cw", worker, "-n", namespace).get("status", {})
    found: dict[str, Any] = next((c for c in status.get("conditions", []) if c["type"] == kind), {})
    return found


def _refused_worker(world: World, console: Console, worker: str, what: str, namespace: str = objects.NAMESPACE) -> None:
    """Wait until a worker is Attested=False for its measurement, and print what its owner sees."""

    def refused() -> dict[str, Any] | None:
        found = _condition(world, worker, "Attested", namespace)
        return found if found.get("status") == "False" and found.get("reason") == "MeasurementNotAllowed" else None

    condition = until(f"{worker} is Attested=False, MeasurementNotAllowed", refused, READY_SECONDS)
    released = _condition(world, worker, "KeyReleased", namespace)
    expect(released.get("status") != "True", f"{worker} got a key")
    console.say(f"{what}: Attested=False, {condition['reason']}: {condition['message'][:230]}")


def _measured_otherwise(world: World, console: Console) -> None:
    """A worker that is not the measured one gets no key."""
    changed = worker_object(world, name="otherwise", replicas=1, prices=PRICES | {"job": PRICES["job"] * 2})
    world.kubectl("apply", "-f", "-", given=json.dumps(changed))
    _refused_worker(world, console, "otherwise", "a worker with other settings than the measured ones")
    for line in world.kubectl("get", "cw", "otherwise", "-n", objects.NAMESPACE).splitlines():
        console.say(line)
    world.kubectl("delete", "cw", "otherwise", "-n", objects.NAMESPACE, "--wait=false")


def _pod_of(world: World, name: str, *, node: str, runtime_class: bool) -> dict[str, Any]:
    """A pod as the worker's Deployment makes them, bound to a node by hand, without the gate."""
    template = world.get("deployment", WORKER, "-n", objects.NAMESPACE)["spec"]["template"]
    spec = {key: value for key, value in template["spec"].items() if key != "schedulingGates"} | {"nodeName": node}
    if not runtime_class:
        del spec["runtimeClassName"]
    metadata = template["metadata"] | {"name": name, "namespace": objects.NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _bound_by_hand(world: World, console: Console) -> None:
    """The admission policies refuse pods with a node, and bindings by anyone but the scheduler."""
    said = world.refused("apply", "-f", "-", given=json.dumps(_pod_of(world, "by-hand", node="n2", runtime_class=True)))
    expect("chrysalis: a pod of a pool may not name its node" in said, f"the pod was refused for another reason: {said[-300:]}")
    console.say("a pod with a nodeName is denied: a pod of a pool may not name its node")
    pod = worker_pods(world, WORKER)[0]["metadata"]["name"]
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": {"kind": "Node", "name": "n1"}}
    path = f"/api/v1/namespaces/{objects.NAMESPACE}/pods/{pod}/binding"
    said = world.refused("create", "--raw", path, "-f", "-", given=json.dumps(binding))
    expect("only the scheduler binds pods" in said, f"the binding was refused for another reason: {said[-300:]}")
    console.say("a binding by an administrator is denied: only the scheduler binds pods of a pool")


def _entered(world: World, console: Console) -> None:
    pod = worker_pods(world, WORKER)[0]["metadata"]["name"]
    said = world.refused("exec", "-n", objects.NAMESPACE, pod, "-c", "gateway", "--", "/bin/sh", "-c", "cat /run/receipts/*")
    expect("nobody enters" in said, f"exec was refused for another reason: {said[-300:]}")
    console.say("kubectl exec is denied: nobody enters a worker's trust domain")


def _other_policy(world: World, console: Console) -> None:
    """A client whose policy does not allow this firmware sends nothing."""
    policy = yaml.safe_load((world.state / "policy.yaml").read_text())
    for measurement in policy["spec"]["tdx"]["measurements"]:
        measurement["mrtd"] = "00" * 48
    path = world.secret_file("other-policy.yaml", yaml.safe_dump(policy).encode())
    url = endpoint(worker_pods(world, WORKER)[0])
    done = world.try_chrysalis(
        "infer", "a secret", "--endpoint", url, "--policy", str(path), "--client-key", str(world.state / "client.seed")
    )
    expect(done.returncode == 1, f"the client ended with {done.returncode}: {done.stdout}{done.stderr}")
    expect("MeasurementNotAllowed" in done.stderr, f"the client refused for another reason: {done.stderr[-300:]}")
    console.say("a client with another policy refuses to send: MeasurementNotAllowed (exit 1)")


def _second_tenant(world: World, console: Console) -> None:
    """Another owner's valid policy and genuine worker do not get the first owner's key, nor does a key of the same name."""
    world.kubectl("create", "namespace", SECOND_TENANT)
    labels = [f"{names.LABEL_POOL}=true", "pod-security.kubernetes.io/enforce=restricted"]
    world.kubectl("label", "namespace", SECOND_TENANT, *labels)
    policy_name = "tenant-b-policy"
    worker = worker_object(
        world, name="greedy", namespace=SECOND_TENANT, replicas=1, policy=policy_name, account=None, wallet=None, prices=None
    )  # fmt: skip
    policy = policy_object(world, policy_name, measurements_of(world, worker))
    policy["metadata"]["namespace"] = SECOND_TENANT
    path = world.secret_file("tenant-b.yaml", yaml.safe_dump(policy).encode())
    broker = ["--put", world.facts["broker_address"], "--pin", world.facts["broker"]["spkiSha256"]]
    owner = str(world.state / "second-owner.key")
    signed = world.chrysalis("policy", "sign", "-f", str(path), "--owner-key", owner, *broker)
    world.kubectl("apply", "-f", "-", given=signed)
    record = {
        "keyId": objects.KEY_ID,
        "modelDigest": world.facts["model_digest"],
        "policyName": policy_name,
        "evidenceClass": ["Simulated"],
        "version": 2,
    }
    taken = world.secret_file("taken.yaml", yaml.safe_dump(record).encode())
    identity = str(world.secret_file("second.identity", str(x25519.Identity.generate()).encode()))
    where = ["--broker", world.facts["broker_address"], "--pin", world.facts["broker"]["spkiSha256"]]
    world.chrysalis("keys", "put", *where, "--record", str(taken), "--owner-key", owner, "--identity", identity)
    console.say("the second tenant stores a key of the same name for the same model: its own, beside the first tenant's")
    world.kubectl("apply", "-f", "-", given=json.dumps(worker))
    _refused_worker(world, console, "greedy", "its worker, allowed by its own policy, still means the first tenant's key", SECOND_TENANT)
    world.kubectl("delete", "namespace", SECOND_TENANT, "--wait=false")


@contextmanager
def _no_admission_policies(world: World) -> Iterator[None]:
    """While inside, an administrator has deleted the bindings of the admission policies; they come back afterwards."""
    listed = world.get(ADMISSION, "-l", "app.kubernetes.io/name=chrysalis")
    for item in listed["items"]:
        for key in ("creationTimestamp", "resourceVersion", "uid", "generation", "managedFields"):
            item["metadata"].pop(key, None)
    expect(listed["items"], "there are no admission policies to remove")
    world.kubectl("delete", ADMISSION, "-l", "app.kubernetes.io/name=chrysalis")
    try:
        yield
    finally:
        world.kubectl("create", "-f", "-", given=json.dumps(listed))


def _create_when_allowed(world: World, pod: dict[str, Any]) -> None:
    """The API server forgets a deleted policy within a second or two."""

    def created() -> bool:
        done = world.try_kubectl("create", "-f", "-", given=json.dumps(pod))
        if done.returncode and "chrysalis:" not in done.stderr:
            raise StepFailed(f"the pod could not be made: {done.stderr[-400:]}")
        return done.returncode == 0

    until("the admission policies are gone", created, 60)


def _admission_removed(world: World, console: Console) -> None:
    """Without the admission policies: nothing for a plain pod, no readiness for a genuine one, no start for another image."""
    with _no_admission_policies(world):
        console.say("an administrator deletes the admission policies; then:")
        _create_when_allowed(world, _pod_of(world, "plain", node="n1", runtime_class=False))
        _create_when_allowed(world, _pod_of(world, "genuine", node="n2", runtime_class=True))
        condition = until(
            "the bypass is reported",
            lambda: (c := _condition(world, WORKER, "Ready")).get("reason") == "BypassDetected" and c,
            READY_SECONDS,
        )
        console.say(f"Ready=False, BypassDetected: {condition['message'][:200]}")
        until("the genuine pod has its key", lambda: "ModelOpened" in _logs(world, "genuine"), READY_SECONDS)
        deadline = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < deadline:
            for name in ("plain", "genuine"):
                expect(not _is_ready(world, name), f"pod {name} became Ready")
            time.sleep(1)
        expect(
            "EvidenceAccepted" not in _logs(world, "plain") and "KeyReleased" not in _logs(world, "plain"), "the plain pod got something"
        )
        console.say("a pod without a trust domain gets nothing: there is no evidence it could show")
        console.say(f"a genuine one, bound by hand, may get the key but is never made Ready (watched for {WATCH_SECONDS} s)")
        events = world.kubectl("get", "events", "-n", objects.NAMESPACE, "--field-selector", "reason=BypassDetected", "-o", "name")
        expect(events.strip(), "there is no BypassDetected event")
        world.kubectl("delete", "pod", "plain", "genuine", "-n", objects.NAMESPACE, "--grace-period=0", "--force")
        _image_in_place(world, console)
        pod = until("a replica serves", lambda: next((p for p in worker_pods(world, WORKER) if _ready(p)), None), READY_SECONDS)
        said = world.refused("exec", "-n", objects.NAMESPACE, pod["metadata"]["name"], "-c", "gateway", "--", "/bin/sh")
        expect("exec is not allowed by the guest's policy" in said, f"exec was refused for another reason: {said[-300:]}")
        console.say("kubectl exec is still refused, now by the guest itself")
    until("the worker is Ready again", lambda: _condition(world, WORKER, "Ready").get("status") == "True", READY_SECONDS)


def _image_in_place(world: World, console: Console) -> None:
    pod = worker_pods(world, WORKER)[0]["metadata"]["name"]
    world.kubectl("set", "image", f"pod/{pod}", f"triton={world.images['chrysalis']}", "-n", objects.NAMESPACE)

    def refusal() -> str:
        for status in world.get("pod", pod, "-n", objects.NAMESPACE)["status"].get("containerStatuses", []):
            for state in (status.get("state", {}), status.get("lastState", {})):
                message = str((state.get("waiting") or state.get("terminated") or {}).get("message", ""))
                if "does not allow container" in message:
                    return message
        return ""

    until("the changed image is refused", refusal, 300)
    console.say("an image changed in place does not start: the initdata's policy does not allow it")
    world.kubectl("delete", "pod", pod, "-n", objects.NAMESPACE, "--grace-period=0", "--force")


def _receipts_changed(world: World, console: Console) -> None:
    """An audit names the receipt whose amount was changed, and the line that is missing."""
    lines = (world.state / "all-receipts.jsonl").read_text().splitlines()
    victim = next(i for i, line in enumerate(lines) if _amount(line) > 0)
    record = json.loads(lines[victim])
    header, payload, signature = record["receipt"].split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    claims["amt"] = str(int(claims["amt"]) + 1)
    changed = base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).decode().rstrip("=")
    record["receipt"] = f"{header}.{changed}.{signature}"
    cases = {
        "one changed amount": ("SignatureInvalid", [*lines[:victim], json.dumps(record), *lines[victim + 1 :]]),
        "a missing line": ("ReceiptGap", lines[:victim] + lines[victim + 1 :]),
    }
    for what, (reason, content) in cases.items():
        path = world.secret_file("changed.jsonl", ("\n".join(content) + "\n").encode())
        done = world.try_chrysalis(*audit_words(world, str(path)))
        expect(done.returncode == 1, f"the audit of a file with {what} ended with {done.returncode}: {done.stderr[-300:]}")
        said = (done.stdout + done.stderr).splitlines()
        named = next((line.strip() for line in said if reason in line and claims["wrk"][:16] in line), "")
        expect(named, f"the audit of a file with {what} does not name it as {reason}: {said[:5]}")
        console.say(f"{what}: the audit fails: {named[:200]}")


def _amount(line: str) -> int:
    payload = json.loads(line)["receipt"].split(".")[1]
    return int(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["amt"])


def _logs(world: World, pod: str) -> str:
    return world.try_kubectl("logs", pod, "-n", objects.NAMESPACE, "-c", "gateway").stdout


def _is_ready(world: World, name: str) -> bool:
    return _ready(world.get("pod", name, "-n", objects.NAMESPACE))


def _ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
