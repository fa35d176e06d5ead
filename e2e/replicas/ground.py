"""What the broker's scenarios stand on: the cluster, a PostgreSQL, a PCCS that can be told to fail, and the chart with two brokers."""

from __future__ import annotations

import json
import os
import secrets
import sys
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import yaml

from chrysalis.api import names
from e2e.demo import objects
from e2e.demo.hardware import until
from e2e.demo.install import SYSTEM, WORKER, follow, measurements_of, policy_object, put_key, seal_model, serve_package, worker_object
from e2e.demo.story import Console, StepFailed
from e2e.demo.world import ROOT, World
from e2e.postgres import Postgres

PCCS_PORT = 8181
REPLICAS = 2
COLLATERAL_SECONDS = 200
"""How long each document of the Simulated PCCS is good: short, so that its half-life passes while one watches."""
VALUES = {
    "imagePullPolicy": "Never",
    "crds": {"enabled": True, "keep": False},
    "operator": {"pendingPollSeconds": 0.3, "steadyPollSeconds": 1},
    "admission": {"runtimeClasses": [names.RUNTIME_CLASS_SIMULATED]},
}


@dataclass
class Brokers:
    """The ground of one run; everything but the cluster, which is the world's."""

    world: World
    policy_version: int = 0
    measurements: list[dict[str, Any]] = field(default_factory=list)
    postgres: Postgres | None = None
    database: str = ""
    older: str = ""
    """A copy of the database as it was with policy and key, before the first worker."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the brokers' database."""
        if self.postgres is None:
            return []
        with self.postgres.connect(self.database) as connection:
            return connection.execute(query.encode()).fetchall()

    def tell_pccs(self, fault: str) -> None:
        """Have the PCCS answer so from now on (e2e.pccs.faults.Fault)."""
        body = json.dumps({"fault": fault}).encode()
        request = urllib.request.Request(f"{self.pccs}/control", body, {"Content-Type": "application/json"}, method="PUT")
        urllib.request.urlopen(request, timeout=10).read()

    @property
    def pccs(self) -> str:
        """Where the PCCS is."""
        return f"http://{self.world.running.host_ip}:{PCCS_PORT}"

    def put_policy(self, **tdx: Any) -> None:
        """Sign the next version of the policy and store it; tdx replaces members of its `tdx`."""
        self.policy_version += 1
        policy = policy_object(self.world, objects.POLICY, self.measurements, version=self.policy_version)
        policy["spec"]["tdx"] |= tdx
        path = self.world.secret_file("policy.yaml", yaml.safe_dump(policy).encode())
        where = ["--put", self.world.facts["broker_address"], "--pin", self.world.facts["broker"]["spkiSha256"]]
        signed = self.world.chrysalis("policy", "sign", "-f", str(path), "--owner-key", str(self.world.state / "owner.key"), *where)
        self.world.secret_file("policy-signed.yaml", signed.encode())

    def down(self) -> None:
        """End the database; the cluster ends the rest."""
        if self.postgres is not None:
            self.postgres.stop()


def chart(brokers: Brokers, console: Console) -> str:
    """PostgreSQL and PCCS on the machine, the chart with two replicas of the broker."""
    world = brokers.world
    brokers.postgres = Postgres(address=world.running.host_ip)
    url = brokers.postgres.database()
    brokers.database = url.rsplit("/", 1)[1]
    words = ["--state", str(world.running.layout.simtd), "--listen", f"{world.running.host_ip}:{PCCS_PORT}"]
    words += ["--valid-seconds", str(COLLATERAL_SECONDS)]
    world.running.start("pccs", [sys.executable, "-m", "e2e.pccs", *words], environment=dict(os.environ))
    until("the PCCS answers", lambda: _answers(f"{brokers.pccs}/sgx/certification/v4/rootcacrl"), 60)

    owner = world.chrysalis("keys", "new-owner", str(world.state / "owner.key")).strip()
    world.kubectl("create", "namespace", SYSTEM)
    world.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
    world.kubectl("create", "namespace", objects.NAMESPACE)
    world.kubectl("label", "namespace", objects.NAMESPACE, f"{names.LABEL_POOL}=true", "pod-security.kubernetes.io/enforce=restricted")
    password = world.secret_file("password", brokers.postgres.password.encode())
    root = world.secret_file("root.key", secrets.token_hex(32).encode())
    world.kubectl("create", "secret", "generic", "broker-database", "-n", SYSTEM, f"--from-file=password={password}")
    world.kubectl("create", "secret", "generic", "broker-root-key", "-n", SYSTEM, f"--from-file=root.key={root}")
    world.kubectl("delete", "-f", str(ROOT / "crds"))
    values = VALUES | {
        "image": world.images["chrysalis"],
        "broker": {
            "replicas": REPLICAS,
            "rootKeySecret": "broker-root-key",
            "database": {"url": url, "passwordSecret": "broker-database"},
            "collateral": {"url": brokers.pccs},
            "tenants": [{"name": "acme", "owners": [owner]}],
        },
    }
    path = world.secret_file("values.yaml", yaml.safe_dump(values).encode())
    console.doing("helm install")
    world.running.helm(
        "install", "chrysalis", str(ROOT / "helm" / "chrysalis"), "-n", SYSTEM, "-f", str(path), "--wait", "--timeout", "280s"
    )
    address = world.get("service", "chrysalis-broker", "-n", SYSTEM)["spec"]["clusterIP"]
    url = f"https://chrysalis-broker.{SYSTEM}.svc:{names.PORT_BROKER}"
    world.facts["broker"] = yaml.safe_load(world.chrysalis("keys", "pin", url, "--connect", f"{address}:{names.PORT_BROKER}"))
    world.facts["broker_address"] = f"https://{address}:{names.PORT_BROKER}"
    pins = {world.chrysalis("keys", "pin", url, "--connect", f"{pod['status']['podIP']}:{names.PORT_BROKER}") for pod in broker_pods(world)}
    if len(pins) != 1:
        raise AssertionError(f"the replicas show {len(pins)} different pins")
    return f"{REPLICAS} replicas of the broker over one PostgreSQL, with one TLS key and one EAR key"


def worker(brokers: Brokers, console: Console) -> str:
    """A sealed model, its policy and key, and one ConfidentialWorker with two replicas that becomes Ready."""
    world = brokers.world
    package = seal_model(world, console)
    serve_package(world, console, package)
    manifest = worker_object(world, account=None, wallet=None, prices=None)
    brokers.measurements = measurements_of(world, manifest)
    brokers.put_policy()
    record = {
        "keyId": objects.KEY_ID,
        "modelDigest": package["modelDigest"],
        "policyName": objects.POLICY,
        "evidenceClass": ["Simulated"],
    }
    put_key(world, record, world.state / "owner.key")
    if brokers.postgres is not None:
        brokers.older = brokers.postgres.copy(brokers.database)
    world.kubectl("apply", "-f", str(world.state / "policy-signed.yaml"))
    started = world.clock.monotonic()
    world.kubectl("apply", "-f", "-", given=json.dumps(manifest))
    seconds = follow(world, console, WORKER, started)
    refused = [json.loads(row[0])["reasons"] for row in brokers.rows("select document from results where verdict = 'Refused'")]
    # Both replicas want the same first collateral: one asks, and the other's worker may be told to come back.
    if any({reason["reason"] for reason in reasons} != {"CollateralUnavailable"} for reasons in refused):
        raise StepFailed(f"evidence was refused on the way: {refused}")
    return f"apply → Ready in {seconds:.1f} s over two brokers"


def broker_pods(world: World) -> list[dict[str, Any]]:
    """The broker's pods that are not going away."""
    items = world.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=broker")["items"]
    return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status) == 200
    except OSError:
        return False
