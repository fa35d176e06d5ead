"""Tokens that this process signed are not verified again; any other is, and times are checked in each case."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import text

from chrysalis.broker.signed_results import SignedResults
from chrysalis.wire import ear
from chrysalis.wire.ear import Opened
from chrysalis.wire.reasons import WireError, WireReason


@pytest.fixture
def token(world: Any) -> str:
    result: str = world.attest(world.domain(world.acme)).json()["ear"]
    return result


def test_what_was_signed_is_what_verifying_gives(world: Any, token: str) -> None:
    public, now = world.deps.keys.ear_public, world.clock.now()
    opened = ear.open_token(token, public)
    kept = SignedResults()
    kept.remember(token, opened)
    assert kept.open(token, b"\1" * 32, now) == ear.verify(token, public, now)  # not verified: another key does not matter
    assert SignedResults().open(token, public, now) == opened.ear  # a token of another replica, or of before the restart


def test_a_token_that_differs_in_one_character_is_verified(world: Any, token: str) -> None:
    public, now = world.deps.keys.ear_public, world.clock.now()
    kept = SignedResults()
    kept.remember(token, ear.open_token(token, public))
    head, payload, signature = token.split(".")
    other = ".".join((head, payload, ("A" if signature[0] != "A" else "B") + signature[1:]))
    with pytest.raises(WireError) as caught:
        kept.open(other, public, now)
    assert caught.value.reason == WireReason.EAR_SIGNATURE_INVALID


def test_a_remembered_token_still_ends(world: Any, token: str) -> None:
    public = world.deps.keys.ear_public
    opened = ear.open_token(token, public)
    kept = SignedResults()
    kept.remember(token, opened)
    world.clock.advance(opened.ear.exp - opened.ear.iat - 1)
    kept.open(token, public, world.clock.now())
    world.clock.advance(1)
    with pytest.raises(WireError) as caught:
        kept.open(token, public, world.clock.now())
    assert caught.value.reason == WireReason.EAR_EXPIRED


def test_only_so_many_are_remembered(world: Any, token: str) -> None:
    opened = ear.open_token(token, world.deps.keys.ear_public)
    kept = SignedResults(size=2)
    for number in range(3):
        kept.remember(f"token-{number}", Opened(opened.ear, None))
    assert kept.open("token-1", b"", world.clock.now()) == kept.open("token-2", b"", world.clock.now())
    with pytest.raises(WireError):
        kept.open("token-0", world.deps.keys.ear_public, world.clock.now())


def test_who_can_write_to_the_database_gets_no_key(world: Any) -> None:
    """The token that the broker signed a moment ago is remembered; that does not make another one beside it good."""
    answer = world.attest(world.domain(world.acme)).json()
    result_id = answer["resultId"]
    stored = world.deps.store.result(result_id)
    document = json.loads(stored.document)
    forged = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    claims = ear.open_token(answer["ear"], world.deps.keys.ear_public).ear
    other = claims.model_copy(update={"keys": claims.keys.model_copy(update={"hpke": forged})})
    document["ear"] = other.sign(Ed25519PrivateKey.generate())
    with world.deps.store.database.writing() as db:
        db.execute(text("UPDATE results SET document = :d WHERE result_id = :r"), {"d": json.dumps(document), "r": result_id})
    refused = world.release(world.acme.record().key_id, result_id)
    assert refused.status_code == 400
    assert refused.json()["reason"] == WireReason.EAR_SIGNATURE_INVALID
