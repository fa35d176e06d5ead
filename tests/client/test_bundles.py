"""What a client keeps of a verified worker is judged again to the same verdict, by anybody, later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api.policy import SignedPolicy
from chrysalis.attestation.freshness import FreshnessMode
from chrysalis.cli.main import main
from chrysalis.client.ear_mode import PolicyPin
from chrysalis.client.session import Client
from chrysalis.client.verified import VerifiedWorker
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_POLICY
from chrysalis.wire.bundle import BundleFile, canonical, to_bytes
from chrysalis.wire.bundle_judgement import judge
from chrysalis.wire.bundle_verdict import Expectations, Signature
from chrysalis.wire.reasons import WireError


async def verified(served: Any) -> VerifiedWorker:
    async with Client(served.endpoint, policy=served.worker.policy(), model_digest="sha256:" + "1" * 64) as client:
        return await client.connect()


@pytest.fixture
def worker(serve: Callable[..., Any]) -> VerifiedWorker:
    return asyncio.run(verified(serve()))


def test_it_is_judged_again_to_the_same_verdict(worker: VerifiedWorker) -> None:
    assert worker.mode == FreshnessMode.FRESH_QUOTE
    made = worker.bundle(worker.judged_at + timedelta(seconds=1))
    file = BundleFile.read(to_bytes(made))
    assert made.source == "Client"
    judgement = judge(file)
    assert judgement.accepted, judgement.to_json()
    assert (judgement.mode, judgement.policy_signature) == (FreshnessMode.OFFLINE, Signature.ABSENT)
    assert judgement.verdict.expires_at == worker.verdict.expires_at
    nonce = bytes.fromhex(made.evidence.nonce)
    assert judge(file, Expectations(nonce=nonce)).mode == FreshnessMode.FRESH_QUOTE


def test_the_owners_envelope_is_kept(worker: VerifiedWorker) -> None:
    owner = Ed25519PrivateKey.generate()
    payload = SignedPolicy(name="minilm", spec=worker.policy).model_dump_json(by_alias=True, exclude_none=True).encode()
    made = worker.bundle(worker.judged_at, dsse.sign(PAYLOAD_POLICY, payload, owner))
    judgement = judge(BundleFile.read(to_bytes(made)), Expectations(owner=owner.public_key().public_bytes_raw()))
    assert (judgement.accepted, judgement.policy_signature) == (True, Signature.PINNED)


def kept(served: Any, mode: str) -> BundleFile:
    """What a client keeps that verified in this mode."""
    pin = PolicyPin(served.worker.owner.public_key().public_bytes_raw(), "minilm")
    options = {"policy_pin": pin, "ear_key": served.worker.ear.public_key().public_bytes_raw()} if mode == "ear" else {}

    async def verify() -> VerifiedWorker:
        async with Client(
            served.endpoint, policy=served.worker.policy(), model_digest="sha256:" + "1" * 64, mode=FreshnessMode(mode), **options
        ) as client:
            return await client.connect()

    found = asyncio.run(verify())
    return BundleFile.read(to_bytes(found.bundle(found.judged_at)))


@pytest.mark.parametrize(
    ("mode", "freshness", "judged_by"),
    [("fresh-quote", "OwnNonce", "Client"), ("ear", "BrokerNonce", "Broker"), ("offline", "NotChecked", "Client")],
)
def test_it_says_how_the_client_had_verified(serve: Callable[..., Any], mode: str, freshness: str, judged_by: str) -> None:
    served = serve()
    file = kept(served, mode)
    said = {
        "mode": mode,
        "freshness": freshness,
        "revocation": "NotChecked",
        "evidenceClass": "Simulated",
        "isolation": "PodTD",
        "judgedBy": judged_by,
        "gpuAnswers": "NotWanted",
    }
    assert file.bundle.verification.to_json_dict() == said
    judgement = judge(file)
    assert judgement.accepted, judgement.to_json()
    assert judgement.to_json()["recordedVerification"] == said
    pinned = judge(file, Expectations(ear_key=served.worker.ear.public_key().public_bytes_raw()))
    assert (pinned.accepted, pinned.mode) == (True, FreshnessMode.EAR)  # by the reader's own pin, whatever the client had


@pytest.mark.parametrize(
    ("mode", "change", "member"),
    [
        ("ear", {"freshness": "OwnNonce"}, "verification.freshness"),
        ("ear", {"judgedBy": "Client"}, "verification.judgedBy"),
        ("ear", {"evidenceClass": "Hardware"}, "verification.evidenceClass"),
        ("ear", {"isolation": "NodeTD"}, "verification.isolation"),
        ("offline", {"revocation": "NotRevoked"}, "verification.revocation"),
        ("fresh-quote", {"mode": "ear", "freshness": "BrokerNonce", "judgedBy": "Broker"}, "verification.nonce"),
    ],
)
def test_a_record_that_contradicts_itself_or_the_evidence_is_noticed(
    serve: Callable[..., Any], mode: str, change: dict[str, str], member: str
) -> None:
    document = kept(serve(), mode).bundle.to_json_dict()
    assert judge(BundleFile.read(canonical(document))).accepted  # the twin
    document["verification"] |= change
    judgement = judge(BundleFile.read(canonical(document)))
    assert [difference.member for difference in judgement.differences] == [member]
    assert [reason.reason for reason in judgement.reasons] == ["BundleDisagrees"]


def test_mode_ear_needs_a_result_beside_it(serve: Callable[..., Any]) -> None:
    document = kept(serve(), "ear").bundle.to_json_dict()
    document["result"]["ear"] = ""
    assert [difference.member for difference in judge(BundleFile.read(canonical(document))).differences] == ["verification.mode"]


def test_only_a_client_says_how_it_verified(serve: Callable[..., Any]) -> None:
    document = kept(serve(), "offline").bundle.to_json_dict()
    document["source"] = "Files"
    with pytest.raises(WireError, match="not an evidence bundle"):
        BundleFile.read(canonical(document))


def test_infer_saves_one(serve: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = serve()
    policy, file = tmp_path / "policy.yaml", tmp_path / "bundle.json"
    policy.write_text(yaml.safe_dump(served.worker.policy().to_json_dict()))
    words = ["--endpoint", served.endpoint, "--policy", str(policy), "--model-digest", "sha256:" + "1" * 64, "--verify-only", "x"]
    with pytest.raises(SystemExit) as ended:
        main(["infer", *words, "--save-bundle", str(file), "-o", "json"])
    shown = json.loads(capsys.readouterr().out)
    assert (ended.value.code, shown["mode"], shown["freshness"], shown["revocation"]) == (0, "fresh-quote", "OwnNonce", "NotChecked")
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--bundle", str(file), "-o", "json"])
    judged = json.loads(capsys.readouterr().out)
    assert (ended.value.code, judged["verdict"], judged["mode"]) == (0, "Accepted", "offline")
