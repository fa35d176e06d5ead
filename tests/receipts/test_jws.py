"""The strict form of compact JWS: one row for each way to be wrong, each with the sound token as its twin."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.receipts import jws, worker_id
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
TYP = "chrysalis-test+jwt"
CLAIMS = {"a": "1", "n": 2, "list": [{"x": "y"}]}


def make(header: str | None = None, payload: str | None = None, *, key: Ed25519PrivateKey = KEY) -> str:
    """A token of any header and payload text, signed correctly."""
    head = header or json.dumps({"alg": "EdDSA", "kid": jws.thumbprint(PUBLIC), "typ": TYP}, separators=(",", ":"))
    signed = f"{jws.b64u(head.encode())}.{jws.b64u((payload or json.dumps(CLAIMS)).encode())}"
    return f"{signed}.{jws.b64u(key.sign(signed.encode()))}"


def header(**changes: object) -> str:
    members = {"alg": "EdDSA", "kid": jws.thumbprint(PUBLIC), "typ": TYP} | changes
    return json.dumps({k: v for k, v in members.items() if v is not None})


def flip_last_bit_of_padding(token: str) -> str:
    """The same signature bytes in base64url whose unused trailing bits are not zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    changed = token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]
    assert base64.urlsafe_b64decode(changed.split(".")[2] + "==") == base64.urlsafe_b64decode(token.split(".")[2] + "==")
    return changed


def test_sound_token_is_opened() -> None:
    assert jws.verify(make(), TYP, PUBLIC) == CLAIMS
    assert jws.verify(jws.sign(TYP, CLAIMS, KEY), TYP, PUBLIC) == CLAIMS


def test_another_library_reads_what_we_sign() -> None:
    token = jws.sign(TYP, CLAIMS, KEY)
    assert jwt.decode(token, KEY.public_key(), algorithms=["EdDSA"]) == CLAIMS


def test_thumbprint_is_the_example_of_rfc_8037() -> None:
    public = jws.from_b64u("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
    assert jws.thumbprint(public) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_worker_id_is_the_hash_of_the_spki() -> None:
    from hashlib import sha256

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert worker_id(PUBLIC) == sha256(spki).hexdigest()
    with pytest.raises(ValueError, match="32 bytes"):
        worker_id(PUBLIC[:31])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(lambda: make(header(alg="none")), ReceiptReason.OBJECT_MALFORMED, id="alg none"),
        pytest.param(lambda: make(header(alg="HS256")), ReceiptReason.OBJECT_MALFORMED, id="other alg"),
        pytest.param(lambda: make(header(crit=["x"])), ReceiptReason.OBJECT_MALFORMED, id="unknown header member"),
        pytest.param(lambda: make(header(typ=None)), ReceiptReason.OBJECT_MALFORMED, id="no typ"),
        pytest.param(lambda: make(header(kid=3)), ReceiptReason.OBJECT_MALFORMED, id="kid is no string"),
        pytest.param(lambda: make(header()[:-1] + ',"alg":"EdDSA"}'), ReceiptReason.OBJECT_MALFORMED, id="duplicate header member"),
        pytest.param(lambda: make(header(typ="chrysalis-other+jwt")), ReceiptReason.OBJECT_TYPE_UNEXPECTED, id="other typ"),
        pytest.param(lambda: make(header(kid="x" * 43)), ReceiptReason.OBJECT_KEY_UNEXPECTED, id="other kid"),
        pytest.param(lambda: make(key=Ed25519PrivateKey.generate()), ReceiptReason.SIGNATURE_INVALID, id="other key"),
        pytest.param(lambda: make(payload='{"a":1,"a":1}'), ReceiptReason.OBJECT_MALFORMED, id="duplicate member"),
        pytest.param(lambda: make(payload='{"a":{"b":1,"b":2}}'), ReceiptReason.OBJECT_MALFORMED, id="duplicate nested member"),
        pytest.param(lambda: make(payload='{"a":1.0}'), ReceiptReason.OBJECT_MALFORMED, id="float"),
        pytest.param(lambda: make(payload='{"a":NaN}'), ReceiptReason.OBJECT_MALFORMED, id="NaN"),
        pytest.param(lambda: make(payload="[1]"), ReceiptReason.OBJECT_MALFORMED, id="payload is a list"),
        pytest.param(lambda: make(payload="[" * 100_000), ReceiptReason.OBJECT_MALFORMED, id="deep nesting"),
        pytest.param(lambda: make(payload='{"a":' + "9" * 5000 + "}"), ReceiptReason.OBJECT_MALFORMED, id="endless number"),
        pytest.param(lambda: make() + "=", ReceiptReason.OBJECT_MALFORMED, id="padding"),
        pytest.param(lambda: flip_last_bit_of_padding(make()), ReceiptReason.OBJECT_MALFORMED, id="trailing bits"),
        pytest.param(lambda: make() + ".e30", ReceiptReason.OBJECT_MALFORMED, id="four parts"),
        pytest.param(lambda: make().rpartition(".")[0], ReceiptReason.OBJECT_MALFORMED, id="two parts"),
        pytest.param(lambda: make().rpartition(".")[0] + ".", ReceiptReason.SIGNATURE_INVALID, id="empty signature"),
        pytest.param(lambda: "ä" + make(), ReceiptReason.OBJECT_MALFORMED, id="not ASCII"),
        pytest.param(lambda: make().replace(".", ". ", 1), ReceiptReason.OBJECT_MALFORMED, id="a space"),
        pytest.param(lambda: make() + "\n", ReceiptReason.OBJECT_MALFORMED, id="a newline"),
        pytest.param(lambda: "A" * (jws.MAX_TOKEN_BYTES + 1), ReceiptReason.OBJECT_MALFORMED, id="too long"),
    ],
)
def test_refused(bad: Callable[[], str], reason: ReceiptReason) -> None:
    with pytest.raises(ReceiptError) as caught:
        jws.verify(bad(), TYP, PUBLIC)
    assert caught.value.reason == reason
    assert caught.value.remedy


@given(st.one_of(st.text(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,90}", fullmatch=True)))
def test_no_input_raises_anything_but_a_receipt_error(text: str) -> None:
    with pytest.raises(ReceiptError):
        jws.verify(text, TYP, PUBLIC)


@given(st.data())
def test_one_changed_character_is_refused(data: st.DataObject) -> None:
    token = jws.sign(TYP, CLAIMS, KEY)
    position = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from([c for c in "ABCabc019-_.=+" if c != token[position]]))
    with pytest.raises(ReceiptError):
        jws.verify(token[:position] + other + token[position + 1 :], TYP, PUBLIC)


@given(st.binary(max_size=80))
def test_base64url_goes_both_ways(data: bytes) -> None:
    assert jws.from_b64u(jws.b64u(data)) == data
