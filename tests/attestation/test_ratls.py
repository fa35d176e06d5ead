"""Evidence in a certificate's extension."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation import ratls
from chrysalis.attestation.reasons import AttestationError


@given(st.binary(max_size=6000), st.binary(max_size=300))
def test_what_is_written_is_read(quote: bytes, claims: bytes) -> None:
    assert ratls.parse_extension(ratls.extension(quote, claims)) == (quote, claims)


def test_the_bytes() -> None:
    assert ratls.OID == "2.23.133.5.4.9"
    assert ratls.extension(b"q", b"c").hex() == "d9ea60" + "82" + "4171" + "4163"  # tag 60000, [quote, claims-buffer]


def test_too_much_for_a_certificate() -> None:
    ratls.extension(bytes(16_000), b"")
    with pytest.raises(AttestationError, match="16391"):
        ratls.extension(bytes(16 * 1024 - 5), b"c" * 4)


GOOD = ratls.extension(b"quote", b"claims")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\0",
        cbor2.dumps([b"quote", b"claims"]),
        cbor2.dumps(cbor2.CBORTag(60001, [b"quote", b"claims"])),
        cbor2.dumps(cbor2.CBORTag(60000, [b"quote"])),
        cbor2.dumps(cbor2.CBORTag(60000, [b"quote", b"claims", b""])),
        cbor2.dumps(cbor2.CBORTag(60000, ["quote", b"claims"])),
        cbor2.dumps(cbor2.CBORTag(60000, 5)),
        b"\x9f" * 1000,
        bytes(17_000),
    ],
)
def test_another_form_is_refused(value: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        ratls.parse_extension(value)
    assert caught.value.reason == "RaTlsInvalid"


@given(st.binary(max_size=300))
def test_any_bytes_are_evidence_or_refused(data: bytes) -> None:
    try:
        ratls.parse_extension(data)
    except AttestationError:
        pass
