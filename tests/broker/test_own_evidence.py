"""A broker that says InTD shows it, to whoever asks and before it starts; a Simulated guest plays the hardware."""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation.verdict import EvidenceClass, Verdict
from chrysalis.broker.app import create_app
from chrysalis.broker.main import assemble
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.settings import Settings
from chrysalis.wire import ear
from chrysalis.wire.broker_evidence import BrokerEvidence, judge_broker
from e2e.simtd.platform import Guests

CONFIGURATION = b"\x77" * 48
"""MRCONFIGID of the broker's guest."""


@pytest.fixture
def guest(platform: Any) -> Iterator[str]:
    """The evidence service of the broker's own Simulated domain."""
    yield from serve(Guests(platform)._handler(CONFIGURATION))


def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def settings(world: Any, tmp_path: Path, url: str, **more: Any) -> Settings:
    root = {"der": base64.b64encode(world.platform.root_der).decode()}
    members = {"stateDir": tmp_path / "in-td", "placement": "InTD", "ownEvidence": {"url": url, "trustRoot": root, "timeoutSeconds": 2}}
    tenants = [tenant.to_json_dict() for tenant in world.deps.settings.tenants]
    return Settings.model_validate(members | {"tenants": tenants} | more)


def policy(world: Any, **changes: Any) -> AttestationPolicySpec:
    """The owner's policy for brokers: whole tuples with an exact mrconfigid."""
    values = world.platform.reference_values()
    names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")
    tuple_ = {"name": "broker", "mrconfigid": CONFIGURATION.hex()} | {name: values[name] for name in names}
    document = {
        "version": 1,
        "trustRoot": {"der": base64.b64encode(world.platform.root_der).decode()},
        "brokerPlacement": ["InTD"],
        "tdx": {
            "tcb": {"allowedStatuses": ["UpToDate"]},
            "measurements": [tuple_],
            "tdAttributes": values["tdAttributes"],
            "xfam": values["xfam"],
        },
        "eventLog": {"required": True},
    }
    return AttestationPolicySpec.model_validate(document | changes)


@pytest.fixture
def in_td(empty: Any, guest: str, tmp_path: Path) -> Any:
    empty.deps.store.close()
    empty.deps = assemble(settings(empty, tmp_path, guest), clock=empty.clock, fetcher=empty.pccs)
    empty.http = TestClient(create_app(empty.deps))
    return empty


def shown(world: Any, nonce: bytes) -> BrokerEvidence:
    answer = world.http.get("/.well-known/attestation", params={"nonce": nonce.hex()})
    assert answer.status_code == 200, answer.json()
    return BrokerEvidence.model_validate_json(answer.content)


def judged(world: Any, evidence: BrokerEvidence, nonce: bytes, **changes: Any) -> Verdict:
    given: dict[str, Any] = {"policy": policy(world), "spki_sha256": world.deps.keys.tls_spki_sha256, "at": world.clock.now()}
    return judge_broker(evidence, nonce=nonce, **(given | changes))


def test_the_broker_shows_fresh_evidence_over_its_own_keys(in_td: Any) -> None:
    nonce = secrets.token_bytes(32)
    verdict = judged(in_td, shown(in_td, nonce), nonce, ear_key=in_td.deps.keys.ear_public)
    assert verdict.accepted, verdict.reasons
    assert verdict.evidence_class == EvidenceClass.SIMULATED
    assert verdict.measurement_name == "broker"
    assert in_td.http.get("/readyz").json()["placement"] == "InTD"


@pytest.mark.parametrize(
    ("name", "bend", "given", "expected"),
    [
        ("another nonce", lambda e: e, {"nonce": bytes(32)}, {"ReportDataMismatch"}),
        ("another connection's key", lambda e: e, {"spki_sha256": bytes(32)}, {"ReportDataMismatch"}),
        ("another result key", lambda e: e, {"ear_key": bytes(32)}, {"ReportDataMismatch"}),
        ("a changed nonce", lambda e: e.model_copy(update={"nonce": "00" * 32}), {}, {"ReportDataMismatch"}),
        ("a changed TLS key", lambda e: e.model_copy(update={"spki_sha256": "00" * 32}), {}, {"ReportDataMismatch"}),
        ("a changed result key", lambda e: e.model_copy(update={"ear_key": "00" * 32}), {}, {"ReportDataMismatch"}),
        ("another placement", lambda e: e.model_copy(update={"placement": "External"}), {}, {"PlacementNotAllowed"}),
        ("no collateral", lambda e: e.model_copy(update={"collateral": ""}), {}, {"CollateralMissing"}),
        ("no event log", lambda e: e.model_copy(update={"event_log": ""}), {}, {"EventLogMissing"}),
        ("a quote that is none", lambda e: e.model_copy(update={"quote": "AAAA"}), {}, {"QuoteMalformed", "QuoteUnreadable"}),
    ],
)
def test_evidence_that_does_not_fit_is_refused(
    in_td: Any, name: str, bend: Callable[[BrokerEvidence], BrokerEvidence], given: dict[str, Any], expected: set[str]
) -> None:
    nonce = secrets.token_bytes(32)
    evidence = shown(in_td, nonce)
    verdict = judged(in_td, bend(evidence), **({"nonce": nonce} | given))
    assert not verdict.accepted
    assert expected & {str(r.reason) for r in verdict.reasons}
    assert judged(in_td, evidence, nonce).accepted  # the twin


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"brokerPlacement": ["External"]}, "PlacementNotAllowed"),
        ({"trustRoot": "Intel"}, "TrustRootMismatch"),
    ],
)
def test_the_owners_policy_decides(in_td: Any, change: dict[str, Any], reason: str) -> None:
    nonce = secrets.token_bytes(32)
    verdict = judged(in_td, shown(in_td, nonce), nonce, policy=policy(in_td, **change))
    assert reason in {str(r.reason) for r in verdict.reasons}


def test_a_workers_quote_is_not_a_brokers(in_td: Any) -> None:
    """The context strings differ: a worker over the same keys and nonce has another transcript."""
    nonce = secrets.token_bytes(32)
    evidence = shown(in_td, nonce)
    domain = in_td.domain(in_td.acme)
    quote = domain.evidence(nonce.hex(), mrconfigid=CONFIGURATION).quote
    verdict = judged(in_td, evidence.model_copy(update={"quote": quote}), nonce)
    assert {str(r.reason) for r in verdict.reasons} == {"ReportDataMismatch"}


@pytest.mark.parametrize("query", [{}, {"nonce": ""}, {"nonce": "00" * 31}, {"nonce": "zz" * 32}, {"nonce": "00" * 32, "more": "1"}])
def test_only_a_whole_nonce_is_answered(in_td: Any, query: dict[str, str]) -> None:
    answer = in_td.http.get("/.well-known/attestation", params=query)
    assert (answer.status_code, answer.json()["reason"]) == (400, "MessageMalformed")


def test_quotes_are_not_given_without_end(in_td: Any) -> None:
    codes = [in_td.http.get("/.well-known/attestation", params={"nonce": "00" * 32}).status_code for _ in range(12)]
    assert codes.count(200) == 8
    assert set(codes[8:]) == {429}
    in_td.clock.advance(2)
    assert in_td.http.get("/.well-known/attestation", params={"nonce": "00" * 32}).status_code == 200


def test_a_broker_elsewhere_has_no_evidence(empty: Any) -> None:
    answer = empty.http.get("/.well-known/attestation", params={"nonce": "00" * 32})
    assert (answer.status_code, answer.json()["reason"]) == (404, "NotFound")


def test_placement_and_own_evidence_belong_together(tmp_path: Path) -> None:
    Settings.model_validate({"stateDir": tmp_path, "placement": "External"})
    for wrong in ({"placement": "InTD"}, {"placement": "External", "ownEvidence": {}}, {"placement": "Development", "ownEvidence": {}}):
        with pytest.raises(ValidationError, match="ownEvidence"):
            Settings.model_validate({"stateDir": tmp_path} | wrong)


def answering(status: int, document: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.mark.parametrize(
    ("name", "status", "document"),
    [
        ("an error", 500, b"{}"),
        ("no JSON", 200, b"hello"),
        ("a list", 200, b"[]"),
        ("no quote", 200, b"{}"),
        ("an empty quote", 200, b'{"quote":""}'),
        ("not base64", 200, b'{"quote":"%%%"}'),
        ("too much", 200, b" " * 2_000_000),
        ("no quote of this broker", 200, b""),
    ],
)
def test_a_broker_that_only_says_so_does_not_start(empty: Any, tmp_path: Path, name: str, status: int, document: bytes) -> None:
    if not document:
        quote = empty.platform.quote(bytes(64), mrconfigid=CONFIGURATION)
        document = json.dumps({"quote": base64.b64encode(quote).decode()}).encode()
    for url in serve(answering(status, document)):
        with pytest.raises(BrokerError) as refused:
            assemble(settings(empty, tmp_path, url), clock=empty.clock, fetcher=empty.pccs)
        assert refused.value.reason == BrokerReason.OWN_EVIDENCE_UNAVAILABLE


def test_a_broker_without_a_guest_does_not_start(empty: Any, tmp_path: Path) -> None:
    with pytest.raises(BrokerError) as refused:
        assemble(settings(empty, tmp_path, "http://127.0.0.1:9"), clock=empty.clock, fetcher=empty.pccs)
    assert refused.value.reason == BrokerReason.OWN_EVIDENCE_UNAVAILABLE


def test_every_result_says_the_placement(in_td: Any) -> None:
    """Accepted or refused: in the answer, in the result as readers see it, in the signed token, in the bundle."""
    assert in_td.put_policy(in_td.acme, brokerPlacement=["InTD"]).status_code == 201
    assert in_td.put_key(in_td.acme).status_code == 201
    accepted = in_td.attest(in_td.domain(in_td.acme)).json()
    assert accepted["placement"] == "InTD"
    token = ear.verify(accepted["ear"], in_td.deps.keys.ear_public, in_td.clock.now())
    assert token.result.placement == "InTD"
    assert in_td.attest(in_td.domain(in_td.acme), mrtd=bytes(48)).status_code == 403
    rows = in_td.deps.store.results()
    assert [json.loads(row.document)["placement"] for row in rows] == ["InTD", "InTD"]
    assert in_td.put_policy(in_td.acme, version=2, brokerPlacement=["External"]).status_code == 201
    refused = in_td.attest(in_td.domain(in_td.acme)).json()
    assert [reason["reason"] for reason in refused["reasons"]] == ["PlacementNotAllowed"]
