"""A signing key that was stolen: the broker recalls it, says so, ends what it signed, and believes it no more itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select, text, update

from chrysalis.broker import backup, secret_keys
from chrysalis.broker.ear_keys import EarKeys
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.tables import results
from chrysalis.clock import unix
from chrysalis.wire import ear
from chrysalis.wire.bundle import BundleFile
from chrysalis.wire.bundle_judgement import judge
from chrysalis.wire.bundle_verdict import Expectations
from chrysalis.wire.ear_keys import CertifiedKey, Jwk
from chrysalis.wire.reasons import WireError
from chrysalis.wire.recalls import open_list
from tests.broker.conftest import Domain

World = Any
Reasons = Callable[[Any], list[str]]


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def listed(world: World) -> Any:
    return open_list(world.http.get("/.well-known/ear-recalls").json()["recalls"], world.deps.keys.ear_public)


def replica(world: World) -> EarKeys:
    """The signing keys as another process over the same database has them."""
    return EarKeys(
        database=world.deps.store.database,
        anchor=world.deps.keys.ear_key,
        encryption=secret_keys.keyring(world.deps.settings, world.clock),
        settings=world.deps.settings.ear_keys,
        clock=world.clock,
    )


def test_more_keys_than_a_list_holds_are_not_recalled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recall is never taken back, so one too many would end the list for good."""
    monkeypatch.setattr("chrysalis.broker.ear_keys.MAX_RECALLED", 3)
    kids = [letter * 43 for letter in "abcd"]
    with pytest.raises(BrokerError) as caught:
        world.deps.ear_keys.recall(kids, reason="typed wrong")
    assert caught.value.reason == "StateUnusable"
    assert listed(world).keys == []
    assert world.deps.ear_keys.recall(kids[:3], reason="stolen").kids == kids[:3]  # the twin
    assert listed(world).kids == set(kids[:3])


def test_a_recall_ends_what_the_key_signed_and_is_published(world: World, reasons: Reasons) -> None:
    old = world.attest(world.domain(world.acme)).json()
    assert listed(world).keys == []
    assert old["recalls"] == ""
    world.deps.ear_keys.rotate()
    other = world.attest(world.domain(world.rival)).json()
    kid = kid_of(old["ear"])
    before = world.deps.store.change_number()
    done = world.deps.ear_keys.recall([kid], reason="stolen")
    assert (done.kids, done.ended) == ([kid], 1)
    assert listed(world).kids == {kid}
    assert kid not in {key["kid"] for key in world.http.get("/.well-known/jwks.json").json()["keys"]}
    assert reasons(world.release("acme", old["resultId"])) == ["ResultRevoked"]
    assert world.release("rival", other["resultId"]).status_code == 200  # the twin: another key signed it
    changes = world.reading(f"/v1/results?wait=1&after={before}").json()["results"]
    assert ("KeyRecalled", old["resultId"]) in {(change["revokedReason"], change["resultId"]) for change in changes}
    log = list(world.deps.store.audit_log())
    (record,) = [record for record in log if record.event == "EarKeyRecalled"]
    blind = record.document["blind"]
    assert record.document == {"kids": [kid], "ended": 1, "reason": "stolen", "blind": blind}
    fresh = world.attest(world.domain(world.acme)).json()
    assert kid_of(fresh["ear"]) != kid
    assert open_list(fresh["recalls"], world.deps.keys.ear_public).kids == {kid}
    again = world.deps.ear_keys.recall([kid])
    assert (again.kids, again.ended) == ([], 0)


def test_the_key_that_signs_now_is_recalled_by_default_and_another_signs(world: World) -> None:
    first = kid_of(world.attest(world.domain(world.acme)).json()["ear"])
    assert world.deps.ear_keys.recall(reason="r").kids == [first]
    second = world.attest(world.domain(world.acme)).json()["ear"]
    assert isinstance(world.deps.ear_keys.signer(unix(world.clock.now()), unix(world.clock.now()) + 60), CertifiedKey)
    assert kid_of(second) != first
    ear.verify(second, world.deps.keys.ear_public, world.clock.now(), listed(world))


def test_all_keys_are_recalled_where_the_database_leaked(world: World) -> None:
    before = {key["kid"] for key in world.http.get("/.well-known/jwks.json").json()["keys"][1:]}
    assert len(before) == 2
    assert set(world.deps.ear_keys.recall(every=True, reason="r").kids) == before
    after = {key["kid"] for key in world.http.get("/.well-known/jwks.json").json()["keys"][1:]}
    assert len(after) == 2
    assert not before & after


def test_the_pinned_key_itself_cannot_be_recalled(world: World) -> None:
    anchor = Jwk.of(world.deps.keys.ear_key.public_key()).kid
    with pytest.raises(BrokerError, match="pinned key"):
        world.deps.ear_keys.recall([anchor])
    assert listed(world).keys == []


def test_a_replica_stores_nothing_that_a_recalled_key_signed(world: World) -> None:
    """It has read its keys a moment ago; the recall at another one counts at once."""
    first = kid_of(world.attest(world.domain(world.acme)).json()["ear"])
    replica(world).recall(reason="r")
    answer = world.attest(world.domain(world.acme)).json()
    assert kid_of(answer["ear"]) != first
    now = unix(world.clock.now())
    shown = replica(world)
    assert kid_of(answer["ear"]) == getattr(shown.signer(now, now + 60), "kid", "")


def test_a_recall_between_the_signature_and_the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is judged and signed again: what is stored and answered is not the recalled key's."""
    elsewhere = replica(world)
    signed: list[str] = []
    keep = world.deps.store.keep

    def late(result: Any, **members: Any) -> Any:
        if not signed:
            elsewhere.recall(reason="r")
        signed.append(kid_of(json.loads(result.document)["ear"]))
        return keep(result, **members)

    monkeypatch.setattr(world.deps.store, "keep", late)
    answer = world.attest(world.domain(world.acme)).json()
    assert len(set(signed)) == 2
    assert kid_of(answer["ear"]) == signed[-1]
    assert signed[0] in listed(world).kids


def forge(world: World, domain: Domain, victim: str) -> str:
    """What a thief of signing key and database does: a result of his own making in place of a living one."""
    now = unix(world.clock.now())
    key = world.deps.ear_keys.signer(now, now + 60)
    with world.deps.store.database.reading() as db:
        document = json.loads(db.execute(select(results.c.document).where(results.c.result_id == victim)).scalar_one())
    claims = ear.open_token(document["ear"], world.deps.keys.ear_public).ear
    token = claims.model_copy(update={"keys": domain.keys}).sign(key)
    with world.deps.store.database.writing() as db:
        db.execute(
            update(results).where(results.c.result_id == victim).values(document=json.dumps(document | {"ear": token}), revoked_at=None)
        )
    return token


def test_a_forged_result_gets_no_key_after_the_recall(world: World, reasons: Reasons) -> None:
    domain = world.domain(world.acme)
    victim = world.attest(domain).json()["resultId"]
    thief = world.domain(world.acme)
    thief.hpke = X25519PrivateKey.generate()
    forge(world, thief, victim)
    assert world.release("acme", victim).status_code == 200, "what a stolen key is worth before anybody knows"
    forged = forge(world, thief, victim)
    world.deps.ear_keys.recall([kid_of(forged)], reason="stolen")
    revive(world)
    assert reasons(world.release("acme", victim)) == ["KeyRecalled"]
    fresh = world.attest(domain).json()["resultId"]
    assert world.release("acme", fresh).status_code == 200  # the twin


def revive(world: World) -> None:
    """The thief still writes to the database."""
    with world.deps.store.database.writing() as db:
        db.execute(text("UPDATE results SET revoked_at = NULL, revoked_reason = NULL"))


def forged_at_two_replicas(world: World) -> tuple[EarKeys, str, str]:
    """Another replica, a forged result, and the key that signed it; this replica has read the list a moment ago."""
    victim = world.attest(world.domain(world.acme)).json()["resultId"]
    thief = world.domain(world.acme)
    thief.hpke = X25519PrivateKey.generate()
    kid = kid_of(forge(world, thief, victim))
    assert world.release("acme", victim).status_code == 200
    assert world.deps.ear_keys.recalled() == frozenset()
    return replica(world), victim, kid


def test_a_recall_at_another_replica_holds_at_the_next_release(world: World, reasons: Reasons) -> None:
    elsewhere, victim, kid = forged_at_two_replicas(world)
    elsewhere.recall([kid], reason="stolen")
    revive(world)
    assert reasons(world.release("acme", victim)) == ["KeyRecalled"]
    fresh = world.attest(world.domain(world.acme)).json()["resultId"]
    assert world.release("acme", fresh).status_code == 200  # the twin


def test_a_recall_between_a_releases_check_and_its_record(world: World, reasons: Reasons, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere, victim, kid = forged_at_two_replicas(world)
    record, late = world.deps.store.record_release, []

    def recalled_first(*members: Any) -> bool:
        late.append(members)
        elsewhere.recall([kid], reason="stolen")
        revive(world)
        return bool(record(*members))

    monkeypatch.setattr(world.deps.store, "record_release", recalled_first)
    assert reasons(world.release("acme", victim)) == ["KeyRecalled"]
    assert len(late) == 1


def test_a_recall_at_another_replica_is_published_at_once(world: World) -> None:
    result = world.attest(world.domain(world.acme)).json()
    assert listed(world).keys == []
    replica(world).recall([kid_of(result["ear"])], reason="stolen")
    bundle = BundleFile.read(world.reading(f"/v1/bundles/{result['resultId']}").content).bundle
    assert open_list(bundle.recalls, world.deps.keys.ear_public).kids == listed(world).kids == {kid_of(result["ear"])}


def test_a_bundle_carries_the_list_and_is_judged_by_it(world: World) -> None:
    answer = world.attest(world.domain(world.acme)).json()
    path = f"/v1/bundles/{answer['resultId']}"
    early = BundleFile.read(world.reading(path).content)
    expect = Expectations(ear_key=world.deps.keys.ear_public)
    assert judge(early, expect).accepted
    world.deps.ear_keys.recall([kid_of(answer["ear"])], reason="r")
    late = judge(BundleFile.read(world.reading(path).content), expect)
    assert not late.accepted
    assert "KeyRecalled" in {reason.reason for reason in late.reasons}
    # An auditor with the early bundle and a newer list knows it, too.
    token = world.http.get("/.well-known/ear-recalls").json()["recalls"]
    told = judge(early, Expectations(ear_key=world.deps.keys.ear_public, recalls=token))
    assert "KeyRecalled" in {reason.reason for reason in told.reasons}
    invalid = judge(early, Expectations(ear_key=world.deps.keys.ear_public, recalls="x.y.z"))
    assert "RecallsInvalid" in {reason.reason for reason in invalid.reasons}


def test_a_backup_holds_the_recalls(world: World, tmp_path: Path) -> None:
    world.deps.ear_keys.maintain()
    world.deps.ear_keys.recall(reason="r")
    encryption = secret_keys.keyring(world.deps.settings, world.clock)
    made = backup.write(
        tmp_path / "b.tar", database=world.deps.store.database, keys=world.deps.keys, encryption=encryption, clock=world.clock
    )
    assert made.rows["recalled_keys"] == 1


def test_who_does_not_ask_for_the_list_believes_the_stolen_key(world: World) -> None:
    """Said in docs/broker-keys.md: a reader that only pins the anchor cannot know."""
    token = world.attest(world.domain(world.acme)).json()["ear"]
    world.deps.ear_keys.recall(reason="r")
    ear.verify(token, world.deps.keys.ear_public, world.clock.now())
    with pytest.raises(WireError) as caught:
        ear.verify(token, world.deps.keys.ear_public, world.clock.now(), listed(world))
    assert caught.value.reason == "KeyRecalled"
