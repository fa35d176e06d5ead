"""What of a quote is proved before there is collateral: every link of the line of signatures, cut in turn."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from chrysalis.attestation import pck_chain, quote
from chrysalis.attestation.anchor import INTEL_ANCHOR, from_der
from chrysalis.attestation.pck_chain import Platform, claimed, prove
from chrysalis.attestation.quote import HEADER_BYTES, Quote
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.clock import from_unix
from e2e.simtd.pki import SimulatedPlatform, public_bytes, raw_signature

AT = datetime(2026, 11, 1, tzinfo=UTC)
PLATFORM, OTHER = SimulatedPlatform.create(), SimulatedPlatform.create(fmspc=bytes.fromhex("00906ed50000"))
ANCHOR = from_der(PLATFORM.root_der)


def parsed(raw: bytes) -> Quote:
    return quote.parse(quote.read(raw))


@pytest.mark.parametrize("version", [4, 5])
def test_a_genuine_quote_proves_its_platform(version: int) -> None:
    found = parsed(PLATFORM.quote(version=version))
    assert prove(found, ANCHOR, AT) == claimed(found) == Platform("51D000000000", "platform")


def _changed(at: int) -> bytes:
    raw = bytearray(PLATFORM.quote())
    raw[at] ^= 1
    return bytes(raw)


SIGNATURE = HEADER_BYTES + 584 + 4
QE_REPORT = SIGNATURE + 128 + 6
PLACES = {
    "header": 20,
    "report": HEADER_BYTES + 100,
    "report's last byte": HEADER_BYTES + 583,
    "signature": SIGNATURE,
    "QE report": QE_REPORT + 1,
    "QE report's data": QE_REPORT + 320,
    "QE signature": QE_REPORT + 384,
    "authentication data": QE_REPORT + 384 + 64 + 2,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_byte_breaks_the_line(place: str) -> None:
    with pytest.raises(AttestationError) as caught:
        prove(parsed(_changed(PLACES[place])), ANCHOR, AT)
    assert caught.value.reason == AttestationReason.SIGNATURE_INVALID


def test_another_attestation_key_is_not_vouched_for() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    raw = bytearray(PLATFORM.quote())
    raw[SIGNATURE : SIGNATURE + 64] = raw_signature(key, bytes(raw[: SIGNATURE - 4]))
    raw[SIGNATURE + 64 : SIGNATURE + 128] = public_bytes(key)
    with pytest.raises(AttestationError) as caught:
        prove(parsed(bytes(raw)), ANCHOR, AT)
    assert caught.value.reason == AttestationReason.SIGNATURE_INVALID


def test_a_key_that_is_no_point() -> None:
    raw = bytearray(PLATFORM.quote())
    raw[SIGNATURE + 64 : SIGNATURE + 128] = b"\xff" * 64
    with pytest.raises(AttestationError) as caught:
        prove(parsed(bytes(raw)), ANCHOR, AT)
    assert caught.value.reason in (AttestationReason.SIGNATURE_INVALID, AttestationReason.CERTIFICATE_INVALID)


@pytest.mark.parametrize(
    ("name", "chain", "reason"),
    [
        ("another platform's chain", OTHER.pck_chain, AttestationReason.TRUST_ROOT_MISMATCH),
        ("no chain", "junk", AttestationReason.CERTIFICATE_INVALID),
        ("no PCK certificate", PLATFORM.pck_chain.split("-----END CERTIFICATE-----\n", 1)[1], AttestationReason.CERTIFICATE_INVALID),
    ],
)
def test_a_chain_of_somebody_else(name: str, chain: str, reason: AttestationReason) -> None:
    with pytest.raises(AttestationError) as caught:
        prove(parsed(PLATFORM.quote(chain=chain)), ANCHOR, AT)
    assert caught.value.reason == reason


def test_a_strangers_platform_under_intels_root() -> None:
    with pytest.raises(AttestationError) as caught:
        prove(parsed(PLATFORM.quote()), INTEL_ANCHOR, AT)
    assert caught.value.reason == AttestationReason.TRUST_ROOT_MISMATCH


@pytest.mark.parametrize("chain", ["junk", PLATFORM.pck_chain.split("-----END CERTIFICATE-----\n", 1)[1]])
def test_a_quote_that_names_no_platform(chain: str) -> None:
    with pytest.raises(AttestationError):
        claimed(parsed(PLATFORM.quote(chain=chain)))


def test_signatures_of_another_length_are_none() -> None:
    key = PLATFORM.keys["tcb"]
    good = raw_signature(key, b"data")
    assert pck_chain.verify_raw(key.public_key(), good, b"data")
    assert not pck_chain.verify_raw(key.public_key(), good[:-1], b"data")
    assert not pck_chain.verify_raw(key.public_key(), bytes(64), b"data")
    assert not pck_chain.verify_raw(key.public_key(), good, b"date")


@pytest.mark.vectors
def test_every_real_quote_proves_its_platform(vectors: Path) -> None:
    outcomes = json.loads((vectors / "MANIFEST.json").read_text())["outcomes"]
    for item in outcomes:
        found = parsed((vectors / item["quote"]).read_bytes())
        proved = prove(found, INTEL_ANCHOR, from_unix(item["now"]))
        assert proved == claimed(found)
        assert proved.fmspc == item["fmspc"].upper()
    assert len(outcomes) == 21
