"""The list of recalled keys: only the anchor's word, as old as its reader takes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.clock import ManualClock, unix
from chrysalis.receipts import jws
from chrysalis.wire import recalls
from chrysalis.wire.reasons import WireError
from chrysalis.wire.recalls import RecalledKey, RecallList, open_list

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
KID = "A" * 43


def made(clock: ManualClock) -> RecallList:
    now = unix(clock.now())
    return RecallList(iat=now, keys=[RecalledKey(kid=KID, recalled_at=now)])


def test_what_is_signed_is_read(clock: ManualClock) -> None:
    found = open_list(made(clock).sign(KEY), PUBLIC)
    assert found == made(clock)
    assert found.kids == {KID}


@pytest.mark.parametrize(
    "make",
    [
        lambda clock: made(clock).sign(Ed25519PrivateKey.generate()),
        lambda clock: jws.sign("chrysalis-ear-key+jwt", made(clock).to_json_dict(), KEY),
        lambda clock: jws.sign(recalls.TYP, {"iat": 1}, KEY),
        lambda clock: jws.sign(recalls.TYP, {"iat": 1, "keys": [{"kid": "short", "recalledAt": 1}]}, KEY),
        lambda clock: jws.sign(recalls.TYP, made(clock).to_json_dict() | {"more": 1}, KEY),
        lambda clock: "",
    ],
    ids=["stranger", "another type", "no keys", "no kid", "unknown member", "empty"],
)
def test_anything_else_is_refused(clock: ManualClock, make: Callable[[ManualClock], str]) -> None:
    open_list(made(clock).sign(KEY), PUBLIC)  # the twin
    with pytest.raises(WireError) as caught:
        open_list(make(clock), PUBLIC)
    assert caught.value.reason == "RecallsInvalid"
    assert caught.value.remedy


def test_age_is_bounded_where_the_reader_bounds_it(clock: ManualClock) -> None:
    found = made(clock)
    for seconds in (-recalls.LEEWAY_SECONDS, 0, 600):
        found.check_age(clock.now() + timedelta(seconds=seconds), 600)
    for seconds in (-recalls.LEEWAY_SECONDS - 1, 601):
        with pytest.raises(WireError) as caught:
            found.check_age(clock.now() + timedelta(seconds=seconds), 600)
        assert caught.value.reason == "RecallsTooOld"


@given(text=st.text(max_size=200))
def test_any_text(text: str) -> None:
    with pytest.raises(WireError):
        open_list(text, PUBLIC)
