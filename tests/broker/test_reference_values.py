"""Reference values at the broker: only under a publisher's signature, only forwards, and a withdrawal counts at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from starlette.testclient import TestClient

from chrysalis.api import initdata as initdata_form
from chrysalis.broker.app import create_app
from chrysalis.broker.main import assemble
from chrysalis.broker.settings import Settings
from chrysalis.clock import ManualClock, rfc3339
from chrysalis.wire import dsse
from chrysalis.wire.reference import PAYLOAD_REFERENCE_VALUES

IMAGE = "sha256:" + "2" * 64
OTHER = "sha256:" + "7" * 64


class Publisher:
    """Signs reference values."""

    def __init__(self, clock: ManualClock) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.clock = clock

    def document(self, version: int = 1, **members: Any) -> dict[str, Any]:
        now = self.clock.now()
        times = {"issued": rfc3339(now), "expires": rfc3339(now + timedelta(days=90))}
        return {"schemaVersion": "chrysalis/reference-values/v1", "version": version, "release": "0.1.0"} | times | members

    def withdrawn(self, kind: str, value: str, **more: Any) -> dict[str, Any]:
        return {"kind": kind, "value": value, "why": "a flaw", "since": rfc3339(self.clock.now())} | more

    def envelope(self, document: Any, key: Ed25519PrivateKey | None = None, kind: str = PAYLOAD_REFERENCE_VALUES) -> Any:
        return dsse.sign(kind, document if isinstance(document, bytes) else json.dumps(document).encode(), key or self.key)


@pytest.fixture
def publisher(clock: ManualClock) -> Publisher:
    return Publisher(clock)


@pytest.fixture
def world(empty: Any, publisher: Publisher, tmp_path: Path) -> Any:
    """A broker that knows a publisher, with one tenant's policy and key."""
    settings = empty.deps.settings.model_copy(update={"reference_publishers": [publisher.key.public_key().public_bytes_raw().hex()]})
    empty.deps.store.close()
    empty.deps = assemble(Settings.model_validate(settings.model_dump()), clock=empty.clock, fetcher=empty.pccs, reviewer=None)
    empty.http = TestClient(create_app(empty.deps))
    for tenant in (empty.acme, empty.rival):
        assert empty.put_policy(tenant).status_code == 201
        assert empty.put_key(tenant).status_code == 201
    return empty


def put(world: Any, publisher: Publisher, **members: Any) -> Any:
    return world.put("/v1/reference-values", publisher.envelope(publisher.document(**members)))


def test_they_are_stored_and_shown_as_they_were_signed(world: Any, publisher: Publisher) -> None:
    assert world.http.get("/v1/reference-values").json()["documents"] == []
    envelope = publisher.envelope(publisher.document(workerImages=[{"digest": IMAGE}]))
    assert world.put("/v1/reference-values", envelope).status_code == 201
    assert world.put("/v1/reference-values", envelope).status_code == 200  # the same again
    assert world.http.get("/v1/reference-values").json()["documents"] == [envelope.to_json_dict()]


@pytest.mark.parametrize(
    ("name", "make", "status", "reason"),
    [
        ("a stranger's", lambda p: p.envelope(p.document(2), Ed25519PrivateKey.generate()), 403, "PublisherNotAllowed"),
        ("another kind", lambda p: p.envelope(p.document(2), kind="application/x"), 400, "EnvelopeTypeMismatch"),
        ("not reference values", lambda p: p.envelope({"version": 2}), 400, "MessageMalformed"),
        ("unknown member", lambda p: p.envelope(p.document(2) | {"extra": 1}), 400, "MessageMalformed"),
        ("an older version", lambda p: p.envelope(p.document(1, release="0.2.0")), 409, "VersionNotHigher"),
        ("a member twice", lambda p: p.envelope(b'{"version": 1, ' + json.dumps(p.document(2)).encode()[1:]), 400, "MessageMalformed"),
        ("published and withdrawn", lambda p: p.envelope(both(p)), 400, "MessageMalformed"),
        ("a withdrawal taken back", lambda p: p.envelope(p.document(2)), 409, "WithdrawalMissing"),
        ("expired before issued", lambda p: p.envelope(p.document(2, expires="2000-01-01T00:00:00Z")), 400, "MessageMalformed"),
    ],
)
def test_what_is_not_taken(
    world: Any, publisher: Publisher, name: str, make: Callable[[Publisher], Any], status: int, reason: str, reasons: Any
) -> None:
    gone = [publisher.withdrawn("WorkerImage", OTHER)]
    assert put(world, publisher, withdrawn=gone).status_code == 201
    answer = world.put("/v1/reference-values", make(publisher))
    assert (answer.status_code, answer.json()["reason"]) == (status, reason), answer.json()
    assert put(world, publisher, version=2, withdrawn=gone).status_code == 201  # the twin


def both(publisher: Publisher) -> dict[str, Any]:
    withdrawn = [publisher.withdrawn("WorkerImage", OTHER)]
    return publisher.document(2, workerImages=[{"digest": OTHER}], withdrawn=withdrawn)


def withdrawals(world: Any) -> dict[str, Callable[[Publisher], dict[str, Any]]]:
    values = world.platform.reference_values()
    allowed = initdata_form.policy_digest(world.initdata(world.acme))
    registers = {name: values[name] for name in ("mrtd", "rtmr1")}
    return {
        "WorkerImage": lambda p: p.withdrawn("WorkerImage", IMAGE),
        "TemplateVersion": lambda p: p.withdrawn("TemplateVersion", "1"),
        "PolicyDigest": lambda p: p.withdrawn("PolicyDigest", allowed),
        "GuestImage": lambda p: p.withdrawn("GuestImage", "old", registers={"name": "old", **registers}),
    }


@pytest.mark.parametrize("kind", ["WorkerImage", "TemplateVersion", "PolicyDigest", "GuestImage"])
def test_what_is_withdrawn_refuses_new_evidence_and_ends_results(world: Any, publisher: Publisher, kind: str) -> None:
    before = world.attest(world.domain(world.acme))
    assert before.status_code == 200
    assert put(world, publisher, withdrawn=[withdrawals(world)[kind](publisher)]).status_code == 201
    after = world.attest(world.domain(world.acme))
    assert [r["reason"] for r in after.json()["reasons"]] == ["ReferenceValueWithdrawn"]
    assert world.deps.reappraiser.work() == 1
    result = world.deps.store.result(before.json()["resultId"])
    assert (result.revoked_at is not None, result.revoked_reason) == (True, "ReferenceValueWithdrawn")
    refused = world.release("acme", before.json()["resultId"])
    assert (refused.status_code, refused.json()["reason"]) == (403, "ResultRevoked")


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "WorkerImage", "value": OTHER},
        {"kind": "TemplateVersion", "value": "9"},
        {"kind": "PolicyDigest", "value": OTHER},
        {"kind": "GuestImage", "value": "old", "registers": {"name": "old", "mrtd": "ee" * 48}},
    ],
)
def test_what_concerns_others_changes_nothing(world: Any, publisher: Publisher, entry: dict[str, Any]) -> None:
    before = world.attest(world.domain(world.acme))
    assert put(world, publisher, withdrawn=[publisher.withdrawn(**entry)]).status_code == 201
    assert world.attest(world.domain(world.acme)).status_code == 200
    assert world.deps.reappraiser.work() == 0
    assert world.deps.store.result(before.json()["resultId"]).revoked_at is None


def test_publishing_without_withdrawing_judges_nothing_again(world: Any, publisher: Publisher) -> None:
    world.attest(world.domain(world.acme))
    assert put(world, publisher, workerImages=[{"digest": OTHER}]).status_code == 201
    assert world.deps.store.pending_sweeps() == 0


def test_a_publisher_that_is_not_named_any_more_withdraws_nothing(world: Any, publisher: Publisher) -> None:
    assert put(world, publisher, withdrawn=[publisher.withdrawn("WorkerImage", IMAGE)]).status_code == 201
    assert world.attest(world.domain(world.acme)).status_code == 403
    settings = Settings.model_validate(world.deps.settings.model_copy(update={"reference_publishers": []}).model_dump())
    world.deps.store.close()
    world.deps = assemble(settings, clock=world.clock, fetcher=world.pccs, reviewer=None)
    world.http = TestClient(create_app(world.deps))
    assert world.attest(world.domain(world.acme)).status_code == 200


def test_the_audit_log_names_the_document(world: Any, publisher: Publisher) -> None:
    put(world, publisher, withdrawn=[publisher.withdrawn("WorkerImage", OTHER)])
    (record,) = (r for r in world.deps.store.audit_log() if r.event == "ReferenceValuesStored")
    named = {"publisher": publisher.key.public_key().public_bytes_raw().hex(), "version": 1, "withdrawn": 1}
    assert record.document == named | {"blind": record.document["blind"]}


def test_who_writes_to_the_database_withdraws_no_withdrawal(world: Any, publisher: Publisher, reasons: Any) -> None:
    assert put(world, publisher, withdrawn=[publisher.withdrawn("WorkerImage", OTHER)]).status_code == 201
    with world.deps.store.database.writing() as db:
        db.execute(text("UPDATE reference_values SET envelope = '{}'"))
    assert reasons(world.attest(world.domain(world.acme))) == ["StateUnusable"]
