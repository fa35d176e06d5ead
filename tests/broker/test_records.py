"""What owners store: only signed, only by them, never going back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api.policy import AttestationPolicySpec, Envelope, SignedPolicy
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.records import OwnersRecords
from chrysalis.broker.tenants import Tenants
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, PAYLOAD_POLICY

World = Any
Reasons = Callable[[Any], list[str]]


def signed(tenant: Any, payload: bytes, kind: str = PAYLOAD_KEY_RECORD, key: Ed25519PrivateKey | None = None) -> Envelope:
    return dsse.sign(kind, payload, key or tenant.key)


def record(world: World, **changes: Any) -> bytes:
    return bytes(world.acme.record(**changes).model_dump_json(by_alias=True).encode())


def policy(world: World, name: str = "workers", **changes: Any) -> bytes:
    spec = AttestationPolicySpec.model_validate(world.policy(world.acme, **changes))
    return SignedPolicy(name=name, spec=spec).model_dump_json(by_alias=True, exclude_none=True).encode()


def put_key(make: Callable[[World], Envelope]) -> Callable[[World], Any]:
    return lambda world: world.put("/v1/keys/acme", make(world))


def put_policy(make: Callable[[World], Envelope]) -> Callable[[World], Any]:
    return lambda world: world.put("/v1/policies/workers", make(world))


def unsigned(world: World) -> Any:
    body = signed(world.acme, record(world, version=2)).model_dump(by_alias=True)
    return world.http.put("/v1/keys/acme", json=body | {"signatures": []})


STRANGER = Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("put", "status", "reason"),
    [
        pytest.param(unsigned, 400, "MessageMalformed", id="key without signature"),
        pytest.param(put_key(lambda w: signed(w.acme, record(w, version=2), key=STRANGER)), 403, "OwnerNotAllowed", id="stranger"),
        pytest.param(
            put_key(lambda w: signed(w.acme, record(w, version=2), key=w.rival.key)), 403, "OwnerMismatch", id="signed by another owner"
        ),
        pytest.param(
            lambda w: w.put("/v1/keys/fresh", signed(w.acme, record(w, key_id="fresh"), key=w.rival.key)),
            403,
            "OwnerMismatch",
            id="a new key in another owner's name",
        ),
        pytest.param(put_key(lambda w: signed(w.acme, record(w, version=2, key_id="b"))), 403, "NameMismatch", id="another key id"),
        pytest.param(put_key(lambda w: signed(w.acme, record(w, min_policy_version=9))), 409, "VersionNotHigher", id="same version"),
        pytest.param(put_key(lambda w: signed(w.acme, record(w, version=2, key="secret"))), 400, "KeyMalformed", id="no age key"),
        pytest.param(put_key(lambda w: signed(w.acme, b"{}")), 400, "MessageMalformed", id="not a record"),
        pytest.param(put_key(lambda w: signed(w.acme, b"\xff")), 400, "MessageMalformed", id="not even text"),
        pytest.param(
            put_key(lambda w: signed(w.acme, record(w, version=2), PAYLOAD_POLICY)), 400, "EnvelopeTypeMismatch", id="another type"
        ),
        pytest.param(
            put_policy(lambda w: signed(w.acme, policy(w, version=2), PAYLOAD_POLICY, STRANGER)),
            403,
            "OwnerNotAllowed",
            id="policy of a stranger",
        ),
        pytest.param(
            put_policy(lambda w: signed(w.acme, policy(w, "lax", version=9), PAYLOAD_POLICY)), 403, "NameMismatch", id="another policy"
        ),
        pytest.param(
            put_policy(lambda w: signed(w.acme, policy(w, isolation=["NodeTD"]), PAYLOAD_POLICY)),
            409,
            "VersionNotHigher",
            id="policy of the same version",
        ),
        pytest.param(put_policy(lambda w: signed(w.acme, b'{"name":"workers"}', PAYLOAD_POLICY)), 400, "MessageMalformed", id="no policy"),
        pytest.param(
            put_policy(lambda w: signed(w.acme, policy(w, version=2).replace(b'"name"', b'"name":"lax","name"', 1), PAYLOAD_POLICY)),
            400,
            "MessageMalformed",
            id="policy in which a member stands twice",
        ),
        pytest.param(put_policy(lambda w: signed(w.acme, policy(w, version=2))), 400, "EnvelopeTypeMismatch", id="policy of another type"),
        pytest.param(
            put_key(lambda w: signed(w.acme, record(w, version=2).replace(b'"policyName"', b'"policyName":"lax","policyName"', 1))),
            400,
            "MessageMalformed",
            id="key record in which a member stands twice",
        ),
    ],
)
def test_refusals(world: World, reasons: Reasons, put: Callable[[World], Any], status: int, reason: str) -> None:
    answer = put(world)
    assert (answer.status_code, reasons(answer)) == (status, [reason])
    assert world.acme.identity not in answer.text
    # The twins: the same documents, right.
    assert world.put_key(world.acme, version=2).status_code == 201
    assert world.put_policy(world.acme, version=2).status_code == 201


def test_the_same_again_changes_nothing(world: World) -> None:
    before = len(list(world.deps.store.audit_log()))
    assert world.put_key(world.acme).status_code == 200
    assert world.put_policy(world.acme).status_code == 200
    assert len(list(world.deps.store.audit_log())) == before


def test_versions_never_go_back(world: World, reasons: Reasons) -> None:
    for version in (5, 9):
        assert world.put_policy(world.acme, version=version).status_code == 201
        assert world.put_key(world.acme, version=version).status_code == 201
    for version in (5, 8):
        assert reasons(world.put_policy(world.acme, version=version)) == ["VersionNotHigher"]
        assert reasons(world.put_key(world.acme, version=version)) == ["VersionNotHigher"]
    assert world.deps.store.policy(world.acme.public.hex(), "workers").version == 9


def test_policies_of_one_name_belong_to_their_owners(world: World) -> None:
    assert world.put_policy(world.rival, version=7).status_code == 201
    assert world.deps.store.policy(world.acme.public.hex(), "workers").version == 1
    assert world.attest(world.domain(world.acme)).json()["policyVersion"] == 1


def test_without_owners_nothing_is_stored(empty: World, reasons: Reasons) -> None:

    nobody = OwnersRecords(store=empty.deps.store, tenants=Tenants([]), encryption=None, clock=empty.clock)  # type: ignore[arg-type]
    with pytest.raises(BrokerError) as caught:
        nobody.put_key("acme", signed(empty.acme, record(empty)))
    assert caught.value.reason == "OwnerNotAllowed"
