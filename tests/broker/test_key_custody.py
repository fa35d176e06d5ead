"""Nobody gets a model key but the attested domain: not another tenant, not an administrator, not a reader of any answer or log."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Any

import pytest

from chrysalis.broker.app import create_app
from chrysalis.sealing import hpke
from chrysalis.sealing.reasons import SealingError
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD

World = Any
Reasons = Callable[[Any], list[str]]


def tokens(world: World) -> list[str]:
    return ["operator", *(world.token(tenant) for tenant in (world.acme, world.rival))]


def test_no_answer_of_any_route_holds_a_key(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Every route of the application, by every caller, with names and ids that exist; and every log line and audit record."""
    caplog.set_level(logging.DEBUG)
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    answers = [world.release("acme", result)]
    seen: set[str] = set()
    for route in create_app(world.deps).routes:
        path = str(getattr(route, "path", ""))
        for name, value in (("key_id", "acme"), ("name", "workers"), ("result_id", result), ("owner", world.acme.public.hex())):
            path = path.replace(f"{{{name}}}", value)
        for method in sorted(getattr(route, "methods", None) or ()):
            if "{" in path or "watch" in path or method == "HEAD":
                continue
            seen.add(f"{method} {path}")
            for token in tokens(world):
                headers = {"authorization": f"Bearer {token}"}
                answers.append(world.http.request(method, path, headers=headers, json=None if method == "GET" else {}))
    assert {"GET /v1/keys/acme", "PUT /v1/keys/acme", "GET /v1/results"} <= seen
    assert any(answer.status_code == 200 for answer in answers)
    secrets = [world.acme.identity, world.rival.identity]
    secrets += [base64.b64encode(secret.encode()).decode() for secret in secrets]
    for answer in answers:
        for secret in secrets:
            assert secret not in answer.text
    written = caplog.text + str(list(world.deps.store.audit_log()))
    assert not any(secret in written for secret in secrets)


def test_a_second_tenants_worker_never_gets_the_first_ones_key(world: World, reasons: Reasons) -> None:
    """Whatever the second tenant does with what is its own: its worker, its policy, its record, its signature."""
    own = world.attest(world.domain(world.rival)).json()["resultId"]
    assert world.release("rival", own).status_code == 200  # the twin
    assert reasons(world.release("acme", own)) == ["ResultForAnotherKey"]
    # Its worker is measured with the first one's key id: judged by the first one's policy, which does not list its initdata.
    changes = {"policyName": "workers"}
    domain = world.domain(world.rival, **changes)
    forged = world.domain(world.acme, wallet="0:" + "7" * 64)
    assert world.attest(forged).status_code in (200, 403)  # `wallets: Any` in the fixture; the key still goes to the domain alone
    assert world.attest(domain).status_code == 200
    # It uses the record's name for a record of its own, which takes nothing over, or signs the first one's record.
    record = world.rival.record(key_id="acme", version=99)
    assert world.put("/v1/keys/acme", world.rival.sign(PAYLOAD_KEY_RECORD, record)).status_code == 201
    stolen = world.acme.record(version=99)
    assert reasons(world.put("/v1/keys/acme", world.rival.sign(PAYLOAD_KEY_RECORD, stolen))) == ["OwnerMismatch"]
    # Its policy of the same name and a higher version changes nothing for the first one.
    assert world.put_policy(world.rival, version=50).status_code == 201
    first = world.attest(world.domain(world.acme)).json()
    assert first["policyVersion"] == 1
    assert reasons(world.release("rival", first["resultId"])) == ["ResultForAnotherKey"]


def test_what_is_released_opens_only_in_the_attested_domain(world: World) -> None:
    domain = world.domain(world.acme)
    result = world.attest(domain).json()["resultId"]
    wrapped = base64.b64decode(world.release("acme", result).json()["wrapped"])
    digest = "sha256:" + "1" * 64
    assert hpke.unwrap(domain.hpke, wrapped, hpke.model_key_info("acme", digest, result)).decode() == world.acme.identity
    for key, info in (
        (world.domain(world.rival).hpke, hpke.model_key_info("acme", digest, result)),
        (domain.hpke, hpke.model_key_info("rival", digest, result)),
        (domain.hpke, hpke.model_key_info("acme", "sha256:" + "2" * 64, result)),
        (domain.hpke, hpke.model_key_info("acme", digest, "another")),
    ):
        with pytest.raises(SealingError):
            hpke.unwrap(key, wrapped, info)


def test_stored_keys_cannot_be_exchanged_in_the_database(world: World) -> None:
    """Whoever writes to the database puts the first tenant's sealed key under the second one's name: it does not open."""
    from sqlalchemy import text

    own = world.attest(world.domain(world.rival)).json()["resultId"]
    assert world.release("rival", own).status_code == 200
    with world.deps.store.database.writing() as db:
        db.execute(text("UPDATE key_records SET sealed_key = (SELECT sealed_key FROM key_records WHERE key_id = 'acme')"))
        db.execute(text("UPDATE counters SET value = value + 1 WHERE name = 'records'"))  # or the broker would not even look
    answer = world.release("rival", own)
    assert answer.status_code == 403
    assert answer.json()["reason"] == "StateUnusable"
