"""Trust anchors and the way up to them: one row for each way in which a chain does not lead there, beside one that does."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation import anchor
from chrysalis.attestation.anchor import INTEL_ANCHOR, TrustAnchor, follow, from_der
from chrysalis.attestation.reasons import AttestationError, AttestationReason

AT = datetime(2026, 11, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
Key = ec.EllipticCurvePrivateKey
KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "ca", "leaf", "other")}


def certificate(
    name: str = "leaf",
    issuer: str = "ca",
    *,
    signer: str = "",
    ca: bool = False,
    path_length: int | None = None,
    may_sign: bool = True,
    begins: datetime = AT - YEAR,
    ends: datetime = AT + YEAR,
    key: Any = None,
    digest: hashes.SHA256 | hashes.SHA3_256 | None = None,
    constraints: bool = True,
) -> x509.Certificate:
    """A certificate `name`, in the name of `issuer`, signed by `signer` (the issuer's key by default)."""
    named = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(named[0])
        .issuer_name(named[1])
        .public_key((key or KEYS[name]).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca and may_sign, crl_sign=ca, **usage), critical=True)
    )
    if constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    return builder.sign(KEYS[signer or issuer], digest or hashes.SHA256())


ROOT = certificate("root", "root", ca=True)
CA = certificate("ca", "root", ca=True, path_length=0)
LEAF = certificate()
ANCHOR = from_der(ROOT.public_bytes(Encoding.DER))


@pytest.mark.parametrize("chain", [[LEAF, CA, ROOT], [LEAF, CA]], ids=["with its root", "without"])
def test_a_good_chain_leads_to_its_leaf(chain: list[x509.Certificate]) -> None:
    assert follow(chain, ANCHOR, AT) == LEAF
    assert follow([CA, ROOT], ANCHOR, AT, authority=True) == CA


EXPIRED, INVALID, OTHER = (
    AttestationReason.CERTIFICATE_EXPIRED,
    AttestationReason.CERTIFICATE_INVALID,
    AttestationReason.TRUST_ROOT_MISMATCH,
)
BAD: dict[str, tuple[AttestationReason, Callable[[], Sequence[x509.Certificate]]]] = {
    "empty": (INVALID, lambda: []),
    "only the root": (INVALID, lambda: [ROOT]),
    "leaf signed by another": (INVALID, lambda: [certificate(signer="other"), CA, ROOT]),
    "authority signed by another": (OTHER, lambda: [LEAF, certificate("ca", "root", signer="other", ca=True), ROOT]),
    "another root": (OTHER, lambda: [LEAF, CA, certificate("root", "root", ca=True, key=KEYS["root"], signer="other")]),
    "authority left out": (OTHER, lambda: [LEAF, ROOT]),
    "wrong order": (INVALID, lambda: [CA, LEAF, ROOT]),
    "another issuer's name": (INVALID, lambda: [certificate(issuer="leaf", signer="ca"), CA, ROOT]),
    "leaf expired": (EXPIRED, lambda: [certificate(ends=AT - timedelta(seconds=1)), CA, ROOT]),
    "leaf not valid yet": (EXPIRED, lambda: [certificate(begins=AT + timedelta(seconds=1)), CA, ROOT]),
    "authority expired": (EXPIRED, lambda: [LEAF, certificate("ca", "root", ca=True, ends=AT - timedelta(seconds=1)), ROOT]),
    "leaf is an authority": (INVALID, lambda: [certificate(ca=True), CA, ROOT]),
    "authority is none": (INVALID, lambda: [LEAF, certificate("ca", "root"), ROOT]),
    "authority may not sign": (INVALID, lambda: [LEAF, certificate("ca", "root", ca=True, may_sign=False), ROOT]),
    "too long a path": (
        INVALID,
        lambda: [certificate(issuer="other"), certificate("other", "ca", ca=True), certificate("ca", "root", ca=True, path_length=0)],
    ),
    "too many": (INVALID, lambda: [LEAF, CA, CA, CA]),
    "SHA-1 like": (INVALID, lambda: [certificate(digest=hashes.SHA3_256()), CA, ROOT]),
    "no constraints": (INVALID, lambda: [certificate(constraints=False), CA, ROOT]),
    "RSA authority": (
        INVALID,
        lambda: [LEAF, certificate("ca", "root", ca=True, key=rsa.generate_private_key(65537, 2048)), ROOT],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_chain_does_not(name: str) -> None:
    reason, make = BAD[name]
    with pytest.raises(AttestationError) as caught:
        follow(make(), ANCHOR, AT)
    assert caught.value.reason == reason


def test_the_first_and_the_last_second_count() -> None:
    edge = certificate(begins=AT, ends=AT)
    assert follow([edge, CA], ANCHOR, AT) == edge


def test_a_leaf_is_no_authority() -> None:
    with pytest.raises(AttestationError) as caught:
        follow([certificate("leaf", "root")], ANCHOR, AT, authority=True)
    assert caught.value.reason == INVALID
    assert follow([certificate("leaf", "root")], ANCHOR, AT)


def test_a_longer_path_that_is_allowed() -> None:
    path = [certificate(issuer="other"), certificate("other", "ca", ca=True), certificate("ca", "root", ca=True, path_length=1)]
    assert follow(path, ANCHOR, AT) == path[0]


@pytest.mark.parametrize("der", [b"", b"junk", certificate(key=rsa.generate_private_key(65537, 2048)).public_bytes(Encoding.DER)])
def test_an_unreadable_root(der: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        from_der(der)
    assert caught.value.reason == AttestationReason.ROOT_UNREADABLE


def test_the_anchor_of_a_policy(policy_document: dict[str, Any]) -> None:
    def named(root: Any) -> TrustAnchor:
        document = policy_document | {"trustRoot": root, "brokerPlacement": ["External"]}
        return anchor.of_policy(AttestationPolicySpec.model_validate(document))

    assert named("Intel") is INTEL_ANCHOR
    assert named({"der": base64.b64encode(ROOT.public_bytes(Encoding.DER)).decode()}) == ANCHOR
    with pytest.raises(AttestationError) as caught:
        named({"der": "A"})
    assert caught.value.reason == AttestationReason.TRUST_ROOT_MISMATCH


def test_only_intels_root_is_hardware() -> None:
    assert INTEL_ANCHOR.is_intel
    assert not ANCHOR.is_intel
    assert not replace(INTEL_ANCHOR, sha256="0" * 64).is_intel


@pytest.mark.vectors
def test_the_pinned_anchor_is_intels_certificate(vectors: Path) -> None:
    der = (vectors / "dcap-qvl/TrustedRootCA.der").read_bytes()
    certificate = x509.load_der_x509_certificate(der)
    numbers = anchor.p256(certificate).public_numbers()
    point = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    (where,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert where.full_name
    assert TrustAnchor(certificate.fingerprint(hashes.SHA256()).hex(), point, where.full_name[0].value) == INTEL_ANCHOR
    assert from_der(der) is INTEL_ANCHOR
    assert anchor.of_certificate(certificate) is INTEL_ANCHOR
