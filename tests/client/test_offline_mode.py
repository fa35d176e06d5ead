"""Mode `offline`: the kept evidence is judged whole, and the answer says that nobody knows when it was made."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.client.blocking import BlockingClient
from chrysalis.client.reasons import ClientError
from chrysalis.client.session import Client
from chrysalis.client.verification import verify_offline
from chrysalis.client.verified import VerifiedWorker
from e2e.simtd.pki import SimulatedPlatform
from tests.client.conftest import Worker

OTHER = Ed25519PrivateKey.generate()
MODEL = "sha256:" + "1" * 64


def flip(data: bytes) -> bytes:
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


def document(**changes: Any) -> dict[str, Any]:
    return {"document": lambda d: d.model_copy(update=changes)}


def keys(**changes: str) -> dict[str, Any]:
    def bend(d: Any) -> Any:
        evidence = d.evidence
        return d.model_copy(update={"evidence": evidence.model_copy(update={"keys": evidence.keys.model_copy(update=changes)})})

    return {"document": bend}


def of_another_time(worker: Worker) -> dict[str, Any]:
    """Genuine evidence of the same domain, key and identity over another nonce than the certificate's."""
    bound = worker.bind(b"c" * 32, worker.spki)

    def bend(d: Any) -> Any:
        evidence = d.evidence.model_copy(
            update={"nonce": (b"c" * 32).hex(), "quote": base64.b64encode(worker.quote(bound.report_data)).decode()}
        )
        return d.model_copy(update={"evidence": evidence, "claims_buffer": base64.b64encode(bound.claims_buffer).decode()})

    return {"document": bend}


WRONG: list[tuple[str, Callable[[Worker], dict[str, Any]], str, str]] = [
    ("one flipped byte of the quote", lambda w: {"quote": flip}, "EvidenceRefused", ""),
    ("another nonce than the quote's", lambda w: {"nonce": lambda n: b"x" * 32}, "EvidenceRefused", "ReportDataMismatch"),
    ("another's TLS key", lambda w: keys(tls_spki_sha256="ee" * 32), "EvidenceRefused", "ReportDataMismatch"),
    ("another receipt key", lambda w: keys(receipt="ee" * 32), "EvidenceRefused", "ReportDataMismatch"),
    ("other claims", lambda w: document(claims_buffer=base64.b64encode(b"x").decode()), "KeyNotBound", ""),
    ("other evidence than the certificate's", of_another_time, "CertificateMismatch", ""),
    ("no collateral", lambda w: {"collateral": lambda c: "{}"}, "EvidenceRefused", "CollateralMalformed"),
    ("certified by another broker", lambda w: {"ear_key": lambda k: OTHER}, "CertificateMismatch", ""),
    (
        "an expired certificate of the receipt key",
        lambda w: {"certificate": lambda c: c.model_copy(update={"exp": c.nbf})},
        "CertificateMismatch",
        "",
    ),
    ("an offer by another key", lambda w: {"offer_key": lambda k: OTHER}, "OfferInvalid", ""),
]


def client(served: Any, **changes: Any) -> BlockingClient:
    options = {"policy": served.worker.policy(), "client_key": OTHER, "model_digest": MODEL} | changes
    return BlockingClient(Client(served.endpoint, mode="offline", **options))


@pytest.mark.parametrize(("bends", "reason", "said"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_nothing_is_sent_to_a_worker_that_is_wrong_in_one_thing(
    serve: Callable[..., Any], bends: Callable[[Worker], dict[str, Any]], reason: str, said: str
) -> None:
    served = serve()
    served.worker.bends = bends(served.worker)
    with pytest.raises(ClientError) as refused, client(served) as made:
        made.embeddings(["secret"])
    assert (refused.value.reason, said in refused.value.message, served.worker.requests) == (reason, True, [])
    served.worker.bends = {}  # the twin
    with client(served) as made:
        assert made.embeddings(["a"]).receipt is not None
    assert set(served.worker.shown) == {"stored"}


def changed(worker: Worker, change: Callable[[dict[str, Any]], object]) -> AttestationPolicySpec:
    members = worker.policy().to_json_dict()
    change(members)
    return AttestationPolicySpec.model_validate(members)


OPTIONS: list[tuple[str, Callable[[Worker], dict[str, Any]], str, str]] = [
    ("another model pinned", lambda w: {"model_digest": "sha256:" + "2" * 64}, "ModelMismatch", ""),
    ("no model pinned", lambda w: {"model_digest": None}, "ModelNotPinned", ""),
    ("another broker pinned", lambda w: {"ear_key": b"e" * 32}, "EarKeyMismatch", ""),
    ("another trust root", lambda w: {"policy": changed(w, for_hardware)}, "EvidenceRefused", "TrustRootMismatch"),
    ("isolation not listed", lambda w: {"policy": changed(w, lambda p: p.update(isolation=[]))}, "EvidenceRefused", "IsolationNotAllowed"),
    (
        "other measurements",
        lambda w: {"policy": changed(w, lambda p: p["tdx"]["measurements"][0].update(mrtd="00" * 48))},
        "EvidenceRefused",
        "MeasurementNotAllowed",
    ),
]


def for_hardware(policy: dict[str, Any]) -> None:
    policy |= {"trustRoot": "Intel", "brokerPlacement": ["External"]}


@pytest.mark.parametrize(("options", "reason", "said"), [row[1:] for row in OPTIONS], ids=[row[0] for row in OPTIONS])
def test_nothing_is_sent_where_the_client_asks_for_more(
    serve: Callable[..., Any], options: Callable[[Worker], dict[str, Any]], reason: str, said: str
) -> None:
    served = serve()
    with pytest.raises(ClientError) as refused, client(served, **options(served.worker)) as made:
        made.embeddings(["secret"])
    assert (refused.value.reason, said in refused.value.message, served.worker.requests) == (reason, True, [])
    with client(served) as made:  # the twin
        assert made.embeddings(["a"]).vectors


@pytest.fixture
def worker(platform: SimulatedPlatform, tmp_path: Path) -> Worker:
    return Worker(platform, tmp_path)


def judged(worker: Worker, **changes: Any) -> VerifiedWorker:
    options = {"policy": worker.policy(), "at": worker.now, "model_digest": MODEL, "spki_sha256": worker.spki} | changes
    certificate = worker.certificate.public_bytes(serialization.Encoding.DER)
    return verify_offline(worker.document(None), certificate_der=certificate, **options)


def test_evidence_is_about_the_key_of_the_connection(worker: Worker) -> None:
    with pytest.raises(ClientError) as refused:
        judged(worker, spki_sha256=b"s" * 32)
    assert refused.value.reason == "KeyNotBound"
    assert judged(worker).verdict is not None


def test_it_says_that_nothing_is_known_of_freshness_and_revocation(worker: Worker) -> None:
    facts = judged(worker).facts()
    assert (facts["mode"], facts["freshness"], facts["revocation"]) == ("offline", "NotChecked", "NotChecked")
    assert (facts["judgedBy"], facts["evidenceClass"], facts["isolation"]) == ("Client", "Simulated", "PodTD")
    assert facts["checkedBy"]["broker"] == []
    assert facts["limitedBy"] == "receiptCertificate.exp"


def test_collateral_of_the_readers_own(worker: Worker) -> None:
    """It stands in place of what the worker hands over, and goes into the bundle."""
    own = worker.platform.collateral(worker.now)
    assert json.loads(own) != json.loads(worker.collateral)  # signed anew
    worker.bends = {"collateral": lambda c: "{}"}
    with pytest.raises(ClientError):
        judged(worker)
    found = judged(worker, collateral=own)
    assert found.bundle(worker.now).collateral == own
    worker.bends = {}
    with pytest.raises(ClientError, match="CollateralMalformed"):
        judged(worker, collateral="{}")


def test_collateral_that_has_ended_is_refused(worker: Worker) -> None:
    with pytest.raises(ClientError, match="CollateralExpired"):
        judged(worker, at=worker.now + timedelta(days=400))


def test_a_mode_takes_only_its_own_options(worker: Worker) -> None:
    for options in (
        {"max_ear_age_seconds": 5},
        {"mode": "ear", "max_ear_age_seconds": 0},
        {"collateral": "{}"},
        {"mode": "ear", "collateral": "{}"},
        {"mode": "offline", "revocation": object()},
    ):
        with pytest.raises(ValueError, match="mode"):
            Client("https://worker", policy=worker.policy(), **options)
