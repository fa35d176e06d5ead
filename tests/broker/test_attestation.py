"""From challenge to key: what is accepted, and each single reason why something is not."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chrysalis.clock import from_unix
from chrysalis.receipts.objects import ReceiptKeyCertificate
from chrysalis.sealing import hpke
from chrysalis.wire import ear
from chrysalis.wire.broker import AttestResult, ClaimedIdentity, Evidence, ResultView

World = Any
Reasons = Callable[[Any], list[str]]


def test_the_whole_way(world: World) -> None:
    domain = world.domain(world.acme)
    answer = world.attest(domain)
    assert answer.status_code == 200, answer.text
    result = AttestResult.model_validate_json(answer.content)
    assert (result.evidence_class, result.tcb_status, result.placement) == ("Simulated", "UpToDate", "Development")
    assert result.expires_at == world.clock.now() + timedelta(seconds=600)
    assert result.limited_by == "freshness.maxResultAgeSeconds"

    token = ear.verify(result.ear, world.deps.keys.ear_public, world.clock.now())
    assert token.keys == domain.keys
    assert token.cnf.spki_sha256 == domain.tls_spki.hex()
    assert token.submods["tdx"].status == "contraindicated"  # simulated: never affirming
    assert token.submods["tdx"].vector["hardware"] == 97
    assert (token.result.policy_name, token.result.policy_version) == ("workers", 1)
    assert token.result.policy_owner == world.acme.public.hex()

    certificate = ReceiptKeyCertificate.parse(result.receipt_certificate, world.deps.keys.ear_public)
    assert certificate.receipt_key == domain.keys.receipt
    assert certificate.wallet == "0:" + "5" * 64
    assert certificate.reservation_keys == ["6" * 64]
    assert certificate.result_id == result.result_id
    assert from_unix(certificate.exp) == result.expires_at

    wrapped = world.release("acme", result.result_id).json()
    info = hpke.model_key_info("acme", token.result.model_digest, result.result_id)
    assert hpke.unwrap(domain.hpke, base64.b64decode(wrapped["wrapped"]), info).decode() == world.acme.identity
    view = ResultView.model_validate_json(world.reading(f"/v1/results/{result.result_id}").content)
    assert view.verdict == "Accepted"
    assert view.key_released_at == world.clock.now()
    assert view.receipt_certificate == result.receipt_certificate


def test_two_attempts_have_two_results_and_one_collateral_fetch(world: World) -> None:
    domain = world.domain(world.acme)
    ids = [world.attest(domain).json()["resultId"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert world.pccs.fetched == 1
    assert [view["resultId"] for view in world.reading("/v1/results").json()["results"]] == ids[::-1]


def _evidence(change: Callable[[World, Any], Evidence]) -> Callable[[World], Any]:
    return lambda world: world.post("/v1/attest", change(world, world.domain(world.acme)))


def _replayed(world: World) -> Any:
    evidence = world.domain(world.acme).evidence()
    assert world.post("/v1/attest", evidence).status_code == 200
    return world.post("/v1/attest", evidence)


def _expired(world: World) -> Any:
    evidence = world.domain(world.acme).evidence()
    world.clock.advance(120)
    return world.post("/v1/attest", evidence)


def _future(world: World) -> Any:
    world.clock.advance(60)
    evidence = world.domain(world.acme).evidence()
    world.clock.set_back(30)
    return world.post("/v1/attest", evidence)


def _foreign(world: World, domain: Any) -> Evidence:
    return domain.evidence("ab" * 32)


def _other_nonce(world: World, domain: Any) -> Evidence:
    return domain.evidence().model_copy(update={"nonce": world.challenge()})


def _other_key(name: str) -> Callable[[World, Any], Evidence]:
    def change(world: World, domain: Any) -> Evidence:
        public = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
        evidence = domain.evidence()
        return evidence.model_copy(update={"keys": evidence.keys.model_copy(update={name: public})})

    return change


def _other_claim(world: World, domain: Any) -> Evidence:
    return domain.evidence().model_copy(update={"claimed": ClaimedIdentity(pod_uid="uid-2")})


def _other_initdata(world: World, domain: Any) -> Evidence:
    other = world.initdata(world.acme, wallet="0:" + "7" * 64)
    return domain.evidence().model_copy(update={"initdata": base64.b64encode(other).decode()})


def _field(**update: str) -> Callable[[World, Any], Evidence]:
    return lambda world, domain: domain.evidence().model_copy(update=update)


def _trailing(world: World, domain: Any) -> Evidence:
    evidence = domain.evidence()
    return evidence.model_copy(update={"quote": base64.b64encode(base64.b64decode(evidence.quote) + b"x").decode()})


def _flipped(world: World, domain: Any) -> Evidence:
    evidence = domain.evidence()
    quote = bytearray(base64.b64decode(evidence.quote))
    quote[100] ^= 1
    return evidence.model_copy(update={"quote": base64.b64encode(quote).decode()})


def _identity(**changes: Any) -> Callable[[World], Any]:
    return lambda world: world.attest(world.domain(world.acme, **changes))


def _model(**changes: Any) -> Callable[[World], Any]:
    def run(world: World) -> Any:
        model = {
            "name": "minilm",
            "package": {"url": "http://models/minilm", "digest": "sha256:" + "0" * 64, "sizeBytes": 5},
            "digest": "sha256:" + "1" * 64,
            "keyId": "acme",
        }
        return world.attest(world.domain(world.acme, model=model | changes))

    return run


def _pinned(**changes: str) -> Callable[[World], Any]:
    def run(world: World) -> Any:
        pin = {
            "url": "https://broker:8443",
            "spkiSha256": world.deps.keys.tls_spki_sha256.hex(),
            "earKey": world.deps.keys.ear_public.hex(),
        }
        return world.attest(world.domain(world.acme, broker=pin | changes))

    return run


def _policy(**changes: Any) -> Callable[[World], Any]:
    def run(world: World) -> Any:
        assert world.put_policy(world.acme, **({"version": 2} | changes)).status_code == 201
        return world.attest(world.domain(world.acme))

    return run


def _key(**changes: Any) -> Callable[[World], Any]:
    def run(world: World) -> Any:
        assert world.put_key(world.acme, **({"version": 2} | changes)).status_code == 201
        return world.attest(world.domain(world.acme))

    return run


def _rival_policy(world: World) -> Any:
    """The second tenant's own, valid policy accepts its worker; the first tenant's does not, and that one counts."""
    toml = world.initdata(world.acme, imageDigest="sha256:" + "8" * 64)
    rule = {
        "policyDigests": world.policy(world.acme)["tdx"]["measurements"][0]["initdata"]["policyDigests"],
        "templateVersions": [1],
        "imageDigests": ["sha256:" + "8" * 64],
        "wallets": "Any",
    }
    tdx = world.policy(world.rival)["tdx"]
    tdx["measurements"][0]["initdata"] = rule
    assert world.put_policy(world.rival, version=2, tdx=tdx).status_code == 201
    domain = world.domain(world.acme)
    domain.toml = toml
    return world.attest(domain)


NONCE = {"NonceInvalid", "NonceExpired", "NonceReplayed"}


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        pytest.param(_replayed, ["NonceReplayed"], id="replayed nonce"),
        pytest.param(_expired, ["NonceExpired"], id="expired nonce"),
        pytest.param(_future, ["NonceExpired"], id="nonce from the future"),
        pytest.param(_evidence(_foreign), ["NonceInvalid"], id="foreign nonce"),
        pytest.param(_evidence(_other_nonce), ["ReportDataMismatch"], id="quote over another nonce"),
        pytest.param(_evidence(_other_key("tls_spki_sha256")), ["ReportDataMismatch"], id="another TLS key"),
        pytest.param(_evidence(_other_key("hpke")), ["ReportDataMismatch"], id="another HPKE key"),
        pytest.param(_evidence(_other_key("receipt")), ["ReportDataMismatch"], id="another receipt key"),
        pytest.param(_evidence(_other_claim), ["ReportDataMismatch"], id="another claimed identity"),
        pytest.param(_evidence(_other_initdata), ["InitdataMismatch", "ReportDataMismatch"], id="other initdata"),
        pytest.param(_evidence(_field(initdata="AAAA")), ["InitdataMalformed"], id="no initdata"),
        pytest.param(_evidence(_field(initdata="A")), ["MessageMalformed"], id="initdata that is not base64"),
        pytest.param(_evidence(_field(quote="")), ["QuoteUnreadable"], id="no quote"),
        pytest.param(_evidence(_field(event_log="")), ["EventLogMissing"], id="no event log"),
        pytest.param(_evidence(_trailing), ["QuoteTrailingData"], id="something after the quote"),
        pytest.param(_evidence(_flipped), ["SignatureInvalid"], id="one flipped bit"),
        pytest.param(_model(keyId="unknown"), ["KeyUnknown"], id="unknown key"),
        pytest.param(_model(digest="sha256:" + "9" * 64), ["KeyUnknown"], id="another model"),
        pytest.param(_model(keyOwner="9" * 64), ["KeyUnknown"], id="the key of another owner"),
        pytest.param(_identity(isolation="NodeTD"), ["IsolationNotAllowed"], id="isolation"),
        pytest.param(_identity(imageDigest="sha256:" + "9" * 64), ["InitdataNotAllowed"], id="another image"),
        pytest.param(_identity(set="1:0:zz"), ["InitdataMalformed"], id="a set in no form of receipts"),
        pytest.param(_pinned(earKey="0" * 64), ["BrokerPinMismatch"], id="another broker's EAR key"),
        pytest.param(_pinned(spkiSha256="0" * 64), ["BrokerPinMismatch"], id="another broker's TLS key"),
        pytest.param(_policy(brokerPlacement=["External", "InTD"]), ["PlacementNotAllowed"], id="Development is not listed"),
        pytest.param(_policy(trustRoot="Intel", brokerPlacement=["External"]), ["TrustRootMismatch"], id="Intel's root"),
        pytest.param(_policy(isolation=[]), ["IsolationNotAllowed"], id="empty isolation denies"),
        pytest.param(_key(min_policy_version=2), ["PolicyTooOld"], id="policy older than the record asks"),
        pytest.param(_key(policy_name="missing"), ["PolicyMissing"], id="no policy"),
        pytest.param(_key(evidence_class=["Hardware"]), ["EvidenceClassNotAllowed"], id="evidence class"),
        pytest.param(_key(isolation=[]), ["IsolationNotAllowed"], id="the record allows no isolation"),
        pytest.param(_rival_policy, ["InitdataNotAllowed"], id="another tenant's policy"),
    ],
)
def test_refusals(world: World, reasons: Reasons, attempt: Callable[[World], Any], expected: list[str]) -> None:
    assert world.attest(world.domain(world.acme)).status_code == 200  # the twin
    answer = attempt(world)
    assert answer.status_code == 403
    found = reasons(answer)
    assert found[0] == expected[0]
    assert set(expected) <= set(found)
    newest = world.reading("/v1/results").json()["results"][0]
    if NONCE.isdisjoint(expected):
        assert newest["verdict"] == "Refused"
        assert [reason["reason"] for reason in newest["reasons"]] == found
        assert world.release("acme", newest["resultId"]).json()["reason"] == "ResultRefused"
    else:
        assert newest["verdict"] == "Accepted"


def test_every_reason_is_told(world: World, reasons: Reasons) -> None:
    domain = world.domain(world.acme, imageDigest="sha256:" + "9" * 64, isolation="PodTD")
    evidence = domain.evidence(mrtd=bytes(48)).model_copy(update={"event_log": ""})
    assert {"MeasurementNotAllowed", "EventLogMissing"} <= set(reasons(world.post("/v1/attest", evidence)))


@pytest.mark.parametrize(
    ("name", "seconds", "limited_by"),
    [("policy", 600, "freshness.maxResultAgeSeconds"), ("tuple", 60, "measurement.expires")],
)
def test_expiry_is_the_earliest(world: World, name: str, seconds: int, limited_by: str) -> None:
    if name == "tuple":
        tdx = world.policy(world.acme)["tdx"]
        tdx["measurements"][0]["expires"] = (world.clock.now() + timedelta(seconds=60)).isoformat()
        world.put_policy(world.acme, version=2, tdx=tdx)
    result = AttestResult.model_validate_json(world.attest(world.domain(world.acme)).content)
    assert result.expires_at == world.clock.now() + timedelta(seconds=seconds)
    assert result.limited_by == limited_by


def test_the_nonce_is_spent_even_by_a_refusal(world: World, reasons: Reasons) -> None:
    evidence = world.domain(world.acme).evidence()
    bad = evidence.model_copy(update={"claimed": ClaimedIdentity(pod_uid="other")})
    assert reasons(world.post("/v1/attest", bad)) == ["ReportDataMismatch"]
    assert reasons(world.post("/v1/attest", evidence)) == ["NonceReplayed"]
