"""Certificates and lists whose extensions `cryptography` cannot read: each was a traceback, none is more than a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from chrysalis.attestation import anchor, pck_chain
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral, read_crl
from chrysalis.attestation.gpu import chain as gpu_chain
from chrysalis.attestation.quote import parse
from chrysalis.attestation.verdict import Verdict
from chrysalis.errors import ChrysalisError
from e2e.simtd.pki import SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Simulated SGX PCK Platform CA")])
X400 = bytes.fromhex("3004a3020500")
EXTENSIONS: dict[str, tuple[str, bytes]] = {
    "an X.400 address": ("2.5.29.18", X400),
    "an X.400 address of the subject": ("2.5.29.17", X400),
    "an authority's access at an X.400 address": ("1.3.6.1.5.5.7.1.1", bytes.fromhex("3010300e06082b06010505073001a3020500")),
    "a TLS feature that nobody knows": ("1.3.6.1.5.5.7.1.24", bytes.fromhex("3003020163")),
    "names constrained by an X.400 address": ("2.5.29.30", bytes.fromhex("3008a0063004a3020500")),
    "basic constraints that are none": ("2.5.29.19", b"junk"),
    "a nameless authority key": ("2.5.29.35", bytes.fromhex("3008a104a30205008200")),
}


def _extended(curve: ec.EllipticCurve, algorithm: SHA256 | SHA384, name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    oid, value = EXTENSIONS[name]
    key = ec.generate_private_key(curve)
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(AT - timedelta(days=1))
        .not_valid_after(AT + timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    )
    return key, builder.sign(key, algorithm)


def _refused(run: Callable[[], Any]) -> None:
    with pytest.raises(ChrysalisError):
        run()


@pytest.mark.parametrize("name", EXTENSIONS)
def test_a_quotes_chain(platform: SimulatedPlatform, name: str) -> None:
    _, certificate = _extended(ec.SECP256R1(), SHA256(), name)
    pem = certificate.public_bytes(Encoding.PEM).decode()
    quote = parse(platform.quote(chain=pem + pem))
    _refused(lambda: pck_chain.claimed(quote))
    _refused(lambda: pck_chain.prove(quote, anchor.from_der(platform.root_der), AT))
    der = certificate.public_bytes(Encoding.DER)
    if name not in ("basic constraints that are none", "a nameless authority key"):
        assert anchor.from_der(der).crl_url == ""


@pytest.mark.parametrize("name", EXTENSIONS)
def test_a_gpus_chain(name: str) -> None:
    _, certificate = _extended(ec.SECP384R1(), SHA384(), name)
    pem = certificate.public_bytes(Encoding.PEM)
    _refused(lambda: gpu_chain.read(pem + pem))


@pytest.mark.parametrize("name", EXTENSIONS)
def test_a_revocation_list(platform: SimulatedPlatform, collateral: Collateral, reasons: Callable[[Verdict], list[str]], name: str) -> None:
    oid, value = EXTENSIONS[name]
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateRevocationListBuilder().issuer_name(NAME).last_update(AT - timedelta(days=1))
    builder = builder.next_update(AT + timedelta(days=1))
    builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    der = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    try:
        read_crl(der, "list")
    except ChrysalisError:
        pass
    documents = json.loads(collateral.to_json()) | {"pck_crl": der.hex()}
    verdict = appraise(
        quote=platform.quote(), collateral=Collateral.from_json(json.dumps(documents)), policy=None, at=AT, roots=[platform.root_der]
    )
    assert verdict.reasons


@pytest.mark.parametrize("member", ["tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain", "tcb_info", "qe_identity"])
def test_half_a_character_in_the_collateral(collateral: Collateral, member: str) -> None:
    """A lone surrogate is JSON, and no text: nothing that Intel signs holds one."""
    documents = json.loads(collateral.to_json())
    assert Collateral.from_json(json.dumps(documents)) == collateral
    with pytest.raises(ChrysalisError, match="CollateralMalformed"):
        Collateral.from_json(json.dumps(documents | {member: documents[member] + "\ud800"}))
