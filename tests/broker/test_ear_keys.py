"""Signing keys: one signs, the next is shown before it does, the last still verifies; all below the pinned anchor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from chrysalis.broker.database import Database
from chrysalis.broker.ear_keys import REFRESH_SECONDS, EarKeys, EarKeySettings
from chrysalis.broker.encryption import RootKeyEncryption
from chrysalis.broker.main import assemble
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import ManualClock, unix
from chrysalis.wire import ear
from chrysalis.wire.ear_keys import Algorithm, CertifiedKey

World = Any
ANCHOR = Ed25519PrivateKey.generate()
DAY = 86400


class Sick(RootKeyEncryption):
    """A key service that can be told to fail."""

    well = True

    def encrypt(self, secret: bytes, context: bytes) -> bytes:
        if not self.well:
            raise RuntimeError("down")
        return super().encrypt(secret, context)

    def decrypt(self, sealed: bytes, context: bytes) -> bytes:
        if not self.well:
            raise BrokerError(BrokerReason.KEY_SERVICE_UNAVAILABLE, "down", "wait")
        return super().decrypt(sealed, context)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'broker.db'}")
    yield opened
    opened.close()


def made(database: Database, clock: ManualClock, **settings: Any) -> EarKeys:
    members: dict[str, Any] = {"rotate_after_seconds": DAY, "overlap_seconds": DAY} | settings
    return EarKeys(
        database=database, anchor=ANCHOR, encryption=Sick(bytes(32)), settings=EarKeySettings.model_validate(members), clock=clock
    )


def fall_ill(keys: EarKeys) -> None:
    """Its key service answers no more."""
    sick = keys._encryption
    assert isinstance(sick, Sick)
    sick.well = False


def signer(keys: EarKeys, clock: ManualClock, life: int = 600) -> CertifiedKey:
    now = unix(clock.now())
    found = keys.signer(now, now + life)
    assert isinstance(found, CertifiedKey)
    return found


def shown(keys: EarKeys) -> list[str]:
    return [key["kid"] for key in keys.key_set()["keys"][1:]]


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_keys_follow_each_other(database: Database, clock: ManualClock, algorithm: Algorithm) -> None:
    keys = made(database, clock, algorithm=algorithm)
    kids = []
    for _ in range(4):
        current = signer(keys, clock)
        assert current.certificate.jwk.algorithm is algorithm
        kids.append(current.kid)
        visible = shown(keys)
        assert current.kid in visible
        assert current.certificate.signs_until > unix(clock.now())
        clock.advance(DAY)
        assert signer(keys, clock).kid in visible, "the next key is shown before it signs"
    assert len(set(kids)) == 4
    # The first ended two days after it began to be verified only; the last two are still there.
    assert kids[0] not in shown(keys)
    assert kids[-1] in shown(keys)


def test_what_an_old_key_signed_verifies_until_its_end(world: World) -> None:
    def result() -> str:
        return str(world.attest(world.domain(world.acme)).json()["ear"])

    pinned = world.deps.keys.ear_public
    first = result()
    header = jwt.get_unverified_header(first)
    assert ear.KEY_HEADER in header
    world.deps.ear_keys.rotate("test")
    second = result()
    assert jwt.get_unverified_header(second)["kid"] != header["kid"]
    for token in (first, second):
        ear.verify(token, pinned, world.clock.now())
    listed = {key["kid"]: key for key in world.http.get("/.well-known/jwks.json").json()["keys"]}
    for token in (first, second):
        # What a reader does that knows only JOSE and the key set.
        head = jwt.get_unverified_header(token)
        assert listed[head["kid"]]["alg"] == head["alg"]
        key = jwt.PyJWK(listed[head["kid"]])
        jwt.decode(token, key, algorithms=[head["alg"]], options={"verify_exp": False, "verify_iat": False})
    assert [event.event for event in world.deps.store.audit_log()][-1] == "EarKeyRotated"


def test_a_rotation_lets_the_next_key_sign_at_once(database: Database, clock: ManualClock) -> None:
    keys, replica = made(database, clock), made(database, clock)
    before = signer(keys, clock)
    assert signer(replica, clock).kid == before.kid
    kid = keys.rotate()
    assert signer(keys, clock).kid == kid != before.kid
    assert signer(replica, clock).kid == before.kid, "a replica goes on with what it read"
    clock.advance(REFRESH_SECONDS + 1)
    assert signer(replica, clock).kid == kid
    assert before.kid in shown(replica)
    assert len(shown(replica)) == 3


def test_replicas_make_one_set_of_keys(database: Database, clock: ManualClock) -> None:
    sets = {tuple(shown(made(database, clock))) for _ in range(4)}
    assert len(sets) == 1
    assert len(next(iter(sets))) == 2


def test_a_result_that_outlives_its_key_is_signed_by_the_anchor(database: Database, clock: ManualClock) -> None:
    keys = made(database, clock, overlap_seconds=60)
    now = unix(clock.now())
    assert isinstance(keys.signer(now, now + DAY + 60), CertifiedKey)
    assert keys.signer(now, now + DAY + 61) is ANCHOR


def test_a_long_stop_leaves_no_gap(database: Database, clock: ManualClock) -> None:
    keys = made(database, clock)
    signer(keys, clock)
    clock.advance(30 * DAY)
    current = signer(keys, clock)
    assert current.certificate.nbf == unix(clock.now())
    assert len(shown(keys)) == 2


def test_a_key_service_that_is_down_stops_no_signing(database: Database, clock: ManualClock) -> None:
    keys = made(database, clock)
    before = signer(keys, clock)
    fall_ill(keys)
    clock.advance(DAY - 1)
    assert signer(keys, clock).kid == before.kid
    clock.advance(1)
    assert signer(keys, clock).kid != before.kid, "the next key was there already"
    clock.advance(DAY)
    now = unix(clock.now())
    assert keys.signer(now, now + 600) is ANCHOR


def test_a_key_whose_turn_comes_while_the_key_service_is_down_was_opened_before(database: Database, clock: ManualClock) -> None:
    keys = made(database, clock)
    first = signer(keys, clock)
    clock.advance(REFRESH_SECONDS)
    signer(keys, clock)  # reads again: the next one is there by now
    fall_ill(keys)
    clock.advance(DAY)
    following = signer(keys, clock)
    assert following.kid != first.kid
    # the twin: who comes only now, and has opened none, says why
    late = made(database, clock)
    fall_ill(late)
    with pytest.raises(BrokerError) as caught:
        signer(late, clock)
    assert caught.value.reason == BrokerReason.KEY_SERVICE_UNAVAILABLE


def test_without_any_key_the_failure_is_not_hidden(database: Database, clock: ManualClock) -> None:
    keys = made(database, clock)
    fall_ill(keys)
    with pytest.raises(RuntimeError):
        keys.signer(0, 1)


def test_keys_lie_sealed(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    from chrysalis.wire.ear_keys import to_der

    keys = made(database, clock)
    secret = to_der(signer(keys, clock).private)
    for file in tmp_path.iterdir():
        assert secret not in file.read_bytes()
    with database.writing() as db:
        db.execute(text("UPDATE ear_keys SET kid = 'x' || kid"))
    with pytest.raises(BrokerError) as caught:
        signer(made(database, clock), clock)
    assert caught.value.reason == "StateUnusable"


def test_a_slow_key_service_holds_up_one_thread(database: Database, clock: ManualClock) -> None:
    keys = made(database, clock)
    first = signer(keys, clock)
    clock.advance(DAY)  # the next key signs; one after it has to be made
    began, go_on = threading.Event(), threading.Event()
    encrypt = keys._encryption.encrypt

    def slow(secret: bytes, context: bytes) -> bytes:
        began.set()
        assert go_on.wait(60)
        return encrypt(secret, context)

    keys._encryption.encrypt = slow
    held = threading.Thread(target=keys.key_set)
    held.start()
    assert began.wait(60)
    assert signer(keys, clock).kid != first.kid
    assert len(keys.key_set()["keys"]) == 3
    go_on.set()
    held.join(60)
    assert len(keys.key_set()["keys"]) == 4


def test_a_lost_state_directory_is_not_made_up_for(world: World) -> None:
    """A new EAR key over the old database: no worker pins it, and every result would be refused."""
    assert world.attest(world.domain(world.acme)).status_code == 200
    world.deps.store.close()
    assemble(world.deps.settings, clock=world.clock, fetcher=world.pccs).store.close()
    (world.deps.settings.state_dir / "ear.key").unlink()
    with pytest.raises(BrokerError) as caught:
        assemble(world.deps.settings, clock=world.clock, fetcher=world.pccs)
    assert caught.value.reason == BrokerReason.STATE_UNUSABLE
    assert "another EAR key" in caught.value.message
