"""Tenants: nothing of one can be seen, changed or told from nothing by another, on any route; and their quotas."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import event, text

from chrysalis.api import initdata as initdata_form
from chrysalis.broker import audit, judging, openapi
from chrysalis.broker.callers import Caller
from chrysalis.broker.quota_store import Allowance, _within
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.tenants import Quotas, Tenant, TenantList, Tenants
from chrysalis.sealing import hpke
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, PAYLOAD_POLICY
from tests.broker.conftest import Domain

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
    "resultStanding": "needs no credential, as a release: living or not, and one word; see test_standing",
    "putKey": "see test_another_tenants_names_cannot_be_taken",
    "putPolicy": "see test_another_tenants_names_cannot_be_taken",
    "simulatePolicy": "judges the caller's own evidence only, see test_simulation_sees_only_ones_own",
    "results": "see test_lists_show_only_ones_own",
    "audit": "see test_the_audit_log_shows_only_ones_own",
    "putReferenceValues": "publishers are the broker's, not a tenant's",
    "referenceValues": "public",
    "keySet": "public",
    "recalls": "public",
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
    forged = world.rival.record(key_id="acme", version=9, owner_public_key=world.acme.public.hex())
    assert reasons(world.put("/v1/keys/acme", world.rival.sign(PAYLOAD_KEY_RECORD, forged))) == ["OwnerMismatch"]
    # names belong to their owner: the other's is not touched, and nothing tells that it is there
    mine = {name: world.http.get(name, headers=headers(world, world.acme)).content for name in ("/v1/keys/acme", "/v1/keys/taken")}
    answers = [put_key(world, world.rival, name) for name in ("acme", "taken")]
    assert [(answer.status_code, answer.content) for answer in answers] == [(201, b"")] * 2
    assert mine == {name: world.http.get(name, headers=headers(world, world.acme)).content for name in mine}
    assert world.http.get("/v1/keys/acme", headers=headers(world, world.rival)).json()["ownerPublicKey"] == world.rival.public.hex()
    before = world.http.get("/v1/policies/workers", headers=headers(world, world.acme)).content
    assert world.put_policy(world.rival, version=9).status_code == 201
    assert world.http.get("/v1/policies/workers", headers=headers(world, world.acme)).content == before


def put_key(world: World, tenant: Any, key_id: str, **changes: Any) -> Any:
    return world.put(f"/v1/keys/{key_id}", tenant.sign(PAYLOAD_KEY_RECORD, tenant.record(key_id=key_id, **changes)))


OTHER_MODEL = "sha256:" + "7" * 64


def model(world: World, tenant: Any, **changes: Any) -> Any:
    """A worker whose measured model is another one than the tenant's."""
    found = Domain(world, world.initdata(tenant))
    identity = initdata_form.parse(found.toml).identity.model.to_json_dict()
    return world.domain(tenant, model=identity | changes)


def key_of(world: World, domain: Any, key_id: str) -> str:
    """Who gets what: the key that a domain is given, or why not."""
    result = world.attest(domain)
    if result.status_code != 200:
        return str(result.json()["reason"])
    wrapped = world.release(key_id, result.json()["resultId"]).json()["wrapped"]
    digest = initdata_form.parse(domain.toml).identity.model.digest
    info = hpke.model_key_info(key_id, digest, result.json()["resultId"])
    return hpke.unwrap(domain.hpke, base64.b64decode(wrapped), info).decode()


def test_two_tenants_use_one_key_id(world: World) -> None:
    """For two models, initdata needs no owner: model and key id say whose key it is."""
    assert put_key(world, world.rival, "acme", model_digest=OTHER_MODEL).status_code == 201
    assert key_of(world, world.domain(world.acme), "acme") == world.acme.identity
    assert key_of(world, model(world, world.acme, digest=OTHER_MODEL), "acme") == world.rival.identity
    owners = [view["keyId"] for view in world.http.get("/v1/results", headers=headers(world, world.rival)).json()["results"]]
    assert owners == ["acme"]


def test_two_tenants_use_one_key_id_for_one_model(world: World) -> None:
    """Initdata that names no owner goes on meaning who came first; whoever comes later has its owner measured."""
    assert put_key(world, world.rival, "acme", version=7).status_code == 201
    acme, rival = world.acme.public.hex(), world.rival.public.hex()
    assert key_of(world, world.domain(world.acme), "acme") == world.acme.identity
    assert key_of(world, model(world, world.acme, keyOwner=acme.upper()), "acme") == world.acme.identity
    assert key_of(world, model(world, world.acme, keyOwner=rival), "acme") == world.rival.identity
    assert key_of(world, model(world, world.acme, keyOwner="9" * 64), "acme") == "KeyUnknown"
    for tenant, meant in ((world.acme, True), (world.rival, False)):  # whoever came later is told, and nobody else
        assert world.http.get("/v1/keys/acme", headers=headers(world, tenant)).json()["meantWithoutOwner"] is meant
    # an update keeps its place, also after the other's; a change of the model comes last
    assert put_key(world, world.acme, "acme", version=2).status_code == 201
    assert key_of(world, world.domain(world.acme), "acme") == world.acme.identity
    assert put_key(world, world.acme, "acme", version=3, model_digest=OTHER_MODEL).status_code == 201
    assert put_key(world, world.acme, "acme", version=4).status_code == 201
    assert key_of(world, world.domain(world.acme), "acme") == world.rival.identity


def test_who_is_no_tenants_owner_any_more_stands_in_nobodys_way(world: World) -> None:
    """An owner's key that was replaced by another, or a tenant who was thrown out for taking names first."""
    assert put_key(world, world.rival, "acme").status_code == 201
    assert key_of(world, world.domain(world.acme), "acme") == world.acme.identity  # the twin
    both = world.deps.records._tenants
    left = Tenants([tenant for tenant in both.all if world.acme.public.hex() not in tenant.owner_keys])
    world.deps.records._tenants = left
    world.deps.store._keys_named._held.clear()  # another start
    assert key_of(world, world.domain(world.acme), "acme") == world.rival.identity
    assert key_of(world, model(world, world.acme, keyOwner=world.acme.public.hex()), "acme") == "OwnerNotAllowed"


def test_a_result_stays_its_owners(world: World, reasons: Reasons) -> None:
    """Judged again after its owner has changed the model, it is not taken over by another owner's record of the same name."""
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    assert put_key(world, world.rival, "acme").status_code == 201
    assert put_key(world, world.acme, "acme", version=2, model_digest=OTHER_MODEL).status_code == 201
    world.deps.reappraiser.work()
    view = world.http.get(f"/v1/results/{result}", headers=headers(world, world.acme)).json()
    assert view["revokedReason"] == "ModelMismatch"
    assert reasons(world.release("acme", result)) == ["ResultRevoked"]


def test_another_owners_change_asks_for_nothing_to_be_judged_again(world: World) -> None:
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    for version in (1, 2):
        assert put_key(world, world.rival, "acme", version=version).status_code == 201
    assert world.deps.store.awaited_sweeps(result) == {}
    assert put_key(world, world.acme, "acme", version=2).status_code == 201
    assert world.deps.store.awaited_sweeps(result)  # the twin


def test_who_attests_does_not_learn_which_keys_there_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the model, an id that is used and one that is not have the same answer, after the same work."""
    work: list[str] = []
    appraise = judging.appraise
    monkeypatch.setattr(judging, "appraise", lambda **given: (work.append("appraised"), appraise(**given))[1])
    event.listen(world.deps.store.database.engine, "before_cursor_execute", lambda *given: work.append(given[2].split()[0]))

    def told(key_id: str, **changes: str) -> tuple[Any, list[str]]:
        domain = model(world, world.rival, keyId=key_id, **changes)
        evidence = domain.evidence()
        work.clear()
        answer = world.post("/v1/attest", evidence)
        text = re.sub(r"\(result [-0-9a-f]+\)", "", answer.text).replace(key_id, "X")
        return (answer.status_code, text), list(work)

    for changes in ({"digest": OTHER_MODEL}, {"digest": OTHER_MODEL, "keyOwner": world.acme.public.hex()}):
        told("nothing", **changes)  # statements are prepared
        used, absent = told("acme", **changes), told("absent", **changes)
        assert used == absent
        assert "KeyUnknown" in used[0][1]
        assert "appraised" not in used[1]
    assert told("acme")[0][0] == 200  # the twin: who knows key id and model is judged by that owner's policy


def test_who_has_a_result_does_not_learn_which_other_keys_there_are(world: World, reasons: Reasons) -> None:
    result = world.attest(world.domain(world.rival)).json()["resultId"]
    there, absent = world.release("acme", result), world.release("absent", result)
    assert (there.status_code, there.content) == (absent.status_code, absent.content)
    assert reasons(there) == ["ResultForAnotherKey"]


def test_an_administrator_of_two_owners_names_the_owner(world: World, reasons: Reasons) -> None:
    put_key(world, world.rival, "acme", version=5)
    assert reasons(world.reading("/v1/keys/acme")) == ["MessageMalformed"]  # the operator sees both
    for tenant, version in ((world.acme, 1), (world.rival, 5)):
        found = world.reading(f"/v1/keys/acme?owner={tenant.public.hex().upper()}")
        assert (found.status_code, found.json()["version"]) == (200, version)
    assert reasons(world.reading(f"/v1/keys/acme?owner={'9' * 64}")) == ["NotFound"]
    other = world.http.get(f"/v1/keys/acme?owner={world.acme.public.hex()}", headers=headers(world, world.rival))
    absent = world.http.get(f"/v1/keys/acme?owner={'9' * 64}", headers=headers(world, world.rival))
    assert (other.status_code, other.content) == (absent.status_code, absent.content)
    assert other.status_code == 404


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


def test_results_of_a_database_that_was_set_back(world: World, reasons: Reasons) -> None:
    limited(world, results=2)
    database = world.deps.store.database
    with database.writing() as db:
        db.execute(text("UPDATE counters SET value = 1000 WHERE name = 'changes'"))
    assert world.attest(world.domain(world.acme)).status_code == 200
    with database.writing() as db:  # a standby that lagged by all of that
        db.execute(text("DELETE FROM results"))
        db.execute(text("UPDATE counters SET value = 0 WHERE name = 'changes'"))
    for _ in range(2):
        assert world.attest(world.domain(world.acme)).status_code == 200
    assert reasons(world.attest(world.domain(world.acme))) == ["QuotaExceeded"]


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
