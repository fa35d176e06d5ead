"""Brokers as real processes over one state folder and one database, a Simulated platform, and an owner whose worker attests."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pyrage import x25519

from chrysalis.api import initdata as initdata_form
from chrysalis.api.initdata import Initdata
from chrysalis.api.policy import AttestationPolicySpec, Envelope, SignedPolicy
from chrysalis.attestation import binding
from chrysalis.broker import state_keys
from chrysalis.clock import SystemClock
from chrysalis.wire import dsse, owner_token
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, PAYLOAD_POLICY, ClaimedIdentity, Evidence, KeyRecord, Keys
from chrysalis.wire.broker_client import BrokerClient
from e2e.mortal import mortal
from e2e.ports import free_port
from e2e.simtd import policy as simulated_policy
from e2e.simtd.pki import SimulatedPlatform

MODEL_DIGEST = "sha256:" + "1" * 64
IMAGE_DIGEST = "sha256:" + "2" * 64
KEY_ID = "model"
POLICY_NAME = "workers"
START_SECONDS = 120
NO_LIMITS = {
    "connections": 4096,
    "connectionsPerAddress": 2048,
    "requestsPerSecond": 1_000_000,
    "callsPerSecond": 1_000_000,
    "unprovenAttestations": 10_000,
    "queuedAttestations": 4096,
}
"""All of a measurement's load comes from one address."""


@dataclass
class Replica:
    """One broker process."""

    port: int
    process: subprocess.Popen[bytes]


@dataclass
class Fleet:
    """Some replicas in a folder of their own.

    database: the URL of a PostgreSQL database; empty: SQLite in the state folder, which processes of one machine can share.
    """

    folder: Path
    database: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    owner: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    platform: SimulatedPlatform = field(default_factory=SimulatedPlatform.create)
    replicas: list[Replica] = field(default_factory=list)
    hpke: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    receipt: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def __post_init__(self) -> None:
        self.keys = state_keys.load_or_make(self.folder / "state", SystemClock())
        (self.folder / "collateral.json").write_text(self.platform.collateral(SystemClock().now()))
        self.toml = self._initdata()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.replicas:
            replica.process.terminate()  # all at once; then they are waited for
        for replica in self.replicas:
            self.end(replica)

    @property
    def pin(self) -> str:
        """SHA-256 of the TLS key, hex."""
        return self.keys.tls_spki_sha256.hex()

    def client(self, replica: Replica) -> BrokerClient:
        """A client of one replica with the owner's token."""

        def token() -> str:
            return owner_token.make(self.owner, SystemClock().now(), self.keys.tls_spki_sha256)

        return BrokerClient(f"https://127.0.0.1:{replica.port}", spki_sha256=self.pin, token=token)

    def start(self, replicas: int = 1) -> list[Replica]:
        """Start some replicas at once and wait until each listens; raises RuntimeError with the log of one that ends."""
        begun = [self._start() for _ in range(replicas)]
        until = time.monotonic() + START_SECONDS
        for replica in begun:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", replica.port), 1).close()
                    break
                except OSError as error:
                    if replica.process.poll() is not None or time.monotonic() > until:
                        log = (self.folder / f"log-{replica.port}").read_text()[-2000:]
                        raise RuntimeError(f"a broker does not start: {log}") from error
                    time.sleep(0.05)
        return begun

    def kill(self, replica: Replica) -> None:
        """kill -9."""
        os.kill(replica.process.pid, signal.SIGKILL)
        replica.process.wait()

    def end(self, replica: Replica) -> None:
        """SIGTERM, and SIGKILL where that is not enough."""
        replica.process.terminate()
        try:
            replica.process.wait(30)
        except subprocess.TimeoutExpired:
            replica.process.kill()
            replica.process.wait()

    def log(self, replica: Replica) -> str:
        """What it has said."""
        return (self.folder / f"log-{replica.port}").read_text()

    def policy(self, version: int = 1, **tdx: Any) -> Envelope:
        """The owner's signed policy, which accepts the platform's worker; tdx replaces members of its tdx rule."""
        signed = SignedPolicy(name=POLICY_NAME, spec=AttestationPolicySpec.model_validate(self._policy(version, tdx)))
        return self._sign(PAYLOAD_POLICY, signed.model_dump_json(by_alias=True, exclude_none=True))

    def measurement(self) -> dict[str, Any]:
        """The policy's one tuple of reference values."""
        return simulated_policy.measurement(self.platform, self.toml, IMAGE_DIGEST)

    def record(self, version: int = 1) -> Envelope:
        """The owner's signed key record."""
        record = KeyRecord(
            key_id=KEY_ID,
            model_digest=MODEL_DIGEST,
            owner_public_key=self.owner.public_key().public_bytes_raw().hex(),
            policy_name=POLICY_NAME,
            evidence_class=["Simulated"],
            key=str(x25519.Identity.generate()),
            version=version,
        )
        return self._sign(PAYLOAD_KEY_RECORD, record.model_dump_json(by_alias=True))

    async def prepare(self) -> None:
        """Store policy and key at the first replica."""
        async with self.client(self.replicas[0]) as client:
            await client.put_policy(POLICY_NAME, self.policy())
            await client.put_key(KEY_ID, self.record())

    def evidence(self, nonce: str, pod: int = 0) -> Evidence:
        """Evidence of a worker in this pod over a broker's nonce."""
        claimed = ClaimedIdentity(pod_uid=f"uid-{pod}", pod_name=f"w-{pod}", namespace="pool", worker_name="w", node_name="n1")
        keys = Keys(
            tls_spki_sha256=hashlib.sha256(b"tls").hexdigest(),
            hpke=self.hpke.public_key().public_bytes_raw().hex(),
            receipt=self.receipt.public_key().public_bytes_raw().hex(),
        )
        bound = binding.bind(
            nonce=bytes.fromhex(nonce),
            tls_spki_sha256=bytes.fromhex(keys.tls_spki_sha256),
            hpke=bytes.fromhex(keys.hpke),
            receipt=bytes.fromhex(keys.receipt),
            identity={"measured": initdata_form.parse(self.toml).identity.to_json_dict(), "claimed": claimed.to_json_dict()},
        )
        quote = self.platform.quote(bound.report_data, mrconfigid=initdata_form.mrconfigid(self.toml))
        return Evidence(
            nonce=nonce,
            quote=base64.b64encode(quote).decode(),
            event_log=base64.b64encode(self.platform.event_log).decode(),
            initdata=base64.b64encode(self.toml).decode(),
            keys=keys,
            claimed=claimed,
        )

    def _start(self) -> Replica:
        port, health, metrics = (free_port() for _ in range(3))
        configuration = {
            "stateDir": str(self.folder / "state"),
            "placement": "Development",
            "tenants": [{"name": "acme", "owners": [self.owner.public_key().public_bytes_raw().hex()], "namespaces": ["pool"]}],
            "host": "127.0.0.1",
            "port": port,
            "healthPort": health,
            "metricsPort": metrics,
            "collateral": {"preload": [str(self.folder / "collateral.json")]},
        }
        database = {"database": {"url": self.database}} if self.database else {}
        file = self.folder / f"broker-{port}.yaml"
        file.write_text(yaml.safe_dump(configuration | database | self.more))
        with (self.folder / f"log-{port}").open("wb") as log:
            command = mortal(sys.executable, "-m", "chrysalis.broker.main", "--config", file, "--log-level", "warning")
            replica = Replica(port, subprocess.Popen(command, stdout=log, stderr=log))
        self.replicas.append(replica)
        return replica

    def _sign(self, payload_type: str, payload: str) -> Envelope:
        return dsse.sign(payload_type, payload.encode(), self.owner)

    def _policy(self, version: int, tdx: dict[str, Any]) -> dict[str, Any]:
        spec = simulated_policy.accepting(self.platform, self.measurement(), version=version, max_age_seconds=3600)
        return spec | {"tdx": spec["tdx"] | tdx}

    def _initdata(self) -> bytes:
        identity: dict[str, Any] = {
            "templateVersion": 1,
            "isolation": "PodTD",
            "imageDigest": IMAGE_DIGEST,
            "model": {
                "name": "minilm",
                "package": {"url": "http://models/minilm", "digest": "sha256:" + "0" * 64, "sizeBytes": 5},
                "digest": MODEL_DIGEST,
                "keyId": KEY_ID,
            },
            "policyName": POLICY_NAME,
            "broker": {"url": "https://broker:8443", "spkiSha256": self.pin, "earKey": self.keys.ear_public.hex()},
            "wallet": "0:" + "5" * 64,
            "reservationKeys": ["6" * 64],
        }
        containers = [{"name": "gateway", "image": f"chrysalis.local/worker@{IMAGE_DIGEST}", "args": ["agent"]}]
        return Initdata.model_validate({"containers": containers, "identity": identity}).to_toml()
