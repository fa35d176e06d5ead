"""DSSE envelopes: the exact bytes, the exact type, a trusted key."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.api.policy import Envelope, EnvelopeSignature
from chrysalis.wire import dsse
from chrysalis.wire.reasons import WireError, WireReason

TYPE = "application/vnd.chrysalis.test.v1+json"
OWNER = Ed25519PrivateKey.generate()
STRANGER = Ed25519PrivateKey.generate()
RAW = OWNER.public_key().public_bytes_raw()


def test_the_encoding_is_that_of_the_specification() -> None:
    # The example of the DSSE protocol document.
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@given(st.binary(max_size=300))
def test_what_is_signed_comes_back(payload: bytes) -> None:
    assert dsse.verify(dsse.sign(TYPE, payload, OWNER), TYPE, [RAW]) == dsse.Verified(payload, RAW)


def _changed(envelope: Envelope) -> Envelope:
    return envelope.model_copy(update={"payload": base64.b64encode(b"other").decode()})


def _resigned(sig: str) -> Callable[[Envelope], Envelope]:
    return lambda envelope: envelope.model_copy(update={"signatures": [EnvelopeSignature(keyid=RAW.hex(), sig=sig)]})


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("type", lambda e: e.model_copy(update={"payload_type": "text/plain"}), WireReason.ENVELOPE_TYPE_MISMATCH),
        ("payload", _changed, WireReason.ENVELOPE_SIGNATURE_INVALID),
        ("base64 of the payload", lambda e: e.model_copy(update={"payload": "!"}), WireReason.ENVELOPE_MALFORMED),
        ("base64 of the signature", _resigned("!"), WireReason.ENVELOPE_MALFORMED),
        ("short signature", _resigned("AAAA"), WireReason.ENVELOPE_SIGNATURE_INVALID),
        ("stranger who claims the owner's keyid", lambda e: dsse.sign(TYPE, b"{}", STRANGER).model_copy(
            update={"signatures": [EnvelopeSignature(keyid=RAW.hex(), sig=dsse.sign(TYPE, b"{}", STRANGER).signatures[0].sig)]}
        ), WireReason.ENVELOPE_SIGNATURE_INVALID),
        ("stranger", lambda e: dsse.sign(TYPE, b"{}", STRANGER), WireReason.ENVELOPE_SIGNATURE_INVALID),
    ],
)  # fmt: skip
def test_refusals(name: str, change: Callable[[Envelope], Envelope], reason: WireReason) -> None:
    good = dsse.sign(TYPE, b"{}", OWNER)
    assert dsse.verify(good, TYPE, [RAW]).payload == b"{}"
    with pytest.raises(WireError) as caught:
        dsse.verify(change(good), TYPE, [RAW])
    assert caught.value.reason == reason


def test_no_trusted_key_means_no_trust() -> None:
    with pytest.raises(WireError):
        dsse.verify(dsse.sign(TYPE, b"{}", OWNER), TYPE, [])
