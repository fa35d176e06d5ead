"""Revocation of a RIM's signers: what OCSP answers say of the certificates below the RIM root, and what counts as no answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as builders

from chrysalis.api.policy_gpu import GpuRevocation
from chrysalis.attestation.gpu import ocsp, rim, rim_signers
from chrysalis.attestation.gpu.reasons import GpuError
from e2e.simtd.gpu import RimShape, SimulatedGpus, certificate, ocsp_answer

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
VENDOR, OTHER = SimulatedGpus.create(), SimulatedGpus.create()
SIGNER, CA, ROOT = VENDOR.rim_signers
CA_KEY, ROOT_KEY = VENDOR.keys["rim-ca"], VENDOR.keys["rim-root"]
IMPOSTOR, IMPOSTOR_KEY = OTHER.rim_signers[1], OTHER.keys["rim-ca"]
"""An authority of the same name, and another key."""
GOOD = [VENDOR.rim_ocsp(AT, place) for place in (0, 1)]
EARLIER, LATER = AT - timedelta(days=2), AT + timedelta(days=2)
REFUSAL = builders.OCSPResponseBuilder.build_unsuccessful(builders.OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER)


def _about_signer(
    responder: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    *,
    status: builders.OCSPCertStatus = builders.OCSPCertStatus.GOOD,
    by_name: bool = False,
    attached: bool = False,
) -> bytes:
    """An answer about the signer that this responder signed.

    by_name: whether it says by name who that is.  attached: whether it carries the responder's certificate.
    """
    builder = builders.OCSPResponseBuilder().add_response(
        cert=SIGNER,
        issuer=CA,
        algorithm=hashes.SHA384(),
        cert_status=status,
        this_update=AT,
        next_update=AT + timedelta(days=1),
        revocation_time=None,
        revocation_reason=None,
    )
    encoding = builders.OCSPResponderEncoding.NAME if by_name else builders.OCSPResponderEncoding.HASH
    builder = builder.responder_id(encoding, responder)
    if attached:
        builder = builder.certificates([responder])
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)


def _delegated(*, appointed: bool = True, by: ec.EllipticCurvePrivateKey = CA_KEY) -> bytes:
    """An answer of a responder with a certificate of its own, in which this key signed that the authority appointed it."""
    key = ec.generate_private_key(ec.SECP384R1())
    responder = certificate("Simulated OCSP responder", key, CA, by, ocsp_signing=appointed)
    return _about_signer(responder, key, by_name=True, attached=True)


def _same_serial() -> bytes:
    """An answer about a certificate of another issuer, with the signer's serial number."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(SIGNER.subject)
        .issuer_name(OTHER.rim_signers[1].subject)
        .public_key(OTHER.keys["rim-signer"].public_key())
        .serial_number(SIGNER.serial_number)
        .not_valid_before(SIGNER.not_valid_before_utc)
        .not_valid_after(SIGNER.not_valid_after_utc)
    )
    foreign = builder.sign(OTHER.keys["rim-ca"], hashes.SHA384())
    return ocsp_answer(foreign, OTHER.rim_signers[1], OTHER.keys["rim-ca"], AT)


def _flipped(response: bytes) -> bytes:
    return response[:-1] + bytes([response[-1] ^ 1])


def _outcome(answers: list[bytes], *, rule: GpuRevocation = GpuRevocation.OPTIONAL, at: datetime = AT) -> str:
    """What is known of the revocation, or the reason of a refusal."""
    found = rim.read(VENDOR.rim(RimShape()), at=at, root_sha256=rim.root_digest(VENDOR.rim_root_der))
    try:
        return rim_signers.revocation(found.signers, ocsp.read(answers), at=at, rule=rule)
    except GpuError as error:
        return str(error.reason)


NOT_CHECKED: dict[str, list[bytes]] = {
    "no answer": [],
    "none about the signer": GOOD[1:],
    "none about its authority": GOOD[:1],
    "about a device": [GOOD[0], VENDOR.device().ocsp(AT, 1)],
    "about another vendor's signers": [OTHER.rim_ocsp(AT, place) for place in (0, 1)],
    "about another certificate with the serial number": [_same_serial(), GOOD[1]],
    "revoked, and about another vendor's signer": [OTHER.rim_ocsp(AT, 0, revoked=True)],
}
REFUSED: dict[str, tuple[str, list[bytes]]] = {
    "signer revoked": ("RimSignerRevoked", [VENDOR.rim_ocsp(AT, 0, revoked=True), GOOD[1]]),
    "authority revoked": ("RimSignerRevoked", [GOOD[0], VENDOR.rim_ocsp(AT, 1, revoked=True)]),
    "authority revoked, nothing about the signer": ("RimSignerRevoked", [VENDOR.rim_ocsp(AT, 1, revoked=True)]),
    "revoked beside an older answer that is still current": ("RimSignerRevoked", [*GOOD, VENDOR.rim_ocsp(AT, 0, revoked=True)]),
    "revoked before a good one": ("RimSignerRevoked", [VENDOR.rim_ocsp(AT, 0, revoked=True), *GOOD]),
    "revoked beside a stale one": ("RimSignerRevoked", [VENDOR.rim_ocsp(EARLIER, 0), VENDOR.rim_ocsp(AT, 1, revoked=True)]),
    "stale": ("GpuOcspExpired", [VENDOR.rim_ocsp(EARLIER, 0), GOOD[1]]),
    "of the future": ("GpuOcspExpired", [GOOD[0], VENDOR.rim_ocsp(LATER, 1)]),
    "stale, and nothing about the other": ("GpuOcspExpired", [VENDOR.rim_ocsp(EARLIER, 0)]),
    "a stale revocation": ("GpuOcspExpired", [VENDOR.rim_ocsp(EARLIER, 0, revoked=True), GOOD[1]]),
    "unknown": ("GpuOcspInvalid", [_about_signer(CA, CA_KEY, status=builders.OCSPCertStatus.UNKNOWN), GOOD[1]]),
    "signed by another vendor's authority": ("GpuOcspInvalid", [_about_signer(IMPOSTOR, IMPOSTOR_KEY), GOOD[1]]),
    "signed by another in the authority's name": ("GpuOcspInvalid", [_about_signer(IMPOSTOR, IMPOSTOR_KEY, by_name=True), GOOD[1]]),
    "and with its certificate": ("GpuOcspInvalid", [_about_signer(IMPOSTOR, IMPOSTOR_KEY, by_name=True, attached=True), GOOD[1]]),
    "signed by the root for its authority": ("GpuOcspInvalid", [_about_signer(ROOT, ROOT_KEY, attached=True), GOOD[1]]),
    "signed by the signer itself": ("GpuOcspInvalid", [_about_signer(SIGNER, VENDOR.keys["rim-signer"], attached=True), GOOD[1]]),
    "signature damaged": ("GpuOcspInvalid", [GOOD[0], _flipped(GOOD[1])]),
    "responder not appointed": ("GpuOcspInvalid", [_delegated(appointed=False), GOOD[1]]),
    "responder appointed by another": ("GpuOcspInvalid", [_delegated(by=OTHER.keys["rim-ca"]), GOOD[1]]),
    "not an answer": ("GpuOcspInvalid", [*GOOD, b"junk"]),
    "a responder that refused": ("GpuOcspInvalid", [*GOOD, REFUSAL]),
}


def test_good() -> None:
    for rule in GpuRevocation:
        assert _outcome(GOOD, rule=rule) == "Good"
        assert _outcome(GOOD[::-1], rule=rule) == "Good"
        assert _outcome([_delegated(), GOOD[1]], rule=rule) == "Good"
        assert _outcome([*GOOD, VENDOR.rim_ocsp(EARLIER, 0), OTHER.rim_ocsp(AT, 0, revoked=True)], rule=rule) == "Good"


@pytest.mark.parametrize("name", NOT_CHECKED)
def test_not_checked(name: str) -> None:
    assert _outcome(NOT_CHECKED[name]) == "NotChecked"
    assert _outcome(NOT_CHECKED[name], rule=GpuRevocation.REQUIRED) == "RimRevocationNotChecked"


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    expected, answers = REFUSED[name]
    assert [_outcome(answers, rule=rule) for rule in GpuRevocation] == [expected, expected]


def test_an_answer_ends() -> None:
    ends = AT + timedelta(hours=23)
    assert _outcome(GOOD, at=ends - timedelta(seconds=1)) == "Good"
    assert _outcome(GOOD, at=ends) == "GpuOcspExpired"


def test_the_impostor_has_the_authoritys_name() -> None:
    assert IMPOSTOR.subject == CA.subject
    assert IMPOSTOR.public_key() != CA.public_key()


def test_the_signer_is_asked_about_and_the_root_is_not() -> None:
    assert rim_signers.revocable(VENDOR.rim_signers) == [(SIGNER, CA), (CA, ROOT)]


def test_a_refusal_says_which_certificate_and_what_to_do() -> None:
    with pytest.raises(GpuError) as revoked:
        rim_signers.revocation(VENDOR.rim_signers, ocsp.read([VENDOR.rim_ocsp(AT, 1, revoked=True)]), at=AT)
    assert CA.subject.rfc4514_string() in revoked.value.message
    assert (revoked.value.detail, "signed anew" in revoked.value.remedy) == ("2026-10-31T12:00:00Z", True)
    with pytest.raises(GpuError) as unasked:
        rim_signers.revocation(VENDOR.rim_signers, ocsp.read(GOOD[:1]), at=AT, rule=GpuRevocation.REQUIRED)
    assert unasked.value.detail == f"no OCSP answer about {CA.subject.rfc4514_string()}"
    assert "--ocsp-url" in unasked.value.remedy


def test_the_values_end_with_the_certificates_and_not_with_an_answer() -> None:
    data, root = VENDOR.rim(RimShape()), rim.root_digest(VENDOR.rim_root_der)
    found = rim.read(data, at=AT, root_sha256=root)
    assert rim_signers.revocation(found.signers, ocsp.read(GOOD), at=AT) == "Good"
    assert found.values == rim.digest(data, at=AT, root_sha256=root)
    assert found.values.expires == min(one.not_valid_after_utc for one in found.signers)
