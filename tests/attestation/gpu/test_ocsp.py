"""OCSP answers: what counts, and what an appraisal makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as builders
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation.gpu import chain, ocsp
from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.attestation.gpu.verdict import GpuVerdict
from e2e.simtd.gpu import SimulatedDevice, SimulatedGpus, certificate

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
World = Any
Reasons = Callable[[GpuVerdict], list[str]]
VENDOR = SimulatedGpus.create()
DEVICE = VENDOR.device()
PLACE = 2


def _answers(device: SimulatedDevice, **changes: Any) -> list[bytes]:
    return [device.ocsp(AT, place, **changes) for place in (1, 2, 3)]


def _delegated(*, appointed: bool = True, of_the_issuer: bool = True, nonce: bytes | None = None) -> bytes:
    """An answer of a responder with a certificate of its own."""
    about, issuer = DEVICE.certificates[PLACE], DEVICE.certificates[PLACE + 1]
    key, issuer_key = ec.generate_private_key(ec.SECP384R1()), DEVICE.keys[PLACE + 1]
    signer = issuer_key if of_the_issuer else ec.generate_private_key(ec.SECP384R1())
    responder = certificate("Simulated OCSP responder", key, issuer, signer, ocsp_signing=appointed)
    builder = builders.OCSPResponseBuilder().add_response(
        cert=about,
        issuer=issuer,
        algorithm=hashes.SHA256(),
        cert_status=builders.OCSPCertStatus.GOOD,
        this_update=AT,
        next_update=AT + timedelta(days=1),
        revocation_time=None,
        revocation_reason=None,
    )
    builder = builder.responder_id(builders.OCSPResponderEncoding.NAME, responder).certificates([responder])
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)


def _flipped(response: bytes) -> bytes:
    return response[:-1] + bytes([response[-1] ^ 1])


def _refusal() -> bytes:
    return builders.OCSPResponseBuilder.build_unsuccessful(builders.OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER)


def _reason(response: bytes, *, at: datetime = AT, place: int = PLACE, nonce: bytes | None = None) -> str:
    try:
        [answer] = ocsp.read([response])
        answer.check(DEVICE.certificates[place], DEVICE.certificates[place + 1], at, nonce)
    except GpuError as error:
        return str(error.reason)
    return ""


def test_good_until_the_next_update() -> None:
    [answer] = ocsp.read([DEVICE.ocsp(AT, PLACE)])
    assert answer.check(DEVICE.certificates[PLACE], DEVICE.certificates[PLACE + 1], AT) == AT + timedelta(hours=23)
    assert _reason(_delegated()) == ""
    assert _reason(_delegated(nonce=b"n" * 16), nonce=b"n" * 16) == ""


@pytest.mark.parametrize(
    ("expected", "response", "asked"),
    [
        ("GpuOcspInvalid", b"", {}),
        ("GpuOcspInvalid", bytes(70_000), {}),
        (
            "GpuOcspInvalid",
            _refusal(),
            {},
        ),
        ("GpuOcspInvalid", DEVICE.ocsp(AT, 1), {}),
        ("GpuOcspInvalid", VENDOR.device().ocsp(AT, PLACE), {}),
        ("GpuOcspInvalid", _flipped(DEVICE.ocsp(AT, PLACE)), {}),
        ("GpuOcspInvalid", _delegated(appointed=False), {}),
        ("GpuOcspInvalid", _delegated(of_the_issuer=False), {}),
        ("GpuOcspInvalid", DEVICE.ocsp(AT, PLACE), {"nonce": b"n" * 16}),
        ("GpuOcspInvalid", _delegated(nonce=b"n" * 16), {"nonce": b"m" * 16}),
        ("GpuOcspExpired", DEVICE.ocsp(AT, PLACE), {"at": AT + timedelta(days=1)}),
        ("GpuOcspExpired", DEVICE.ocsp(AT, PLACE), {"at": AT - timedelta(days=1)}),
        ("GpuCertificateRevoked", DEVICE.ocsp(AT, PLACE, revoked=True), {}),
    ],
)
def test_refused(expected: str, response: bytes, asked: dict[str, Any]) -> None:
    assert _reason(response, **asked) == expected


def test_too_many() -> None:
    with pytest.raises(GpuError):
        ocsp.read([b""] * 65)


def test_of_several_good_answers_the_last_end_counts() -> None:
    pair = (DEVICE.certificates[PLACE], DEVICE.certificates[PLACE + 1])
    given = [DEVICE.ocsp(AT - timedelta(hours=hours), PLACE) for hours in (2, 0, 1)]
    assert ocsp.good_until(*pair, ocsp.read(given), AT) == AT + timedelta(hours=23)
    assert ocsp.good_until(*pair, ocsp.read([DEVICE.ocsp(AT, 1)]), AT) is None


def test_in_an_appraisal(world: World, reasons: Reasons) -> None:
    required = world.rules(revocation="Required")
    good = _answers(world.hopper[0])
    verdict = world.judge(rules=required, ocsp_responses=good)
    assert (verdict.accepted, verdict.revocation, verdict.gpus[0].revocation) == (True, "Good", "Good")
    assert (verdict.expires_at, verdict.limited_by) == (AT + timedelta(hours=23), "gpuOcsp.nextUpdate")
    assert reasons(world.judge(rules=required, ocsp_responses=good[1:])) == ["GpuRevocationNotChecked"]
    for optional_or_not in (required, world.rules()):
        revoked = world.judge(rules=optional_or_not, ocsp_responses=[good[0], world.hopper[0].ocsp(AT, 2, revoked=True), good[2]])
        assert (reasons(revoked), revoked.revocation) == (["GpuCertificateRevoked"], "Revoked")
    revocation = world.hopper[0].ocsp(AT, 2, revoked=True)
    for together in ([*good, revocation], [revocation, *good]):  # an older answer that is still current changes nothing
        both = world.judge(rules=required, ocsp_responses=together)
        assert (set(reasons(both)), both.revocation) == ({"GpuCertificateRevoked"}, "Revoked")
    assert reasons(world.judge(ocsp_responses=[b"x"])) == ["GpuOcspInvalid"]
    assert world.judge(ocsp_responses=_answers(world.hopper[1])).revocation == "NotChecked"


def test_the_responders_clock_may_be_a_minute_ahead() -> None:
    begins = AT - timedelta(hours=1)
    assert _reason(DEVICE.ocsp(AT, PLACE), at=begins - timedelta(seconds=ocsp.LEEWAY_SECONDS)) == ""
    assert _reason(DEVICE.ocsp(AT, PLACE), at=begins - timedelta(seconds=ocsp.LEEWAY_SECONDS + 1)) == "GpuOcspExpired"


def test_a_chain_without_its_root_is_not_wholly_checked(world: World, reasons: Reasons, monkeypatch: pytest.MonkeyPatch) -> None:
    required, good = world.rules(revocation="Required"), _answers(world.hopper[0])
    whole = chain.read
    monkeypatch.setattr(chain, "read", lambda pem: replace(whole(pem), complete=False))
    assert reasons(world.judge(rules=required, ocsp_responses=good)) == ["GpuRevocationNotChecked"]
    monkeypatch.undo()
    assert world.judge(rules=required, ocsp_responses=good).accepted  # the twin


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    assert _reason(data) == "GpuOcspInvalid"


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte(position: int, value: int) -> None:
    good = DEVICE.ocsp(AT, PLACE)
    data = bytearray(good)
    data[position % len(data)] ^= value
    found = _reason(bytes(data))
    if found == "":  # outside of what is signed, only a bit that no signature uses may change
        [same], [changed] = ocsp.read([good]), ocsp.read([bytes(data)])
        assert changed.response.tbs_response_bytes == same.response.tbs_response_bytes
        assert changed.response.signature == same.response.signature
    else:
        assert found in ("GpuOcspInvalid", "GpuOcspExpired", "GpuCertificateRevoked")
