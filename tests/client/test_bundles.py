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
from chrysalis.client.bundles import of_client
from chrysalis.client.reasons import ClientError, ClientReason
from chrysalis.client.session import Client
from chrysalis.client.verification import VerifiedWorker
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_POLICY
from chrysalis.wire.bundle import BundleFile, to_bytes
from chrysalis.wire.bundle_judgement import Expectations, Signature, judge


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


def test_evidence_of_another_nonce_is_not_kept(worker: VerifiedWorker) -> None:
    stored = worker.document.model_copy(update={"mode": "stored"})
    with pytest.raises(ClientError) as refused:
        of_client(stored, verdict=worker.verdict, policy=worker.policy, envelope=None, judged_at=worker.judged_at, made_at=worker.judged_at)
    assert refused.value.reason == ClientReason.EVIDENCE_STALE


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
