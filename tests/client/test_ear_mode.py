"""Mode `ear`: a broker's result stands for the evidence, and for nothing that it does not say.  Each refusal has one cause and a twin."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from chrysalis.api import initdata as initdata_form
from chrysalis.api.initdata import mrconfigid
from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy
from chrysalis.client import revocation
from chrysalis.client.blocking import BlockingClient
from chrysalis.client.ear_mode import PolicyPin, verify_by_ear
from chrysalis.client.reasons import ClientError
from chrysalis.client.revocation import RevocationCheck, recalls_of
from chrysalis.client.session import Client
from chrysalis.client.verification import bind
from chrysalis.client.verified import BY_THE_BROKER, FROM_A_RESULT, VerifiedWorker
from chrysalis.clock import rfc3339, unix
from chrysalis.wire import dsse, ear_keys
from chrysalis.wire.broker import PAYLOAD_POLICY
from chrysalis.wire.ear import Appraisal, Confirmation, Ear, EarGpus, EarResult
from chrysalis.wire.ear_keys import Algorithm, CertifiedKey
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.recalls import RecalledKey, RecallList, open_list
from tests.client.conftest import Worker

OTHER = Ed25519PrivateKey.generate()
MODEL = "sha256:" + "1" * 64


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def settings(worker: Worker, **changes: Any) -> dict[str, Any]:
    good = {
        "policy": worker.policy(),
        "ear_key": raw(worker.ear),
        "policy_pin": PolicyPin(raw(worker.owner), "minilm"),
        "model_digest": MODEL,
        "client_key": OTHER,
    }
    return good | changes


def client(served: Any, **changes: Any) -> BlockingClient:
    return BlockingClient(Client(served.endpoint, mode="ear", **settings(served.worker, **changes)))


def claims(**changes: Any) -> dict[str, Any]:
    """A bend of the result: its own claims, or with result={…} those of the project."""

    def bend(token: Ear) -> Ear:
        members = {name: getattr(token, name) for name in Ear.model_fields} | changes
        facts = {name: getattr(token.result, name) for name in EarResult.model_fields} | changes.get("result", {})
        return Ear(**members | {"result": EarResult(**facts)})

    return {"token": bend}


def after(seconds: int, **claim: int) -> dict[str, Any]:
    """A bend of the result's times, by seconds after its issue."""
    return {"token": lambda t: t.model_copy(update={name: t.iat + 60 + value for name, value in ({"iat": -60} | claim).items()})}


def spec(worker: Worker, change: Callable[[dict[str, Any]], object]) -> AttestationPolicySpec:
    """The worker's policy with a change."""
    members = worker.policy().to_json_dict()
    change(members)
    return AttestationPolicySpec.model_validate(members)


def certified(worker: Worker, anchor: Ed25519PrivateKey, signs_until: int = 100) -> CertifiedKey:
    now = unix(worker.now)
    return CertifiedKey.issue(
        ear_keys.generate(Algorithm.ES256), anchor, not_before=now - 200, signs_until=now + signs_until, verifies_until=now + 5000
    )


def document(**changes: Any) -> dict[str, Any]:
    return {"document": lambda d: d.model_copy(update=changes)}


def without_initdata_of_this_worker(d: Any) -> Any:
    toml = base64.b64decode(d.evidence.initdata).replace(b"aaaa", b"bbbb")
    return d.model_copy(update={"evidence": d.evidence.model_copy(update={"initdata": base64.b64encode(toml).decode()})})


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("bound to another TLS key", claims(cnf=Confirmation(spki_sha256="ee" * 32)), "EarClaimMismatch", "cnf"),
    ("another TLS key in evidence and result", {"spki": lambda s: b"s" * 32}, "EarClaimMismatch", "cnf"),
    ("expired", after(0, exp=0), "EarExpired", ""),
    ("from the future", after(0, iat=120), "EarExpired", ""),
    ("signed by another broker", {"result_key": lambda k: OTHER}, "EarSignatureInvalid", ""),
    ("another model", claims(result={"model_digest": "sha256:" + "9" * 64}), "EarClaimMismatch", "modelDigest"),
    ("another key record", claims(result={"key_id": "rival"}), "EarClaimMismatch", "keyId"),
    ("another nonce than the evidence's", claims(nonce="ee" * 32), "EarClaimMismatch", "eat_nonce"),
    (
        "other keys than the evidence's",
        {"token": lambda t: t.model_copy(update={"keys": t.keys.model_copy(update={"receipt": raw(OTHER).hex()})})},
        "EarClaimMismatch",
        "keys",
    ),
    ("an older policy", claims(result={"policy_version": 0}), "EarRefused", "PolicyTooOld"),
    ("another owner's policy", claims(result={"policy_owner": "ee" * 32}), "EarRefused", "PolicyMismatch"),
    ("another policy of the owner", claims(result={"policy_name": "lax"}), "EarRefused", "PolicyMismatch"),
    ("of another class", claims(result={"evidence_class": "Hardware"}), "EarClaimMismatch", "evidenceClass"),
    ("judged elsewhere", claims(result={"placement": "InTD"}), "EarClaimMismatch", "placement"),
    ("another isolation", claims(result={"isolation": "NodeTD"}), "EarRefused", "IsolationNotAllowed"),
    ("a TCB status that is not allowed", claims(result={"tcb_status": "OutOfDate"}), "EarRefused", "TcbOutOfDate"),
    ("an unknown TCB status", claims(result={"tcb_status": "Splendid"}), "EarRefused", "TcbStatusNotAllowed"),
    ("a tuple that the policy does not have", claims(result={"measurement": "other"}), "EarRefused", "MeasurementNotAllowed"),
    ("no result", document(ear=""), "EarMissing", ""),
    ("no token", document(ear="a.b.c"), "EarMalformed", ""),
    ("other claims", document(claims_buffer=base64.b64encode(b"x").decode()), "KeyNotBound", ""),
    ("another configuration", {"document": without_initdata_of_this_worker}, "KeyNotBound", ""),
    ("another quote than the certificate's", {"quote": lambda q: q[:-1] + bytes([q[-1] ^ 1])}, "CertificateMismatch", ""),
    ("a receipt key certified for another result", claims(jti="0193f000-0000-7000-8000-00000000000f"), "CertificateMismatch", "result"),
    ("a receipt key certified by another broker", {"ear_key": lambda k: OTHER}, "CertificateMismatch", ""),
    ("an offer by another key", {"offer_key": lambda k: OTHER}, "OfferInvalid", ""),
]


@pytest.mark.parametrize(("bends", "reason", "said"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_nothing_is_sent_to_a_worker_whose_result_is_wrong_in_one_thing(
    serve: Callable[..., Any], bends: dict[str, Any], reason: str, said: str
) -> None:
    served = serve()
    served.worker.bends = bends
    with pytest.raises((ClientError, WireError)) as refused, client(served) as made:
        made.embeddings(["secret"])
    assert refused.value.reason == reason
    assert said in refused.value.message
    assert served.worker.requests == []
    served.worker.bends = {}  # the twin
    with client(served) as made:
        assert made.embeddings(["a"]).receipt is not None
    assert set(served.worker.shown) == {"stored"}  # no quote was asked for


OPTIONS: list[tuple[str, Callable[[Worker], dict[str, Any]], str, str]] = [
    ("no broker's key", lambda w: {"ear_key": None}, "EarKeyNotPinned", ""),
    ("no policy named", lambda w: {"policy_pin": None}, "PolicyNotPinned", ""),
    ("another broker's key", lambda w: {"ear_key": raw(OTHER)}, "EarSignatureInvalid", ""),
    ("another model pinned", lambda w: {"model_digest": "sha256:" + "2" * 64}, "ModelMismatch", ""),
    ("no model pinned", lambda w: {"model_digest": None}, "ModelNotPinned", ""),
    ("another owner pinned", lambda w: {"policy_pin": PolicyPin(raw(OTHER), "minilm")}, "EarRefused", "PolicyMismatch"),
    ("a newer policy", lambda w: {"policy": spec(w, lambda p: p.update(version=2))}, "EarRefused", "PolicyTooOld"),
    ("a result older than the client wants it", lambda w: {"max_ear_age_seconds": 50}, "EarTooOld", "older"),
    (
        "a result older than the policy wants it",
        lambda w: {"policy": spec(w, lambda p: p.update(freshness={"maxResultAgeSeconds": 50}))},
        "EarTooOld",
        "older",
    ),
    (
        "reference values that ended",
        lambda w: {"policy": spec(w, lambda p: p["tdx"]["measurements"][0].update(expires="2020-01-01T00:00:00Z"))},
        "EarRefused",
        "MeasurementExpired",
    ),
    ("placement not listed", lambda w: {"policy": spec(w, lambda p: p.update(brokerPlacement=[]))}, "EarClaimMismatch", "placement"),
    ("isolation not listed", lambda w: {"policy": spec(w, lambda p: p.update(isolation=[]))}, "EarRefused", "IsolationNotAllowed"),
    ("no TCB status listed", lambda w: {"policy": spec(w, no_statuses)}, "EarRefused", "TcbStatusNotAllowed"),
    ("no tuple listed", lambda w: {"policy": spec(w, lambda p: p["tdx"].update(measurements=[]))}, "EarRefused", "MeasurementNotAllowed"),
]


def no_statuses(policy: dict[str, Any]) -> None:
    policy["tdx"]["tcb"]["allowedStatuses"] = []


@pytest.mark.parametrize(("options", "reason", "said"), [row[1:] for row in OPTIONS], ids=[row[0] for row in OPTIONS])
def test_nothing_is_sent_where_the_client_asks_for_more(
    serve: Callable[..., Any], options: Callable[[Worker], dict[str, Any]], reason: str, said: str
) -> None:
    served = serve()
    with pytest.raises((ClientError, WireError)) as refused, client(served, **options(served.worker)) as made:
        made.embeddings(["secret"])
    assert (refused.value.reason, said in refused.value.message, served.worker.requests) == (reason, True, [])
    assert refused.value.remedy
    with client(served, max_ear_age_seconds=600) as made:  # the twin
        assert made.embeddings(["a"]).vectors


def test_a_certificate_without_evidence_is_refused(serve: Callable[..., Any]) -> None:
    with (
        pytest.raises(ClientError, match="RA-TLS") as refused,
        client(serve(certificate=lambda w: w.make_certificate(extension=False))) as made,
    ):
        made.connect()
    assert refused.value.reason == "CertificateMismatch"


def test_keys_that_the_pinned_one_certifies(serve: Callable[..., Any]) -> None:
    served = serve()
    worker = served.worker
    for key, reason in (
        (certified(worker, worker.ear), ""),
        (certified(worker, OTHER), "EarSignatureInvalid"),
        (certified(worker, worker.ear, signs_until=-100), "EarExpired"),
    ):
        worker.bends = {"result_key": lambda _, key=key: key}
        if not reason:
            with client(served) as made:
                assert made.connect().ear is not None
            continue
        with pytest.raises(WireError) as refused, client(served) as made:
            made.connect()
        assert refused.value.reason == reason


def listing(worker: Worker, *kids: str) -> str:
    now = unix(worker.now)
    return RecallList(iat=now, keys=[RecalledKey(kid=kid, recalled_at=now) for kid in kids]).sign(worker.ear)


def test_a_key_that_the_clients_list_recalls(serve: Callable[..., Any]) -> None:
    served = serve()
    worker = served.worker
    key = certified(worker, worker.ear)
    worker.bends = {"result_key": lambda _: key}
    for kid, reason in (("A" * 43, ""), (key.kid, "KeyRecalled")):
        made = client(served, recalls=open_list(listing(worker, kid), raw(worker.ear)))
        if not reason:
            with made:
                assert made.connect().ear is not None
            continue
        with pytest.raises(WireError) as refused, made:
            made.connect()
        assert (refused.value.reason, worker.requests) == (reason, [])
    with pytest.raises(ValueError, match="mode ear"):
        Client(served.endpoint, policy=worker.policy(), recalls=open_list(listing(worker), raw(worker.ear)))


def test_the_brokers_list_is_asked_for_where_the_broker_is_asked_at_all(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str | WireError] = []

    class Asked:
        """A broker that is asked for nothing but its list."""

        def __init__(self, *_: object, **__: object) -> None: ...

        async def __aenter__(self) -> Asked:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def recalls(self) -> str:
            answer = answers.pop(0)
            if isinstance(answer, WireError):
                raise answer
            return answer

    monkeypatch.setattr(revocation, "BrokerClient", Asked)

    def ask(answer: str | WireError, required: bool) -> RecallList | None:
        answers.append(answer)
        check = RevocationCheck(url="https://b", spki_sha256="00" * 32, required=required)
        return asyncio.run(recalls_of(check, raw(worker.ear), worker.now))

    found = ask(listing(worker, "A" * 43), True)
    assert found is not None
    assert found.kids == {"A" * 43}
    away = WireError(WireReason.SERVICE_UNREACHABLE, "away", "wait")
    stale = RecallList(iat=unix(worker.now) - 7200, keys=[]).sign(worker.ear)
    for answer in (away, "x.y.z", RecallList(iat=unix(worker.now), keys=[]).sign(OTHER), stale):
        assert ask(answer, False) is None
        with pytest.raises(ClientError) as refused:
            ask(answer, True)
        assert refused.value.reason == "RevocationNotChecked"


def judged(worker: Worker, bends: dict[str, Any] | None = None, **changes: Any) -> VerifiedWorker:
    """verify_by_ear over what the worker shows."""
    worker.bends = bends or {}
    options = settings(worker) | {"at": worker.now, "max_age_seconds": None} | changes
    return verify_by_ear(
        worker.document(None),
        certificate_der=worker.certificate.public_bytes(serialization.Encoding.DER),
        spki_sha256=worker.spki,
        policy=options["policy"],
        at=options["at"],
        ear_key=options["ear_key"],
        pin=options["policy_pin"],
        model_digest=options["model_digest"],
        max_age_seconds=options["max_age_seconds"],
    )


@pytest.fixture
def worker(platform: Any, tmp_path: Any) -> Worker:
    return Worker(platform, tmp_path)


def test_a_node_domain_needs_a_policy_that_lists_it(platform: Any, tmp_path: Any) -> None:
    worker = Worker(platform, tmp_path, isolation="NodeTD")
    with pytest.raises(ClientError, match="IsolationNotAllowed"):
        judged(worker)
    listed = judged(worker, policy=spec(worker, lambda p: p.update(isolation=["NodeTD"])))
    assert listed.isolation == "NodeTD"
    with pytest.raises(WireError, match="isolation"):  # the result says PodTD of a worker that is not
        judged(worker, claims(result={"isolation": "PodTD"}))


def test_the_keys_of_a_result_are_those_of_its_confirmation(worker: Worker) -> None:
    """cnf is the connection's key; a result whose other members speak of another TLS key is about another session."""
    cnf = Confirmation(spki_sha256=worker.spki.hex())
    with pytest.raises(ClientError) as refused:
        judged(worker, {"spki": lambda s: b"s" * 32} | claims(cnf=cnf))
    assert refused.value.reason == "KeyNotBound"
    assert judged(worker, claims(cnf=cnf)).ear is not None


def test_a_measured_owner_is_the_one_whose_policy_was_judged_under(platform: Any, tmp_path: Any) -> None:
    owner = Ed25519PrivateKey.generate()
    with pytest.raises(WireError, match="keyOwner"):
        judged(Worker(platform, tmp_path, owner=owner, key_owner=OTHER))
    assert judged(Worker(platform, tmp_path, owner=owner, key_owner=owner)).ear is not None


def test_a_configuration_that_the_attested_key_did_not_sign(worker: Worker) -> None:
    """Initdata with another wallet, and claims that fit it: the certificate carries others."""

    def bend(d: Any) -> Any:
        changed = without_initdata_of_this_worker(d)
        identity = initdata_form.parse(base64.b64decode(changed.evidence.initdata)).identity
        return changed.model_copy(update={"claims_buffer": base64.b64encode(bind(changed.evidence, identity).claims_buffer).decode()})

    with pytest.raises(ClientError, match="not the one that the worker shows") as refused:
        judged(worker, {"document": bend})
    assert refused.value.reason == "CertificateMismatch"


@pytest.mark.parametrize("zone", ["Z", "", "+00:00"])
@pytest.mark.parametrize(
    ("seconds", "limited_by"), [(0, ""), (1, "measurement.expires"), (100, "measurement.expires"), (3600, "freshness.maxResultAgeSeconds")]
)
def test_reference_values_end_a_result_too(worker: Worker, seconds: int, limited_by: str, zone: str) -> None:
    """A time without an offset, as people write it in YAML, is UTC here as in an appraisal."""
    at = worker.now.replace(microsecond=0)
    ends = rfc3339(at + timedelta(seconds=seconds)).removesuffix("Z") + zone
    policy = spec(worker, lambda p: p["tdx"]["measurements"][0].update(expires=ends))
    if not limited_by:
        with pytest.raises(ClientError, match="MeasurementExpired"):
            judged(worker, policy=policy, at=at)
        return
    assert judged(worker, policy=policy, at=at).limited_by == limited_by


def test_a_certificate_that_ends_first_ends_the_verification(worker: Worker) -> None:
    ends = unix(worker.now) + 100
    found = judged(worker, {"certificate": lambda c: c.model_copy(update={"exp": ends})})
    assert (unix(found.expires_at), found.limited_by) == (ends, "receiptCertificate.exp")
    assert judged(worker).limited_by == "freshness.maxResultAgeSeconds"


def test_a_broker_warns_of_node_domains(platform: Any, tmp_path: Any) -> None:
    worker = Worker(platform, tmp_path, isolation="NodeTD")
    bends = hardware_claims("warning")
    assert judged(worker, bends, policy=hardware(worker, isolation=["NodeTD"])).isolation == "NodeTD"
    with pytest.raises(WireError, match="ear_status"):
        judged(worker, bends, policy=hardware(worker))


def test_grace_is_the_brokers_to_count(worker: Worker) -> None:
    late = claims(result={"tcb_status": "OutOfDate"})
    assert judged(worker, late, policy=worker.policy(graceSeconds=60)).tcb_status == "OutOfDate"
    with pytest.raises(ClientError, match="TcbOutOfDate"):  # an empty list denies all the same
        judged(worker, late, policy=worker.policy(graceSeconds=60, allowedStatuses=[]))
    with pytest.raises(ClientError, match="TcbOutOfDate"):
        judged(worker, late, policy=worker.policy())
    with pytest.raises(ClientError, match="TcbConfigurationNeeded"):
        judged(worker, claims(result={"tcb_status": "ConfigurationNeeded"}), policy=worker.policy(graceSeconds=60))


def hardware(worker: Worker, **changes: Any) -> AttestationPolicySpec:
    members = worker.policy().to_json_dict() | {"trustRoot": "Intel", "brokerPlacement": ["External", "InTD"]} | changes
    return AttestationPolicySpec.model_validate(members)


def hardware_claims(status: str = "affirming", **result: Any) -> dict[str, Any]:
    said = {"evidence_class": "Hardware", "placement": "External"} | result
    return claims(result=said, submods={"tdx": Appraisal(status=status, vector={"hardware": 2}, policy_ids=["policy:x"])})


@pytest.mark.parametrize(
    ("bends", "said"),
    [
        (hardware_claims(evidence_class="Simulated"), "evidenceClass"),
        (hardware_claims(placement="Development"), "placement"),
        (hardware_claims("warning"), "ear_status"),
        (hardware_claims("contraindicated"), "ear_status"),
        (hardware_claims("none"), "ear_status"),
    ],
    ids=["simulated", "a broker inside of the cluster", "warned of", "contraindicated", "nothing claimed"],
)
def test_a_policy_for_hardware_takes_neither_simulated_evidence_nor_a_development_broker(
    worker: Worker, bends: dict[str, Any], said: str
) -> None:
    with pytest.raises(WireError, match=said) as refused:
        judged(worker, bends, policy=hardware(worker))
    assert refused.value.reason == "EarClaimMismatch"
    accepted = judged(worker, hardware_claims(), policy=hardware(worker))  # the twin
    assert (accepted.evidence_class, accepted.placement, accepted.judged_by) == ("Hardware", "External", "Broker")


def test_a_warning_is_taken_where_the_policy_allows_what_it_warns_of(worker: Worker) -> None:
    members = hardware(worker).to_json_dict()
    members["tdx"]["tcb"]["allowedStatuses"] = ["UpToDate", "SWHardeningNeeded"]
    policy = AttestationPolicySpec.model_validate(members)
    assert judged(worker, hardware_claims("warning", tcb_status="SWHardeningNeeded"), policy=policy).tcb_status == "SWHardeningNeeded"
    with pytest.raises(WireError, match="ear_status"):
        judged(worker, hardware_claims("contraindicated", tcb_status="SWHardeningNeeded"), policy=policy)


GPU_RULES = {
    "count": 2,
    "architectures": ["Hopper"],
    "driverVersions": ["550.1"],
    "vbiosVersions": ["96.1"],
    "ccMode": ["On"],
    "measurements": [],
}
GPUS = EarGpus(backend="Local", evidence_class="Hardware", device_ids=["a", "b"], revocation="NotChecked")


@pytest.mark.parametrize(
    ("gpus", "rules", "reason"),
    [
        (GPUS, {}, ""),
        (GPUS.model_copy(update={"revocation": "Good"}), {"revocation": "Required"}, ""),
        (None, {"required": False}, ""),
        (None, {}, "GpuEvidenceMissing"),
        (GPUS.model_copy(update={"device_ids": ["a"]}), {}, "GpuCountMismatch"),
        (GPUS.model_copy(update={"device_ids": ["a", "A"]}), {}, "GpuNotUnique"),
        (GPUS.model_copy(update={"evidence_class": "Simulated"}), {}, "GpuTrustRootMismatch"),
        (GPUS.model_copy(update={"backend": "NRAS"}), {}, "PolicyMismatch"),
        (GPUS.model_copy(update={"revocation": "Revoked"}), {}, "GpuCertificateRevoked"),
        (GPUS, {"revocation": "Required"}, "GpuRevocationNotChecked"),
    ],
)
def test_what_a_result_says_of_gpus(worker: Worker, gpus: EarGpus | None, rules: dict[str, Any], reason: str) -> None:
    policy, bends = hardware(worker, gpu=GPU_RULES | rules), hardware_claims(gpu=gpus)
    if not reason:
        assert "gpu.measurements" in judged(worker, bends, policy=policy).checked_by["broker"]
        return
    with pytest.raises(ClientError) as refused:
        judged(worker, bends, policy=policy)
    assert [one.reason for one in refused.value.reasons] == [reason]
    assert refused.value.reasons[0].remedy


def test_all_that_the_policy_does_not_allow_is_told_at_once(worker: Worker) -> None:
    wrong = claims(result={"policy_name": "lax", "policy_version": 0, "tcb_status": "OutOfDate", "measurement": "other"})
    with pytest.raises(ClientError) as refused:
        judged(worker, wrong)
    assert [one.reason for one in refused.value.reasons] == ["PolicyMismatch", "PolicyTooOld", "TcbOutOfDate", "MeasurementNotAllowed"]


def test_the_exact_initdata_in_the_policy_pins_the_model(worker: Worker) -> None:
    def exact(policy: dict[str, Any], value: str) -> None:
        del policy["tdx"]["measurements"][0]["initdata"]
        policy["tdx"]["measurements"][0]["mrconfigid"] = value

    mine, any_ = (spec(worker, lambda p, v=v: exact(p, v)) for v in (mrconfigid(worker.toml).hex(), "Any"))
    assert judged(worker, policy=mine, model_digest=None).identity == worker.identity
    with pytest.raises(ClientError, match="no model is pinned"):
        judged(worker, policy=any_, model_digest=None)


WORKERS: dict[str, Worker] = {}
"""Made once for all examples."""


@given(issued=st.integers(0, 4000), life=st.integers(1, 5000), mine=st.none() | st.integers(1, 5000), owners=st.integers(10, 5000))
def test_a_result_is_taken_only_while_all_limits_hold(platform: Any, issued: int, life: int, mine: int | None, owners: int) -> None:
    """The end is the earliest of the result's, the client's and the policy's; at and after it nothing is taken."""
    worker = WORKERS.setdefault("one", Worker(platform, Path()))
    now = unix(worker.now)
    bends = claims(iat=now - issued, exp=now - issued + life)
    policy = spec(worker, lambda p: p.update(freshness={"maxResultAgeSeconds": owners}))
    left = min(life, owners, *([mine] if mine is not None else [])) - issued
    at = worker.now.replace(microsecond=0)
    if left <= 0:
        with pytest.raises((ClientError, WireError)) as refused:
            judged(worker, bends, policy=policy, max_age_seconds=mine, at=at)
        assert refused.value.reason == ("EarExpired" if issued >= life else "EarTooOld")
        return
    found = judged(worker, bends, policy=policy, max_age_seconds=mine, at=at)
    assert found.expires_at == min(at + timedelta(seconds=left), at + timedelta(seconds=3540))  # the receipt key's certificate


def paths(model: type[BaseModel], prefix: str = "") -> set[str]:
    """The members of a policy to the depth at which they are rules."""
    found = set()
    for name, field in model.model_fields.items():
        path = prefix + (field.alias or name)
        inner = [part for part in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(part, type)]
        deeper = [part for part in inner if issubclass(part, BaseModel)]
        if deeper and path in ("tdx", "tdx.tcb", "eventLog", "gpu", "freshness"):
            found |= paths(deeper[0], path + ".")
        else:
            found.add(path)
    return found


def test_every_member_of_a_policy_is_said_to_be_checked_by_somebody() -> None:
    """A new member has to be placed: compared with the result's claims, or left to the broker, and told."""
    assert set(FROM_A_RESULT) & set(BY_THE_BROKER) == set()
    assert set(FROM_A_RESULT) | set(BY_THE_BROKER) == paths(AttestationPolicySpec)


def test_it_says_who_checked_what(worker: Worker) -> None:
    facts = judged(worker, max_age_seconds=600).facts()
    assert (facts["mode"], facts["freshness"], facts["revocation"], facts["judgedBy"]) == ("ear", "BrokerNonce", "NotChecked", "Broker")
    assert (facts["evidenceClass"], facts["isolation"], facts["placement"]) == ("Simulated", "PodTD", "Development")
    assert facts["limitedBy"] == "maxEarAge"
    assert "tdx.measurements" in facts["checkedBy"]["broker"]
    assert "brokerPlacement" in facts["checkedBy"]["client"]
    assert not [path for path in facts["checkedBy"]["broker"] if path.startswith("gpu")]  # the policy judges none


def test_a_signed_policy_names_itself(worker: Worker) -> None:
    payload = SignedPolicy(name="minilm", spec=worker.policy()).model_dump_json(by_alias=True, exclude_none=True).encode()
    signed = dsse.sign(PAYLOAD_POLICY, payload, worker.owner)
    assert PolicyPin.of(signed) == PolicyPin(raw(worker.owner), "minilm")
    assert judged(worker, policy_pin=PolicyPin.of(signed)).ear is not None
    forged = signed.model_copy(update={"signatures": [signed.signatures[0].model_copy(update={"keyid": raw(OTHER).hex()})]})
    with pytest.raises(WireError) as refused:
        PolicyPin.of(forged)
    assert refused.value.reason == "EnvelopeSignatureInvalid"
    with pytest.raises(WireError) as refused:
        PolicyPin.of(dsse.sign(PAYLOAD_POLICY, b"{}", worker.owner))
    assert refused.value.reason == "EnvelopeMalformed"
