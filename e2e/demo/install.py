"""Step 7: the chart, a sealed model, a signed policy, one ConfidentialWorker; its conditions as they turn."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from chrysalis.api import names
from e2e.demo import chain, objects
from e2e.demo.hardware import platform_url, until
from e2e.demo.marks import Mark
from e2e.demo.story import Console, StepFailed, expect
from e2e.demo.world import ROOT, World

SYSTEM = "chrysalis-system"
PACKAGES = "packages"
WORKER = "embedder"
READY_SECONDS = 180
CLIENT_DAILY_CAP_NANOTON = 5 * chain.TON
PRICES = {"prompt": 2_000_000_000, "job": 100_000_000_000}
"""Nanoton for a million tokens and for a million jobs: 2,000 a token and 100,000 a job."""


def install(world: World, console: Console) -> str:
    """From `helm install` to Ready."""
    _chart(world, console)
    world.reached(Mark.INSTALLED)
    package = seal_model(world, console)
    serve_package(world, console, package)
    _policy_and_key(world, console, package)
    world.reached(Mark.KEY_STORED)
    proved = _apply(world, console)
    world.reached(Mark.READY)
    return proved


def _chart(world: World, console: Console) -> None:
    files = {"acme": "owner.key", "rival": "second-owner.key"}
    tenants = [
        {"name": name, "owners": [world.chrysalis("keys", "new-owner", str(world.state / file)).strip()]} for name, file in files.items()
    ]
    world.kubectl("create", "namespace", SYSTEM)
    world.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
    world.kubectl("create", "namespace", objects.NAMESPACE)
    world.kubectl("label", "namespace", objects.NAMESPACE, f"{names.LABEL_POOL}=true", "pod-security.kubernetes.io/enforce=restricted")
    seeds = [f"--from-file={name}.seed={world.state / f'{name}.seed'}" for name in ("settlement", "reservation")]
    world.kubectl("create", "secret", "generic", "chrysalis-settlement-keys", "-n", SYSTEM, *seeds)
    # the definitions were applied by hand in step 2; the chart takes them over as its own
    world.kubectl("delete", "-f", str(ROOT / "crds"))
    console.doing("helm install")
    values = ["--set", f"image={world.images['chrysalis']}", "--set-json", f"broker.tenants={json.dumps(tenants)}"]
    values += ["--set", f"broker.collateral.url={platform_url(world)}"]
    world.facts["helm"] = [
        "chrysalis",
        str(ROOT / "helm" / "chrysalis"),
        "-n",
        SYSTEM,
        "-f",
        str(Path(__file__).parent / "values.yaml"),
        *values,
    ]
    world.running.helm("install", *world.facts["helm"], "--wait", "--timeout", "280s")
    console.say("helm install: custom resources, operator, broker (placement Development), RBAC and admission policies")
    address = world.get("service", "chrysalis-broker", "-n", SYSTEM)["spec"]["clusterIP"]
    url = f"https://chrysalis-broker.{SYSTEM}.svc:{names.PORT_BROKER}"
    world.facts["broker"] = yaml.safe_load(world.chrysalis("keys", "pin", url, "--connect", f"{address}:{names.PORT_BROKER}"))
    world.facts["broker_address"] = f"https://{address}:{names.PORT_BROKER}"
    pin = world.facts["broker"]
    settler = ["settler.enabled=true", "settler.keysSecret=chrysalis-settlement-keys"]
    settler += [f"settler.broker.spkiSha256={pin['spkiSha256']}", f"settler.broker.earKey={pin['earKey']}"]
    console.doing("helm upgrade")
    world.running.helm("upgrade", *world.facts["helm"], "--set", ",".join(settler), "--wait", "--timeout", "280s")
    console.say(
        f"the broker's pin: TLS key {pin['spkiSha256'][:16]}…, EAR key {pin['earKey'][:16]}…; with it, helm upgrade adds the settler"
    )


def seal_model(world: World, console: Console) -> dict[str, Any]:
    """Encrypt the model repository; returns what `chrysalis seal` printed."""
    console.doing("assembling and sealing the model")
    repository = world.state / "repository"
    done = subprocess.run([sys.executable, "-m", "e2e.triton.model", str(repository)], capture_output=True, text=True)
    expect(done.returncode == 0, f"the model repository could not be assembled: {done.stderr[-400:]}")
    folder = world.state / "packages"
    folder.mkdir()
    words = ["seal", str(repository), "-o", str(folder / "minilm.age"), "--identity-out", str(world.state / "model.identity"), "-o", "json"]
    sealed: dict[str, Any] = json.loads(world.chrysalis(*words))
    console.say(f"sealed all-MiniLM-L6-v2 (int8): {sealed['sizeBytes'] / 1e6:.1f} MB, package {sealed['packageDigest'][:19]}…")
    return sealed


def serve_package(world: World, console: Console, package: dict[str, Any]) -> None:
    """The package is public, so any HTTP server does; here a pod with a folder of the machine."""
    console.doing("starting the package server")
    folder = world.state / "packages"
    world.state.chmod(0o711)
    folder.chmod(0o755)
    (folder / "minilm.age").chmod(0o644)
    labels = {"app": "packages"}
    container = {
        "name": "http",
        "image": world.images["chrysalis"],
        "imagePullPolicy": "Never",
        "command": ["/opt/cv/bin/python3", "-m", "http.server", "8000", "--directory", "/packages"],
        "readinessProbe": {"httpGet": {"path": "/minilm.age", "port": 8000}, "periodSeconds": 1},
        "volumeMounts": [{"name": "packages", "mountPath": "/packages", "readOnly": True}],
    }
    pod = {"containers": [container], "volumes": [{"name": "packages", "hostPath": {"path": str(folder)}}]}
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PACKAGES}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "packages", "namespace": PACKAGES},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "packages", "namespace": PACKAGES},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8000}]},
        },
    ]
    world.running.apply(*items)
    world.kubectl("rollout", "status", "deployment/packages", "-n", PACKAGES, "--timeout=110s")
    world.facts["package"] = {
        "url": f"http://packages.{PACKAGES}.svc/minilm.age",
        "digest": package["packageDigest"],
        "sizeBytes": package["sizeBytes"],
    }
    world.facts["model_digest"] = package["modelDigest"]


def worker_object(world: World, **changes: Any) -> dict[str, Any]:
    """The demo's ConfidentialWorker, with changes for the scenarios."""
    fields: dict[str, Any] = {
        "name": WORKER,
        "image": world.images["chrysalis-worker"],
        "package": world.facts["package"],
        "model_digest": world.facts["model_digest"],
        "broker": world.facts["broker"],
        "account": objects.ACCOUNT,
        "wallet": world.facts.get("wallets", {}).get("owner-wallet"),
        "prices": PRICES,
    }
    return objects.worker(**(fields | changes))


def account_object(world: World) -> dict[str, Any]:
    """The SettlementAccount: OwnerFunded, one allowed client."""
    network = world.facts["devnet"]
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND_ACCOUNT,
        "metadata": {"name": objects.ACCOUNT, "namespace": objects.NAMESPACE},
        "spec": {
            "funding": "OwnerFunded",
            "globalId": int(world.facts["set"].split(":")[0]),
            "contract": world.facts["contract"],
            "liteservers": network["liteservers"],
            "reservationKeys": [world.facts["keys"]["reservation"]],
            "feeBps": chain.FEE_BPS,
            "intervalSeconds": chain.DELAY_SECONDS,
            "clients": [{"key": world.facts["keys"]["client"], "dailyCapNanoton": str(CLIENT_DAILY_CAP_NANOTON)}],
        },
    }


def policy_object(world: World, name: str, measurements: list[dict[str, Any]], *, version: int = 1) -> dict[str, Any]:
    """An AttestationPolicy for the simulated platform that lists these measurements."""
    firmware = world.facts["firmware"]
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND_POLICY,
        "metadata": {"name": name, "namespace": objects.NAMESPACE},
        "spec": {
            "version": version,
            "trustRoot": {"der": base64.b64encode(world.facts["root_der"]).decode()},
            "brokerPlacement": ["Development"],
            "tdx": {
                "tcb": {"allowedStatuses": ["UpToDate"]},
                "measurements": measurements,
                "tdAttributes": firmware["tdAttributes"],
                "xfam": firmware["xfam"],
            },
            "eventLog": {"required": True},
            "freshness": {"maxResultAgeSeconds": 3600},
        },
    }


def measurements_of(world: World, *manifests: dict[str, Any]) -> list[dict[str, Any]]:
    """What `chrysalis measure -o policy` says of the worker among these manifests."""
    path = world.secret_file("measure.yaml", yaml.safe_dump_all(manifests).encode())
    found = world.chrysalis("measure", "-f", str(path), "-o", "policy", "--firmware", str(world.state / "firmware.json"))
    entries: list[dict[str, Any]] = yaml.safe_load(found)
    return entries


def _policy_and_key(world: World, console: Console, package: dict[str, Any]) -> None:
    measurements = measurements_of(world, worker_object(world), account_object(world))
    console.say(f"chrysalis measure: MRCONFIGID {measurements[0].get('mrconfigid', '')[:24]}…, rendered as the operator will render it")
    path = world.secret_file("policy.yaml", yaml.safe_dump(policy_object(world, objects.POLICY, measurements)).encode())
    broker = ["--put", world.facts["broker_address"], "--pin", world.facts["broker"]["spkiSha256"]]
    signed = world.chrysalis("policy", "sign", "-f", str(path), "--owner-key", str(world.state / "owner.key"), *broker)
    world.secret_file("policy-signed.yaml", signed.encode())
    console.say("the policy is signed by the data owner's key, and the broker keeps version 1")
    record = {
        "keyId": objects.KEY_ID,
        "modelDigest": package["modelDigest"],
        "policyName": objects.POLICY,
        "evidenceClass": ["Simulated"],
    }
    put_key(world, record, world.state / "owner.key")
    console.say("the model's key is at the broker, bound to that policy; nobody gets it back but attested domains, wrapped")


def put_key(world: World, record: dict[str, Any], owner: Path) -> None:
    """`chrysalis keys put` for a record."""
    path = world.secret_file("record.yaml", yaml.safe_dump(record).encode())
    world.chrysalis(
        "keys", "put", "--broker", world.facts["broker_address"], "--pin", world.facts["broker"]["spkiSha256"],
        "--record", str(path), "--owner-key", str(owner), "--identity", str(world.state / "model.identity"),
    )  # fmt: skip


def _apply(world: World, console: Console) -> str:
    console.doing("kubectl apply")
    world.kubectl("apply", "-f", str(world.state / "policy-signed.yaml"))
    world.kubectl("apply", "-f", "-", given=json.dumps(account_object(world)))
    started = time.monotonic()
    world.kubectl("apply", "-f", "-", given=json.dumps(worker_object(world)))
    console.say("kubectl apply: AttestationPolicy, SettlementAccount, ConfidentialWorker with two replicas")
    seconds = follow(world, console, WORKER, started)
    for line in world.kubectl("get", "cw", "-n", objects.NAMESPACE).splitlines():
        console.say(line)
    pods = worker_pods(world, WORKER)
    expect(len(pods) == 2, f"there are {len(pods)} worker pods instead of 2")
    return f"apply → Ready in {seconds:.1f} s: two trust domains attested, got the key and serve"


def worker_pods(world: World, worker: str) -> list[dict[str, Any]]:
    """The pods of a worker that are not going away."""
    items = world.get("pods", "-n", objects.NAMESPACE, "-l", f"{names.LABEL_WORKER}={worker}")["items"]
    return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]


def follow(world: World, console: Console, worker: str, started: float) -> float:
    """Print each condition as it turns, until Ready; returns the seconds since `started`."""
    seen: dict[str, str] = {}
    gates = 0

    def turned() -> float | None:
        nonlocal gates
        now = time.monotonic() - started
        if gates == 0:
            gates = sum(not pod["spec"].get("schedulingGates") for pod in worker_pods(world, worker))
            if gates:
                console.say(f"{now:6.1f} s  gate opened")
        status = world.get("cw", worker, "-n", objects.NAMESPACE).get("status", {})
        for condition in status.get("conditions", []):
            kind, value = condition["type"], f"{condition['status']} {condition.get('reason', '')}"
            if seen.get(kind) != value:
                seen[kind] = value
                if condition["status"] == "True" or condition.get("reason", "").endswith(("Refused", "Denied")):
                    console.say(f"{now:6.1f} s  {kind}: {condition.get('reason', '')}")
        ready = seen.get("Ready", "").startswith("True")
        return now if ready and status.get("readyReplicas") == status.get("replicas") else None

    try:
        seconds: float = until(f"{worker} is Ready", turned, READY_SECONDS)
    except StepFailed as error:
        described = world.kubectl("describe", "cw", worker, "-n", objects.NAMESPACE)
        raise StepFailed(f"{error}\n{described[-3000:]}") from error
    return seconds
