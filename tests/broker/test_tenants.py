"""Tenants: nothing of one can be seen, changed or told from nothing by another, on any route; and their quotas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from chrysalis.broker import audit, openapi
from chrysalis.broker.callers import Caller
from chrysalis.broker.quota_store import Allowance, _within
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.tenants import Quotas, Tenant, TenantList, Tenants
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, PAYLOAD_POLICY

World = Any
Reasons = Callable[[Any], list[str]]


def headers(world: World, tenant: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {world.token(tenant)}"}


# Every route that names an object: what the other tenant is answered, and the same request for what does not exist.
ISOLATED: dict[str, tuple[str, int]] = {
    "key": ("NotFound", 404),
    "policy": ("NotFound", 404),
    "result": ("ResultUnknown", 404),
    "revokeResult": ("ResultUnknown", 404),
    "bundle": ("ResultUnknown", 404),
}
SHARED = {
    "challenge": "anonymous; names nothing",
    "attest": "anonymous; the key record that is measured decides, see test_attestation",
    "releaseKey": "needs no credential: the answer opens for the attested domain only, see test_another_tenants_result_releases_nothing",
    "putKey": "see test_another_tenants_names_cannot_be_taken",
    "putPolicy": "see test_another_tenants_names_cannot_be_taken",
    "simulatePolicy": "judges the caller's own evidence only, see test_simulation_sees_only_ones_own",
    "results": "see test_lists_show_only_ones_own",
    "audit": "see test_the_audit_log_shows_only_ones_own",
    "putReferenceValues": "publishers are the broker's, not a tenant's",
    "referenceValues": "public",
    "keySet": "public",
    "brokerEvidence": "public",
    "ready": "public",
    "openapi": "public",
}


def test_every_route_is_in_one_of_the_tables() -> None:
    assert set(ISOLATED) | set(SHARED) == {operation.name for operation in openapi.OPERATIONS}
    assert not set(ISOLATED) & set(SHARED)


@pytest.mark.parametrize("name", ISOLATED)
def test_what_is_anothers_looks_like_nothing(world: World, reasons: Reasons, name: str) -> None:
    reason, status = ISOLATED[name]
    operation = next(found for found in openapi.OPERATIONS if found.name == name)
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    world.put_policy(world.acme, name="only-acme")
    objects = {"key_id": "acme", "name": "only-acme", "result_id": result}
    nothing = {"key_id": "none", "name": "none", "result_id": "0" + result[1:-1] + "0"}

    def ask(names: dict[str, str], tenant: Any, query: str = "") -> Any:
        return world.http.request(operation.method, operation.path.format(**names) + query, headers=headers(world, tenant))

    other, absent = ask(objects, world.rival), ask(nothing, world.rival)
    assert (other.status_code, reasons(other)) == (status, [reason])
    assert other.content == absent.content  # the same words
    assert {k: v for k, v in other.headers.items()} == {k: v for k, v in absent.headers.items()}
    if name == "policy":
        named = ask(objects, world.rival, f"?owner={world.acme.public.hex()}")
        assert named.content == absent.content
    assert ask(objects, world.acme).status_code == 200  # the twin


def test_lists_show_only_ones_own(world: World, reasons: Reasons) -> None:
    mine = world.attest(world.domain(world.rival)).json()["resultId"]
    others = world.attest(world.domain(world.acme)).json()["resultId"]
    for query in ("", "?namespace=pool", "?podUID=uid-1", "?verdict=Accepted", "?wait=0&after=0"):
        answer = world.http.get(f"/v1/results{query}", headers=headers(world, world.rival))
        assert [view["resultId"] for view in answer.json()["results"]] == [mine]
        assert others not in answer.text
    # a known result of another cannot be told from an unknown one by going on after it
    other = world.http.get(f"/v1/results?after={others}", headers=headers(world, world.rival))
    unknown = world.http.get("/v1/results?after=unknown", headers=headers(world, world.rival))
    assert reasons(other) == ["ResultUnknown"]
    assert other.content == unknown.content


def test_another_tenants_result_releases_nothing(world: World, reasons: Reasons) -> None:
    result = world.attest(world.domain(world.rival)).json()["resultId"]
    assert reasons(world.release("acme", result)) == ["ResultForAnotherKey"]
    assert world.release("rival", result).status_code == 200  # the twin


def test_who_has_no_result_does_not_learn_which_keys_there_are(world: World) -> None:
    there, absent = world.release("acme", "nothing"), world.release("absent", "nothing")
    assert (there.status_code, there.content) == (absent.status_code, absent.content)


def test_another_tenants_names_cannot_be_taken(world: World, reasons: Reasons) -> None:
    record = world.rival.record(key_id="acme", version=9)
    assert reasons(world.put("/v1/keys/acme", world.rival.sign(PAYLOAD_KEY_RECORD, record))) == ["OwnerMismatch"]
    forged = world.rival.record(key_id="acme", version=9, owner_public_key=world.acme.public.hex())
    assert reasons(world.put("/v1/keys/acme", world.rival.sign(PAYLOAD_KEY_RECORD, forged))) == ["OwnerMismatch"]
    # policies are named within their owner: the other's is not touched
    before = world.http.get("/v1/policies/workers", headers=headers(world, world.acme)).content
    assert world.put_policy(world.rival, version=9).status_code == 201
    assert world.http.get("/v1/policies/workers", headers=headers(world, world.acme)).content == before


def test_credentials_that_come_with_an_envelope_must_fit_it(world: World, reasons: Reasons) -> None:
    envelope = world.acme.sign(PAYLOAD_KEY_RECORD, world.acme.record(version=2)).model_dump_json(by_alias=True)

    def put(tenant: Any) -> Any:
        return world.http.put("/v1/keys/acme", content=envelope, headers=headers(world, tenant))

    answer = put(world.rival)
    assert (answer.status_code, reasons(answer)) == (403, ["CallerNotAllowed"])
    assert put(world.acme).status_code == 201


def test_the_audit_log_shows_only_ones_own(world: World, reasons: Reasons) -> None:
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    assert world.release("acme", result).status_code == 200
    answer = world.http.get("/v1/audit", headers=headers(world, world.rival))
    shown = answer.json()
    assert {link.get("document", {}).get("owner") for link in shown["links"]} == {None, world.rival.public.hex()}
    assert result not in answer.text
    assert world.acme.public.hex() not in answer.text
    events = [link.get("event") for link in world.http.get("/v1/audit", headers=headers(world, world.acme)).json()["links"]]
    assert events == ["PolicyStored", "KeyStored", None, None, "KeyReleased"]
    assert reasons(world.reading("/v1/audit")) == ["CallerNotAllowed"]  # the cluster's reader


def test_the_audit_logs_chain_can_be_followed_in_pages(world: World) -> None:
    previous, after, seen = audit.GENESIS, 0, 0
    while True:
        page = world.http.get(f"/v1/audit?after={after}&limit=2", headers=headers(world, world.acme)).json()
        assert page["previous"] == previous
        for link in page["links"]:
            if "document" in link:
                expected = audit.link(link["seq"], link["at"], link["event"], link["document"], previous)
                assert expected.hash == link["hash"]
                seen += 1
            previous, after = link["hash"], link["seq"]
        if not page["links"]:
            break
    assert (seen, after, previous) == (2, page["head"], page["headHash"])


def test_simulation_sees_only_ones_own(world: World) -> None:
    world.attest(world.domain(world.acme))
    stricter = {"name": "workers", "spec": world.policy(world.acme) | {"version": 2, "brokerPlacement": ["External"]}}
    for tenant, judged in ((world.acme, True), (world.rival, False)):
        answer = world.http.post("/v1/policies/workers:simulate", json=stricter, headers=headers(world, tenant))
        assert answer.status_code == 200, answer.text
        assert ("uid-1" in answer.text) == judged


def test_an_owner_that_is_taken_out_of_the_settings_gets_nothing_any_more(world: World, reasons: Reasons) -> None:
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    world.deps.records._tenants = Tenants([])
    assert reasons(world.release("acme", result)) == ["OwnerNotAllowed"]
    assert "OwnerNotAllowed" in reasons(world.attest(world.domain(world.acme)))


# What the settings refuse


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("one name twice", {"name": "a"}),
        ("one owner twice", {"name": "b", "owners": ["AB" * 32]}),
        ("one namespace twice", {"name": "b", "namespaces": ["pool"]}),
        ("a name that is no label", {"name": "B"}),
        ("an unknown key", {"name": "b", "owner": "x"}),
        ("a role that does not exist", {"name": "b", "administrators": {"serviceAccounts": [{"name": "x:y", "role": "Root"}]}}),
        ("claims that match everybody", {"name": "b", "administrators": {"oidc": [{"issuer": "https://i", "claims": {}}]}}),
    ],
)
def test_tenants_are_disjoint(name: str, second: dict[str, Any]) -> None:
    adapter = TypeAdapter(TenantList)
    first = {"name": "a", "owners": ["ab" * 32], "namespaces": ["pool"]}
    assert len(adapter.validate_python([first, {"name": "b", "owners": ["cd" * 32], "namespaces": ["other"]}])) == 2
    with pytest.raises(ValidationError):
        adapter.validate_python([first, second])


def test_a_caller_sees_nothing_unless_told_otherwise() -> None:
    nobody = Caller(name="x")
    assert not nobody.sees("ab" * 32)
    assert not nobody.sees("")
    assert not nobody.changes("")
    assert nobody.owners == frozenset()


# Quotas


def limited(world: World, **quotas: int) -> None:
    tenants = [
        tenant.model_copy(update={"quotas": Quotas(**quotas)}) if tenant.name == "acme" else tenant
        for tenant in world.deps.settings.tenants
    ]
    world.deps.records._tenants = Tenants(tenants)
    world.deps.attestor._tenants = Tenants(tenants)


def test_keys(world: World, reasons: Reasons) -> None:
    limited(world, keys=2)

    def put(key_id: str, version: int = 1) -> Any:
        return world.put(f"/v1/keys/{key_id}", world.acme.sign(PAYLOAD_KEY_RECORD, world.acme.record(key_id=key_id, version=version)))

    assert put("second").status_code == 201
    answer = put("third")
    assert (answer.status_code, reasons(answer)) == (429, ["QuotaExceeded"])
    assert put("second", 2).status_code == 201  # in the place of the older one
    assert world.put_key(world.rival, version=2).status_code == 201  # another tenant's quota is its own


def test_policies(world: World, reasons: Reasons) -> None:
    limited(world, policies=1)
    assert reasons(world.put_policy(world.acme, name="other")) == ["QuotaExceeded"]
    assert world.put_policy(world.acme, version=2).status_code == 201  # a new version needs no new name


def test_stored_bytes(world: World, reasons: Reasons) -> None:
    allowance = Allowance("acme", frozenset({world.acme.public.hex()}), Quotas())
    held = world.deps.store.stored_bytes(allowance)
    assert held > 1000
    size = len(world.acme.sign(PAYLOAD_POLICY, world.acme.record()).model_dump_json())
    limited(world, stored_bytes=held + size // 2)
    assert reasons(world.put_policy(world.acme, version=2)) == ["QuotaExceeded"]
    limited(world, stored_bytes=4 * held)
    assert world.put_policy(world.acme, version=2).status_code == 201


def test_results_that_have_not_ended(world: World, reasons: Reasons) -> None:
    limited(world, results=2)
    for _ in range(2):
        assert world.attest(world.domain(world.acme)).status_code == 200
    answer = world.attest(world.domain(world.acme))
    assert (answer.status_code, reasons(answer)) == (429, ["QuotaExceeded"])
    assert world.attest(world.domain(world.rival)).status_code == 200
    world.clock.advance(601)  # they have ended
    assert world.attest(world.domain(world.acme)).status_code == 200


def test_attestations_a_minute(world: World, reasons: Reasons) -> None:
    limited(world, attestations_per_minute=1)
    assert world.attest(world.domain(world.acme)).status_code == 200
    assert reasons(world.attest(world.domain(world.acme))) == ["QuotaExceeded"]
    world.clock.advance(61)
    assert world.attest(world.domain(world.acme)).status_code == 200


def test_refused_evidence_uses_up_nobodys_quota(world: World) -> None:
    limited(world, results=1, attestations_per_minute=1)
    for _ in range(5):
        assert world.attest(world.domain(world.acme), mrtd=bytes(48)).status_code == 403
    assert world.attest(world.domain(world.acme)).status_code == 200


def test_a_nonce_outlives_a_quota(world: World, reasons: Reasons) -> None:
    """What was not stored for a quota has not spent its nonce: the worker may send the same evidence again."""
    limited(world, attestations_per_minute=0)
    evidence = world.domain(world.acme).evidence()
    assert reasons(world.post("/v1/attest", evidence)) == ["QuotaExceeded"]
    limited(world)
    assert world.post("/v1/attest", evidence).status_code == 200


def test_allowances_raise_with_numbers() -> None:
    with pytest.raises(BrokerError) as caught:
        _within(Allowance.of(Tenant(name="a")), "keys", 2, 1)
    assert caught.value.detail == "2 wanted, 1 allowed"
