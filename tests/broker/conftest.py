"""A whole broker in the process, a simulated platform, and two tenants with a worker each."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastapi.dependencies.models
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pyrage import x25519
from sqlalchemy import URL
from starlette.testclient import TestClient

from chrysalis.api import initdata as initdata_form
from chrysalis.api.base import Model
from chrysalis.api.initdata import Initdata
from chrysalis.api.policy import AttestationPolicySpec, Envelope, SignedPolicy
from chrysalis.attestation import binding
from chrysalis.attestation.anchor import TrustAnchor
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.collateral_documents import split
from chrysalis.broker.app import create_app
from chrysalis.broker.collateral_reasons import Answer, CollateralReason, DocumentKey, Failure
from chrysalis.broker.database import Database
from chrysalis.broker.deps import Deps
from chrysalis.broker.main import assemble
from chrysalis.broker.settings import Settings
from chrysalis.clock import ManualClock
from chrysalis.wire import dsse, owner_token
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, PAYLOAD_POLICY, ClaimedIdentity, Evidence, KeyRecord, Keys
from e2e.simtd import policy as simulated_policy
from e2e.simtd.pki import SimulatedPlatform

MODEL_DIGEST = "sha256:" + "1" * 64
IMAGE_DIGEST = "sha256:" + "2" * 64
CLAIMED = ClaimedIdentity(pod_uid="uid-1", pod_name="w-0", namespace="pool", worker_name="w", node_name="n1")
READER = "chrysalis-system:chrysalis-operator"


@dataclass
class FakePccs:
    """Serves a platform's collateral, or fails; counts."""

    platform: SimulatedPlatform
    clock: ManualClock
    down: bool = False
    fetched: int = 0
    shown: Collateral | None = None  # instead of the current one

    def fetch(self, keys: Sequence[DocumentKey], anchor: TrustAnchor) -> dict[DocumentKey, Answer]:
        self.fetched += 1
        if self.down:
            return {key: Failure(CollateralReason.UNREACHABLE, "the PCCS is down") for key in keys}
        documents = split(self.shown or Collateral.from_json(self.platform.collateral(self.clock.now())))
        return {key: documents[key.kind] for key in keys}


class FakeReviewer:
    """Knows the tokens of two accounts."""

    def review(self, token: str) -> str | None:
        return {
            "operator": f"system:serviceaccount:{READER}",
            "default": "system:serviceaccount:default:default",
        }.get(token)


@dataclass
class Tenant:
    """A data owner: its key, its policy, its model key."""

    name: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    identity: str = field(default_factory=lambda: str(x25519.Identity.generate()))

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def sign(self, payload_type: str, message: Model) -> Envelope:
        return dsse.sign(payload_type, message.model_dump_json(by_alias=True, exclude_none=True).encode(), self.key)

    def record(self, **changes: Any) -> KeyRecord:
        members: dict[str, Any] = {
            "key_id": self.name,
            "model_digest": MODEL_DIGEST,
            "owner_public_key": self.public.hex(),
            "policy_name": "workers",
            "evidence_class": ["Simulated"],
            "key": self.identity,
        }
        return KeyRecord.model_validate(members | changes)


@dataclass
class Domain:
    """A trust domain on the simulated platform: its initdata and its keys."""

    world: World
    toml: bytes
    hpke: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    receipt: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    tls_spki: bytes = field(default_factory=lambda: hashlib.sha256(b"tls").digest())
    claimed: ClaimedIdentity = CLAIMED

    @property
    def keys(self) -> Keys:
        return Keys(
            tls_spki_sha256=self.tls_spki.hex(),
            hpke=self.hpke.public_key().public_bytes_raw().hex(),
            receipt=self.receipt.public_key().public_bytes_raw().hex(),
        )

    def evidence(self, nonce: str | None = None, **quote_fields: Any) -> Evidence:
        """Evidence over a nonce (a fresh challenge without one); quote_fields change the quote."""
        nonce = nonce or self.world.challenge()
        identity = initdata_form.parse(self.toml).identity
        bound = binding.bind(
            nonce=bytes.fromhex(nonce),
            tls_spki_sha256=self.tls_spki,
            hpke=bytes.fromhex(self.keys.hpke),
            receipt=bytes.fromhex(self.keys.receipt),
            identity={"measured": identity.to_json_dict(), "claimed": self.claimed.to_json_dict()},
        )
        quote = self.world.platform.quote(
            **({"report_data": bound.report_data, "mrconfigid": initdata_form.mrconfigid(self.toml)} | quote_fields)
        )
        return Evidence(
            nonce=nonce,
            quote=base64.b64encode(quote).decode(),
            event_log=base64.b64encode(self.world.platform.event_log).decode(),
            initdata=base64.b64encode(self.toml).decode(),
            keys=self.keys,
            claimed=self.claimed,
        )


@dataclass
class World:
    """One broker and everything around it."""

    deps: Deps
    http: TestClient
    clock: ManualClock
    platform: SimulatedPlatform
    pccs: FakePccs
    acme: Tenant
    rival: Tenant

    def initdata(self, tenant: Tenant, **changes: Any) -> bytes:
        """A worker's measured configuration; changes are of the identity (camelCase)."""
        identity: dict[str, Any] = {
            "templateVersion": 1,
            "isolation": "PodTD",
            "imageDigest": IMAGE_DIGEST,
            "model": {
                "name": "minilm",
                "package": {"url": "http://models/minilm", "digest": "sha256:" + "0" * 64, "sizeBytes": 5},
                "digest": MODEL_DIGEST,
                "keyId": tenant.name,
            },
            "policyName": "workers",
            "broker": {
                "url": "https://broker:8443",
                "spkiSha256": self.deps.keys.tls_spki_sha256.hex(),
                "earKey": self.deps.keys.ear_public.hex(),
            },
            "wallet": "0:" + "5" * 64,
            "reservationKeys": ["6" * 64],
        }
        containers = [{"name": "gateway", "image": f"chrysalis.local/worker@{IMAGE_DIGEST}", "args": ["agent"]}]
        return Initdata.model_validate({"containers": containers, "identity": identity | changes}).to_toml()

    def policy(self, tenant: Tenant, **changes: Any) -> dict[str, Any]:
        """A policy's spec (camelCase) that accepts the tenant's worker on the platform."""
        measurement = simulated_policy.measurement(self.platform, self.initdata(tenant), IMAGE_DIGEST)
        return simulated_policy.accepting(self.platform, measurement) | changes

    def put_policy(self, tenant: Tenant, name: str = "workers", **changes: Any) -> Any:
        signed = SignedPolicy(name=name, spec=AttestationPolicySpec.model_validate(self.policy(tenant, **changes)))
        return self.put(f"/v1/policies/{name}", tenant.sign(PAYLOAD_POLICY, signed))

    def put_key(self, tenant: Tenant, **changes: Any) -> Any:
        return self.put(f"/v1/keys/{tenant.name}", tenant.sign(PAYLOAD_KEY_RECORD, tenant.record(**changes)))

    def put(self, path: str, message: Model) -> Any:
        return self.http.put(path, content=message.model_dump_json(by_alias=True))

    def post(self, path: str, message: Model) -> Any:
        return self.http.post(path, content=message.model_dump_json(by_alias=True))

    def token(self, tenant: Tenant) -> str:
        """A new bearer token of the tenant's owner."""
        return owner_token.make(tenant.key, self.clock.now(), self.deps.keys.tls_spki_sha256)

    def challenge(self) -> str:
        return str(self.http.post("/v1/challenge").json()["nonce"])

    def attest(self, domain: Domain, **quote_fields: Any) -> Any:
        return self.post("/v1/attest", domain.evidence(**quote_fields))

    def release(self, key_id: str, result_id: str) -> Any:
        return self.http.post(f"/v1/keys/{key_id}:release", json={"schemaVersion": "chrysalis/v1", "resultId": result_id})

    def reading(self, path: str, token: str = "operator") -> Any:
        return self.http.get(path, headers={"authorization": f"Bearer {token}"})

    def domain(self, tenant: Tenant, **changes: Any) -> Domain:
        return Domain(self, self.initdata(tenant, **changes))


@pytest.fixture(autouse=True)
def brokers_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test keeps another's brokers: with the writer's thread of each, and all that hangs on it, a thousand tests hold a gigabyte,
    and Python's collector of garbage stops whatever is measured for seconds.
    """
    opened: list[Database] = []
    opens = Database.__init__

    def noted(database: Database, url: str | URL) -> None:
        opens(database, url)
        opened.append(database)

    monkeypatch.setattr(Database, "__init__", noted)
    yield
    for database in opened:
        database.close()
    for held in vars(fastapi.dependencies.models).values():  # and FastAPI remembers the last thousands of routes
        if hasattr(held, "cache_clear"):
            held.cache_clear()


@pytest.fixture(scope="session")
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create()


@pytest.fixture
def more_settings() -> dict[str, Any]:
    """Settings beside the usual ones; modules override it."""
    return {}


@pytest.fixture
def empty(tmp_path: Path, clock: ManualClock, platform: SimulatedPlatform, more_settings: dict[str, Any]) -> World:
    """A broker that knows two owners and has stored nothing."""
    acme, rival = Tenant("acme"), Tenant("rival")
    pccs = FakePccs(platform, clock)
    settings = Settings.model_validate(
        {
            "stateDir": tmp_path / "state",
            "placement": "Development",
            "tenants": [
                {"name": "acme", "owners": [acme.public.hex()], "namespaces": ["pool"]},
                {"name": "rival", "owners": [rival.public.hex()], "namespaces": ["rival-pool"]},
            ],
            "kubernetes": {"serviceAccounts": [READER]},
            "limits": {
                "requestsPerSecond": 1_000_000,
                "connectionsPerSecond": 1_000_000,
                "unprovenAttestations": 10_000,
                "unprovenCalls": 10_000,
            },  # the clock stands still
        }
        | more_settings
    )
    deps = assemble(settings, clock=clock, fetcher=pccs, reviewer=FakeReviewer())
    return World(deps, TestClient(create_app(deps)), clock, platform, pccs, acme, rival)


@pytest.fixture
def world(empty: World) -> World:
    """A broker where both tenants have stored policy and key."""
    for tenant in (empty.acme, empty.rival):
        assert empty.put_policy(tenant).status_code == 201
        assert empty.put_key(tenant).status_code == 201
    return empty


@pytest.fixture
def reasons() -> Callable[[Any], list[str]]:
    """The reasons of a problem document, after checking its form."""

    def read(response: Any) -> list[str]:
        assert response.headers["content-type"] == "application/problem+json"
        body = response.json()
        assert body["status"] == response.status_code
        assert body["remedy"]
        assert body["reason"] == body["reasons"][0]["reason"]
        return [reason["reason"] for reason in body["reasons"]]

    return read
