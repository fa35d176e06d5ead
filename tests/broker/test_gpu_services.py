"""A policy that wants NVIDIA's attestation service, or OCSP: the broker asks, once everything else holds, and keeps what it was told."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from sqlalchemy import text

from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy
from chrysalis.broker import gpu_services
from chrysalis.broker.main import assemble
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.settings import Settings
from chrysalis.clock import ManualClock, from_unix
from chrysalis.wire import ear
from chrysalis.wire.broker import AttestResult, ClaimedIdentity
from chrysalis.wire.bundle import BundleFile, canonical
from chrysalis.wire.bundle_answers import KeysOf
from chrysalis.wire.bundle_judgement import judge
from chrysalis.wire.bundle_verdict import Expectations, Signature
from chrysalis.wire.gpu_service_settings import GpuServiceSettings
from e2e.gpu_services.faults import Fault
from e2e.gpu_services.nras import SimulatedNras
from e2e.gpu_services.server import ATTEST, JWKS, OCSP, SimulatedGpuServices
from e2e.simtd.gpu import ReportShape, SimulatedGpus
from tests.broker.gpu_sessions import VENDOR, accepting, reference_values, session_evidence

World = Any
"""The conftest's."""
Reasons = Callable[[Any], list[str]]
DEVICE = VENDOR.device()
BOTH = {"backend": "NRAS", "revocation": "Required"}
NRAS, REQUIRED = {"backend": "NRAS"}, {"revocation": "Required"}


@pytest.fixture
def services(tmp_path: Path, clock: ManualClock) -> Iterator[SimulatedGpuServices]:
    with SimulatedGpuServices(clock, tmp_path) as running:
        running.ocsp.tell(DEVICE)
        yield running


@pytest.fixture
def configured() -> dict[str, Any]:
    """Changes of the settings `gpu`."""
    return {}


@pytest.fixture
def more_settings(services: SimulatedGpuServices, configured: dict[str, Any]) -> dict[str, Any]:
    return {"gpu": services.settings(**configured)}


@pytest.fixture(scope="session")
def references() -> list[dict[str, Any]]:
    return reference_values()


def demand(world: World, references: list[dict[str, Any]], version: int = 2, **rules: Any) -> None:
    answer = world.put_policy(world.acme, version=version, gpu=accepting(references, **rules))
    assert answer.status_code == 201, answer.text


@pytest.fixture
def demanding(world: World, references: list[dict[str, Any]]) -> World:
    """A broker whose tenant demands both services' answers."""
    demand(world, references, **BOTH)
    return world


def attest(world: World, domain: Any = None, device: Any = DEVICE, **changes: Any) -> Any:
    return world.post("/v1/attest", session_evidence(domain or world.domain(world.acme), device, **changes))


def accepted(answer: Any) -> AttestResult:
    assert answer.status_code == 200, answer.text
    return AttestResult.model_validate_json(answer.content)


def bundle_of(world: World, result_id: str) -> BundleFile:
    return BundleFile.read(world.reading(f"/v1/bundles/{result_id}").content)


@contextlib.contextmanager
def hurried(world: World, fault: Fault = Fault.HANG) -> Iterator[None]:
    """Where a service is silent on purpose, do not wait long for it; elsewhere a busy machine shall have its time."""
    if fault not in (Fault.HANG, Fault.DRIP):
        yield
        return
    services = world.deps.gpu_services
    held = [(services._nras, "_answers"), (services._nras, "_documents"), (services._ocsp._client, "_bounds")]
    bounds = [getattr(owner, name) for owner, name in held]
    for (owner, name), bound in zip(held, bounds, strict=True):
        setattr(owner, name, dataclasses.replace(bound, seconds=0.7))
    yield
    for (owner, name), bound in zip(held, bounds, strict=True):
        setattr(owner, name, bound)


# What is asked, and what it makes of a result


def test_accepted_by_the_services_word_and_it_says_so(demanding: World, services: SimulatedGpuServices) -> None:
    result = accepted(attest(demanding))
    found = ear.verify(result.ear, demanding.deps.keys.ear_public, demanding.clock.now()).result.gpu
    assert found is not None
    assert (found.backend, found.service, found.revocation, found.bound) == ("NRAS", services.nras.issuer, "Good", "Unknown")
    assert services.asked == {ATTEST: 1, JWKS: 1, OCSP: 3}
    assert demanding.release("acme", result.result_id).status_code == 200


def test_answers_are_kept_as_long_as_they_are_current(demanding: World, services: SimulatedGpuServices) -> None:
    accepted(attest(demanding))
    accepted(attest(demanding))
    assert services.asked == {ATTEST: 2, JWKS: 1, OCSP: 3}  # the service's word is for one nonce; the rest is not


@pytest.mark.parametrize(
    ("rules", "asked"), [({}, {}), (NRAS, {ATTEST: 1, JWKS: 1}), (REQUIRED, {OCSP: 3}), ({"revocation": "Optional"}, {})]
)
def test_only_what_the_policy_wants_is_asked(
    world: World, services: SimulatedGpuServices, references: list[dict[str, Any]], rules: dict[str, Any], asked: dict[str, int]
) -> None:
    demand(world, references, **rules)
    accepted(attest(world))
    assert services.asked == asked


def test_measurements_that_nvidia_judges_need_no_reference_values(world: World) -> None:
    demand(world, [], **NRAS)
    accepted(attest(world))


@pytest.mark.parametrize(
    ("life", "limited_by"),
    [({"nras": 300}, "nras.exp"), ({"ocsp": 200}, "gpuOcsp.nextUpdate"), ({"nras": 300, "ocsp": 200}, "gpuOcsp.nextUpdate")],
)
def test_the_answers_end_the_result(demanding: World, services: SimulatedGpuServices, life: dict[str, int], limited_by: str) -> None:
    services.nras.life_seconds = life.get("nras", 3600)
    services.ocsp.life = timedelta(seconds=life.get("ocsp", 86400))
    result = accepted(attest(demanding))
    assert result.limited_by == limited_by
    assert result.expires_at == demanding.clock.now().replace(microsecond=0) + timedelta(seconds=min(life.values()))


# What is not configured


@pytest.mark.parametrize(("configured", "rules", "named"), [({"nras": None}, NRAS, "gpu.nras"), ({"ocsp": None}, REQUIRED, "gpu.ocsp")])
def test_a_service_that_is_not_configured(
    world: World, reasons: Reasons, references: list[dict[str, Any]], configured: dict[str, Any], rules: dict[str, Any], named: str
) -> None:
    demand(world, references, **rules)
    answer = attest(world)
    assert answer.status_code == 403
    assert reasons(answer) == ["GpuServiceNotConfigured"]
    assert named in answer.json()["remedy"]
    assert named == answer.json()["reasons"][0]["detail"]


def test_a_file_of_authorities_that_cannot_be_read(empty: World, tmp_path: Path) -> None:
    def gpu(ca_file: Path) -> Settings:
        document = {"nras": {"caFile": str(ca_file)}}
        changed = {"gpu": GpuServiceSettings.model_validate(document), "state_dir": tmp_path / "another"}
        return empty.deps.settings.model_copy(update=changed)

    with pytest.raises(BrokerError) as refused:
        assemble(gpu(tmp_path / "missing.pem"), clock=empty.clock)
    assert refused.value.reason == "SettingsInvalid"
    assemble(gpu(tmp_path / "gpu-services.pem"), clock=empty.clock).store.close()  # the twin


# What a service can do wrong: the first time, and later

TEMPORARY = ["GpuServiceUnavailable"]
SILENT = (
    Fault.FAIL,
    Fault.MISSING,
    Fault.THROTTLE,
    Fault.HANG,
    Fault.DROP,
    Fault.REDIRECT,
    Fault.HUGE,
    Fault.HUGE_STATED,
    Fault.DRIP,
    Fault.PAGE,
    Fault.PACKED,
)
ANSWERS: list[tuple[str, Fault, list[str]]] = [
    *((path, fault, TEMPORARY) for path in (ATTEST, JWKS, OCSP) for fault in SILENT if not (path == JWKS and fault is Fault.DRIP)),
    (ATTEST, Fault.REFUSE, ["GpuServiceRefused"]),
    (ATTEST, Fault.GARBAGE, ["NrasTokenMalformed"]),
    (ATTEST, Fault.EMPTY, TEMPORARY),
    (ATTEST, Fault.OTHER_NONCE, ["NrasNonceMismatch"]),
    (ATTEST, Fault.ALG_NONE, ["NrasAlgorithmNotAllowed"]),
    (ATTEST, Fault.OTHER_KEY, ["NrasSignatureInvalid"]),
    (ATTEST, Fault.UNKNOWN_KEY, ["NrasKeyUnknown"]),
    (ATTEST, Fault.OTHER_ISSUER, ["NrasIssuerMismatch"]),
    (ATTEST, Fault.EXPIRED, ["NrasTokenExpired"]),
    (ATTEST, Fault.FUTURE, ["NrasTokenExpired"]),
    (ATTEST, Fault.OTHER_DEVICE, ["NrasSubmoduleMismatch"]),
    (ATTEST, Fault.OTHER_VERSION, ["NrasClaimRefused"]),
    (ATTEST, Fault.DENIED, ["NrasClaimRefused"]),
    (ATTEST, Fault.MEASURES_DIFFER, ["NrasClaimRefused"]),
    (ATTEST, Fault.DEBUG, ["GpuStateUnproved"]),
    (JWKS, Fault.GARBAGE, TEMPORARY),
    (JWKS, Fault.EMPTY, TEMPORARY),
    (JWKS, Fault.NO_KEYS, ["NrasKeyUnknown"]),
    *(
        (OCSP, fault, TEMPORARY)
        for fault in (
            Fault.REFUSE,
            Fault.GARBAGE,
            Fault.EMPTY,
            Fault.UNKNOWN,
            Fault.STALE,
            Fault.NO_NONCE,
            Fault.WRONG_NONCE,
            Fault.FORGED,
            Fault.TRY_LATER,
            Fault.OTHER_CERTIFICATE,
        )
    ),
]


@pytest.mark.parametrize(("path", "fault", "expected"), ANSWERS, ids=lambda value: str(value))
def test_an_answer_that_is_none(
    demanding: World, services: SimulatedGpuServices, reasons: Reasons, path: str, fault: Fault, expected: list[str]
) -> None:
    services.behave(fault, path)
    with hurried(demanding, fault):
        answer = attest(demanding)
    assert reasons(answer) == expected
    assert answer.status_code == (503 if expected == TEMPORARY else 403)
    result_id = answer.json()["title"].split("result ")[1].rstrip(")")
    again = judge(bundle_of(demanding, result_id), Expectations(ear_key=demanding.deps.keys.ear_public))
    assert not again.accepted
    assert again.differences == []
    services.behave()
    demanding.clock.advance(301)
    accepted(attest(demanding))  # the twin: the same broker, once the service is well


@pytest.mark.parametrize("path", [ATTEST, JWKS, OCSP])
def test_strangers_hear_no_addresses(demanding: World, services: SimulatedGpuServices, path: str, caplog: pytest.LogCaptureFixture) -> None:
    services.behave(Fault.REDIRECT, path)
    answer = attest(demanding)
    result_id = answer.json()["title"].split("result ")[1].rstrip(")")
    shown = answer.text + demanding.reading(f"/v1/results/{result_id}").text
    assert "GpuServiceUnavailable" in shown
    assert services.url not in shown
    assert services.url in str([vars(record) for record in caplog.records])  # the twin: whoever runs the broker does


@pytest.mark.parametrize(("path", "expected"), [(ATTEST, 503), (JWKS, 200), (OCSP, 200)])
@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.HANG, Fault.GARBAGE])
def test_a_service_that_goes_away_later(demanding: World, services: SimulatedGpuServices, path: str, fault: Fault, expected: int) -> None:
    accepted(attest(demanding))
    services.behave(fault, path)
    demanding.clock.advance(3601)  # the key set is old, the OCSP answers are not
    with hurried(demanding, fault):
        answer = attest(demanding)
    assert answer.status_code == (403 if (path, fault) == (ATTEST, Fault.GARBAGE) else expected)


def test_the_last_good_answers_end(demanding: World, services: SimulatedGpuServices, reasons: Reasons) -> None:
    accepted(attest(demanding))
    services.behave(Fault.FAIL, OCSP)
    demanding.clock.advance(23 * 3600)
    demanding.deps.gpu_services.refresh()
    assert accepted(attest(demanding)).limited_by != ""
    demanding.clock.advance(3601)
    assert reasons(attest(demanding)) == TEMPORARY  # past nextUpdate
    services.behave(Fault.NONE, OCSP)
    services.behave(Fault.FAIL, JWKS)
    demanding.clock.advance(22 * 3600)
    accepted(attest(demanding))
    demanding.clock.advance(2 * 3600)
    assert reasons(attest(demanding)) == TEMPORARY  # the key set is older than a day
    services.behave()
    demanding.clock.advance(61)
    accepted(attest(demanding))


def test_a_new_key_of_the_service_is_fetched_when_it_is_used(demanding: World, services: SimulatedGpuServices) -> None:
    accepted(attest(demanding))
    services.nras.rotate()
    accepted(attest(demanding))  # though the key set was fetched a moment ago
    assert services.asked[JWKS] == 2


def test_made_up_key_ids_make_nobody_ask_more_often(demanding: World, services: SimulatedGpuServices, reasons: Reasons) -> None:
    accepted(attest(demanding))
    services.behave(Fault.UNKNOWN_KEY, ATTEST)
    for _ in range(5):
        assert reasons(attest(demanding)) == ["NrasKeyUnknown"]
    assert services.asked[JWKS] == 2
    services.behave()
    services.nras.rotate()
    assert reasons(attest(demanding)) == ["NrasKeyUnknown"]  # what those used up comes back after a minute
    demanding.clock.advance(61)
    accepted(attest(demanding))
    assert services.asked[JWKS] == 3


def test_a_pinned_key_set(
    world: World, services: SimulatedGpuServices, references: list[dict[str, Any]], tmp_path: Path, reasons: Reasons
) -> None:
    pinned = tmp_path / "jwks.json"
    pinned.write_text(SimulatedNras(world.clock).jwks)
    nras_client = world.deps.gpu_services._nras
    nras_client._settings = nras_client._settings.model_copy(update={"jwks_file": pinned})
    demand(world, references, **NRAS)
    assert reasons(attest(world)) == ["NrasSignatureInvalid"]
    pinned.write_text(services.nras.jwks)
    accepted(attest(world))
    assert services.asked[JWKS] == 0
    pinned.unlink()
    assert reasons(attest(world)) == TEMPORARY


def test_a_responders_clock_may_be_a_little_ahead(demanding: World, services: SimulatedGpuServices, reasons: Reasons) -> None:
    services.ocsp.ahead = timedelta(seconds=90)
    assert reasons(attest(demanding)) == TEMPORARY
    services.ocsp.ahead = timedelta(seconds=30)
    demanding.clock.advance(61)
    accepted(attest(demanding))


# Floods


@pytest.mark.parametrize(
    ("what", "send"),
    [
        ("another nonce", lambda domain: session_evidence(domain, DEVICE, gpu_nonce=bytes(32))),
        ("not bound by the quote", lambda domain: session_evidence(domain, DEVICE, bound=False)),
        ("another vendor", lambda domain: session_evidence(domain, SimulatedGpus.create().device())),
        ("another version", lambda domain: session_evidence(domain, DEVICE, shape=ReportShape(driver="1.0"))),
        ("two GPUs", lambda domain: session_evidence(domain, DEVICE, VENDOR.device())),
        ("no GPU", session_evidence),
        ("a forged quote", lambda domain: session_evidence(domain, DEVICE).model_copy(update={"quote": "AAAA"})),
    ],
)
def test_junk_makes_nobody_ask(demanding: World, services: SimulatedGpuServices, what: str, send: Callable[[Any], Any]) -> None:
    for _ in range(3):
        assert demanding.post("/v1/attest", send(demanding.domain(demanding.acme))).status_code == 403, what
    assert services.asked == {}
    accepted(attest(demanding))  # the twin
    assert services.asked[ATTEST] == 1


def test_a_gpu_in_use_and_a_class_that_is_not_allowed_make_nobody_ask(demanding: World, services: SimulatedGpuServices) -> None:
    accepted(attest(demanding))
    services.asked.clear()
    other = demanding.domain(demanding.acme)
    other.claimed = ClaimedIdentity(pod_uid="uid-2", pod_name="w-1", namespace="pool", worker_name="w", node_name="n2")
    assert attest(demanding, other).status_code == 403
    assert demanding.put_key(demanding.acme, version=2, evidence_class=["Hardware"]).status_code in (200, 201)
    assert attest(demanding).status_code == 403
    assert services.asked == {}


def test_one_owners_flood_is_its_own(
    demanding: World, references: list[dict[str, Any]], services: SimulatedGpuServices, monkeypatch: pytest.MonkeyPatch, reasons: Reasons
) -> None:
    monkeypatch.setattr(gpu_services, "BURST", 2)
    rival = demanding.rival
    assert demanding.put_policy(rival, version=2, gpu=accepting(references, **NRAS)).status_code == 201
    for _ in range(2):
        accepted(attest(demanding))
    assert reasons(attest(demanding)) == TEMPORARY
    assert services.asked[ATTEST] == 2
    domain = demanding.domain(rival)
    domain.claimed = ClaimedIdentity(pod_uid="uid-9", pod_name="w-9", namespace="rival-pool", worker_name="w", node_name="n2")
    accepted(attest(demanding, domain, VENDOR.device()))
    demanding.clock.advance(61)
    accepted(attest(demanding))


def test_a_service_that_hangs_is_left_alone_and_holds_nobody_else(
    demanding: World, services: SimulatedGpuServices, reasons: Reasons
) -> None:
    services.behave(Fault.HANG, ATTEST)
    found: list[list[str]] = []
    lock = threading.Lock()

    def one() -> None:
        answer = attest(demanding)
        with lock:
            found.append(reasons(answer))

    threads = [threading.Thread(target=one) for _ in range(6)]
    with hurried(demanding):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == [TEMPORARY] * 6
    asked = services.asked[ATTEST]
    assert asked <= 6
    assert reasons(attest(demanding)) == TEMPORARY  # at once
    assert services.asked[ATTEST] == asked
    assert demanding.http.post("/v1/challenge").status_code == 200
    accepted(demanding.attest(demanding.domain(demanding.rival)))  # a policy that wants none of it


def test_a_responder_that_hangs_is_left_alone_too(demanding: World, services: SimulatedGpuServices, reasons: Reasons) -> None:
    services.behave(Fault.HANG, OCSP)
    with hurried(demanding):
        assert reasons(attest(demanding)) == TEMPORARY
    services.behave()
    asked, device = services.asked[OCSP], VENDOR.device()  # of which nobody has heard yet
    services.ocsp.tell(device)
    assert reasons(attest(demanding, device=device)) == TEMPORARY
    assert services.asked[OCSP] == asked
    demanding.clock.advance(61)
    accepted(attest(demanding, device=device))


@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.MISSING, Fault.GARBAGE])
def test_what_one_tenants_evidence_makes_a_service_do_is_no_silence(
    demanding: World, services: SimulatedGpuServices, references: list[dict[str, Any]], fault: Fault
) -> None:
    services.behave(fault, ATTEST)
    assert attest(demanding).status_code in (403, 503)
    services.behave()
    rival = demanding.rival
    assert demanding.put_policy(rival, version=2, gpu=accepting(references, **NRAS)).status_code == 201
    domain = demanding.domain(rival)
    domain.claimed = ClaimedIdentity(pod_uid="uid-9", pod_name="w-9", namespace="rival-pool", worker_name="w", node_name="n2")
    accepted(attest(demanding, domain, VENDOR.device()))  # at once


def test_an_owner_who_may_not_ask_leaves_nothing_behind(
    demanding: World, services: SimulatedGpuServices, monkeypatch: pytest.MonkeyPatch, reasons: Reasons
) -> None:
    monkeypatch.setattr(gpu_services, "BURST", 0)
    assert reasons(attest(demanding)) == TEMPORARY
    with demanding.deps.store.database.reading() as db:
        assert db.execute(text("SELECT count(*) FROM ocsp_answers")).scalar_one() == 0
    assert services.asked == {}


# Stored evidence


def test_stored_evidence_is_judged_again_without_asking(
    demanding: World, services: SimulatedGpuServices, references: list[dict[str, Any]]
) -> None:
    result = accepted(attest(demanding))
    services.asked.clear()
    services.behave(Fault.FAIL)
    demand(demanding, references, version=3, **BOTH)
    demanding.deps.reappraiser.work()
    assert demanding.reading(f"/v1/results/{result.result_id}").json()["revokedReason"] == ""
    demand(demanding, references, version=4, **BOTH, driverVersions=["591.0"])
    demanding.deps.reappraiser.work()
    assert demanding.reading(f"/v1/results/{result.result_id}").json()["revokedReason"] == "GpuDriverNotAllowed"
    assert services.asked == {}


def test_a_policy_that_newly_wants_an_answer_ends_the_result(world: World, references: list[dict[str, Any]]) -> None:
    demand(world, references)
    result = accepted(attest(world)).result_id
    demand(world, references, version=3, **NRAS)
    world.deps.reappraiser.work()
    assert world.reading(f"/v1/results/{result}").json()["revokedReason"] == "NrasAnswerMissing"
    accepted(attest(world))  # the twin: the next attempt gets one


def test_a_certificate_that_is_revoked_later_ends_the_result(demanding: World, services: SimulatedGpuServices, reasons: Reasons) -> None:
    demanding.deps.gpu_services.refresh()
    first = accepted(attest(demanding)).result_id
    services.ocsp.revoked.add(DEVICE.certificates[2].serial_number)
    demanding.deps.gpu_services.refresh()
    demanding.deps.reappraiser.work()
    assert demanding.reading(f"/v1/results/{first}").json()["revokedReason"] == ""  # nobody asked yet: not past half of its life
    demanding.clock.advance(15 * 3600)
    second = accepted(attest(demanding)).result_id
    demanding.deps.gpu_services.refresh()
    assert demanding.release("acme", second).status_code == 403  # before the sweep has come to it
    demanding.deps.reappraiser.work()
    assert demanding.reading(f"/v1/results/{second}").json()["revokedReason"] == "GpuCertificateRevoked"
    assert reasons(attest(demanding)) == ["GpuCertificateRevoked"]


def test_a_revocation_is_not_replayed_away(demanding: World, services: SimulatedGpuServices, reasons: Reasons) -> None:
    serial = DEVICE.certificates[2].serial_number
    services.ocsp.revoked.add(serial)
    assert reasons(attest(demanding)) == ["GpuCertificateRevoked"]
    services.ocsp.revoked.clear()
    services.ocsp.ahead = timedelta(hours=-16)  # an older answer, current still
    demanding.clock.advance(15 * 3600)
    demanding.deps.gpu_services.refresh()
    assert reasons(attest(demanding)) == ["GpuCertificateRevoked"]
    services.ocsp.ahead = timedelta(0)
    demanding.clock.advance(3600)
    demanding.deps.gpu_services.refresh()
    accepted(attest(demanding))  # the twin: a newer one (a certificate that was on hold)


def test_a_running_broker_refreshes_by_itself(demanding: World, services: SimulatedGpuServices) -> None:
    result = accepted(attest(demanding)).result_id
    demanding.clock.advance(500)
    services.ocsp.revoked.add(DEVICE.certificates[2].serial_number)
    demanding.deps.store.ocsp_failed(DEVICE.certificates[2].fingerprint(hashes.SHA256()).hex(), 0)  # due, as if half of its life had passed
    with demanding.http:  # its tasks run
        for _ in range(600):
            if demanding.reading(f"/v1/results/{result}").json()["revokedReason"]:
                break
            time.sleep(0.1)
    assert demanding.reading(f"/v1/results/{result}").json()["revokedReason"] == "GpuCertificateRevoked"


def test_what_nobody_needs_is_forgotten(demanding: World, services: SimulatedGpuServices) -> None:
    accepted(attest(demanding))
    demanding.clock.advance(9 * 86400)
    services.asked.clear()
    demanding.deps.gpu_services.refresh()
    assert services.asked == {}


def test_simulated_policies_use_what_is_stored(demanding: World, services: SimulatedGpuServices, references: list[dict[str, Any]]) -> None:
    accepted(attest(demanding))
    services.asked.clear()
    services.behave(Fault.FAIL)

    def simulate(**rules: Any) -> Any:
        spec = AttestationPolicySpec.model_validate(demanding.policy(demanding.acme, version=9, gpu=accepting(references, **rules)))
        return demanding.deps.simulation.simulate(demanding.acme.public.hex(), SignedPolicy(name="workers", spec=spec))

    assert (simulate(**BOTH).keeping, simulate().keeping) == (1, 1)
    [lost] = simulate(**BOTH, driverVersions=["1.0"]).losing
    assert [reason.reason for reason in lost.reasons] == ["GpuDriverNotAllowed"]
    assert services.asked == {}


# Bundles


def test_a_bundle_is_judged_offline_and_says_whose_keys_it_trusts(demanding: World, services: SimulatedGpuServices) -> None:
    result = accepted(attest(demanding))
    file = bundle_of(demanding, result.result_id)
    pinned = judge(file, Expectations(ear_key=demanding.deps.keys.ear_public))
    assert pinned.accepted, pinned.to_json()
    assert (pinned.statement, pinned.nras, pinned.nras_issuer) == (Signature.PINNED, KeysOf.BROKER, services.nras.issuer)
    assert pinned.gpu is not None
    assert (pinned.gpu.revocation, pinned.gpu.gpus[0].comparison, pinned.gpu.gpus[0].compared) == ("Good", "MatchedByService", 0)
    assert judge(file).nras == KeysOf.BUNDLE
    assert judge(file, Expectations(nras_keys=services.nras.jwks)).nras == KeysOf.READER
    other = judge(file, Expectations(nras_keys=SimulatedNras(demanding.clock).jwks))
    assert "NrasSignatureInvalid" in {reason["reason"] for reason in other.to_json()["reasons"]}
    assert other.nras == KeysOf.NOBODY
    later = judge(file, Expectations(at=from_unix(int(demanding.clock.now().timestamp()) + 3601)))
    assert "NrasTokenExpired" in {reason["reason"] for reason in later.to_json()["reasons"]}


def test_a_bundle_without_the_answers_or_with_others(demanding: World) -> None:
    one, other = (bundle_of(demanding, accepted(attest(demanding)).result_id).bundle.to_json_dict() for _ in range(2))
    one["statement"] = other["statement"] = ""

    def said(answers: Any) -> set[str]:
        members = {name: value for name, value in one.items() if name != "gpuAnswers"} | ({"gpuAnswers": answers} if answers else {})
        return {reason["reason"] for reason in judge(BundleFile.read(canonical(members))).to_json()["reasons"]}

    common = {"BundleStatementInvalid"}
    assert said(one["gpuAnswers"]) == common
    changed = common | {"BundleDisagrees"}
    assert said(None) == changed | {"NrasAnswerMissing", "GpuRevocationNotChecked"}
    assert said(other["gpuAnswers"]) == changed | {"NrasNonceMismatch"}
    assert said(one["gpuAnswers"] | {"ocsp": []}) == changed | {"GpuRevocationNotChecked"}
    assert said(one["gpuAnswers"] | {"ocsp": ["AAAA"]}) >= {"GpuOcspInvalid"}
    assert said(one["gpuAnswers"] | {"nrasKeys": ""}) == changed | {"NrasKeyUnknown"}


def test_another_tenant_sees_nothing_of_it(demanding: World) -> None:
    result_id = accepted(attest(demanding)).result_id
    path = f"/v1/bundles/{result_id}"
    assert demanding.reading(path).status_code == 200
    assert demanding.reading(path, token="default").status_code in (401, 403)
    assert demanding.http.get(path).status_code == 401
