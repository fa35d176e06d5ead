"""An evidence bundle as a broker makes it, out of parts that a test may change before they are signed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api import initdata as initdata_form
from chrysalis.api.policy import AttestationPolicySpec, Placement, SignedPolicy
from chrysalis.api.worker import Isolation
from chrysalis.attestation import binding
from chrysalis.clock import unix
from chrysalis.receipts.objects import ReceiptKeyCertificate
from chrysalis.wire import bundle, dsse
from chrysalis.wire.broker import PAYLOAD_POLICY, ClaimedIdentity, Evidence, Keys
from chrysalis.wire.bundle import Bundle, BundleBroker, BundlePolicy, BundleResult
from chrysalis.wire.ear import Appraisal, Confirmation, Ear, EarResult, VerifierId
from e2e.simtd import policy as simulated_policy
from e2e.simtd.pki import SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
IMAGE = "sha256:" + "2" * 64
MODEL = "sha256:" + "1" * 64
RESULT_ID = "0193f000-0000-7000-8000-000000000001"


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


@dataclass
class Maker:
    """Whoever makes bundles: a platform, a worker's keys, an owner, a broker."""

    platform: SimulatedPlatform
    owner: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    broker: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    receipt: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    nonce: bytes = bytes(range(32))

    def toml(self) -> bytes:
        containers = [{"name": "gateway", "image": f"chrysalis.local/worker@{IMAGE}", "args": ["agent"]}]
        identity = {
            "templateVersion": 1,
            "isolation": "PodTD",
            "imageDigest": IMAGE,
            "model": {
                "name": "minilm",
                "package": {"url": "http://models/minilm", "digest": "sha256:" + "0" * 64, "sizeBytes": 5},
                "digest": MODEL,
                "keyId": "acme",
            },
            "policyName": "workers",
            "broker": {"url": "https://broker:8443", "spkiSha256": "3" * 64, "earKey": raw(self.broker).hex()},
            "wallet": "0:" + "5" * 64,
            "reservationKeys": ["6" * 64],
        }
        return initdata_form.Initdata.model_validate({"containers": containers, "identity": identity}).to_toml()

    def spec(self, **changes: Any) -> AttestationPolicySpec:
        measurement = simulated_policy.measurement(self.platform, self.toml(), IMAGE)
        return AttestationPolicySpec.model_validate(simulated_policy.accepting(self.platform, measurement) | changes)

    def keys(self) -> Keys:
        return Keys(tls_spki_sha256="ab" * 32, hpke="cd" * 32, receipt=raw(self.receipt).hex())

    def evidence(self, **quote: Any) -> Evidence:
        toml, claimed = self.toml(), ClaimedIdentity(pod_uid="uid-1", pod_name="w-0", namespace="pool", worker_name="w")
        bound = binding.bind(
            nonce=self.nonce,
            tls_spki_sha256=bytes.fromhex(self.keys().tls_spki_sha256),
            hpke=bytes.fromhex(self.keys().hpke),
            receipt=raw(self.receipt),
            identity={"measured": initdata_form.parse(toml).identity.to_json_dict(), "claimed": claimed.to_json_dict()},
        )
        made = self.platform.quote(**({"report_data": bound.report_data, "mrconfigid": initdata_form.mrconfigid(toml)} | quote))
        return Evidence(
            nonce=self.nonce.hex(),
            quote=base64.b64encode(made).decode(),
            event_log=base64.b64encode(self.platform.event_log).decode(),
            initdata=base64.b64encode(toml).decode(),
            keys=self.keys(),
            claimed=claimed,
        )

    def ear(self, **changes: Any) -> Ear:
        facts: dict[str, Any] = {
            "evidence_class": "Simulated",
            "placement": Placement.DEVELOPMENT,
            "isolation": Isolation.POD_TD,
            "tcb_status": "UpToDate",
            "measurement": "simulated",
            "limited_by": "freshness.maxResultAgeSeconds",
            "policy_owner": raw(self.owner).hex(),
            "policy_name": "workers",
            "policy_version": 1,
            "key_id": "acme",
            "model_digest": MODEL,
        }
        result = EarResult.model_validate(facts | {name: changes.pop(name) for name in list(changes) if name in facts})
        token: dict[str, Any] = {
            "jti": RESULT_ID,
            "iat": unix(AT),
            "exp": unix(AT) + 600,
            "nonce": self.nonce.hex(),
            "verifier": VerifierId(developer="test", build="test"),
            "submods": {"tdx": Appraisal(status="warning", vector={"hardware": 32}, policy_ids=["policy:x"])},
            "cnf": Confirmation(spki_sha256=self.keys().tls_spki_sha256),
            "keys": self.keys(),
            "result": result,
        }
        return Ear.model_validate(token | changes)

    def certificate(self, **changes: Any) -> ReceiptKeyCertificate:
        members: dict[str, Any] = {
            "receipt_key": raw(self.receipt).hex(),
            "set": "none",
            "wallet": "0:" + "5" * 64,
            "reservation_keys": ["6" * 64],
            "result_id": RESULT_ID,
            "nbf": unix(AT),
            "exp": unix(AT) + 600,
        }
        return ReceiptKeyCertificate(**(members | changes))

    def policy(self, key: Ed25519PrivateKey | None = None, **changes: Any) -> BundlePolicy:
        payload = SignedPolicy(name="workers", spec=self.spec(**changes)).model_dump_json(by_alias=True, exclude_none=True).encode()
        return BundlePolicy(envelope=dsse.sign(PAYLOAD_POLICY, payload, key or self.owner))

    def result(self, **changes: Any) -> BundleResult:
        members: dict[str, Any] = {
            "result_id": RESULT_ID,
            "verdict": "Accepted",
            "evidence_class": "Simulated",
            "tcb_status": "UpToDate",
            "measurement_name": "simulated",
            "expires_at": AT + timedelta(seconds=600),
            "limited_by": "freshness.maxResultAgeSeconds",
            "ear": self.ear().sign(self.broker),
            "receipt_certificate": self.certificate().sign(self.broker),
        }
        return BundleResult(**(members | changes))

    def bare(self, **changes: Any) -> Bundle:
        """A bundle without the broker's statement; keyword arguments replace its members."""
        members: dict[str, Any] = {
            "source": "Broker",
            "made_at": AT + timedelta(days=1),
            "judged_at": AT,
            "evidence": self.evidence(),
            "collateral": self.platform.collateral(AT),
            "policy": self.policy(),
            "result": self.result(),
            "broker": BundleBroker(placement=Placement.DEVELOPMENT, spki_sha256="3" * 64, ear_key=raw(self.broker).hex()),
        }
        return Bundle.model_validate(members | changes)

    def bundle(self, **changes: Any) -> Bundle:
        """A whole bundle, stated by the broker."""
        return bundle.stated(self.bare(**changes), self.broker, unix(AT) + 86400)

    def file(self, **changes: Any) -> bytes:
        return bundle.to_bytes(self.bundle(**changes))


@pytest.fixture(scope="session")
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create()


@pytest.fixture(scope="session")
def maker(platform: SimulatedPlatform) -> Maker:
    return Maker(platform)


@pytest.fixture(scope="session")
def make(maker: Maker) -> Callable[..., bytes]:
    return maker.file
