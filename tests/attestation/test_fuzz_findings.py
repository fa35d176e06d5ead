"""What fuzzing found, in words: each was a traceback once."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp as answers

from chrysalis.attestation import anchor, collateral, collateral_check
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument, split
from chrysalis.attestation.gpu import chain as gpu_chain
from chrysalis.attestation.gpu import ocsp as gpu_ocsp
from chrysalis.cli import files
from chrysalis.client import ties
from chrysalis.errors import ChrysalisError
from chrysalis.wire import pinning
from e2e.simtd.pki import SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
VERSION_3, VERSION_7 = bytes.fromhex("a003020102"), bytes.fromhex("a003020106")


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


READERS: dict[str, Callable[[bytes], object]] = {
    "trust root": anchor.from_der,
    "issuer chain": lambda der: collateral.chain(_pem(der), "chain"),
    "server": pinning.spki_sha256,
    "GPU": lambda der: gpu_chain.load(_pem(der)),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_certificate_of_a_version_that_does_not_exist(platform: SimulatedPlatform, reader: str) -> None:
    """cryptography's InvalidVersion is no ValueError."""
    good = platform.root_der
    assert good.count(VERSION_3) == 1
    READERS[reader](good)
    with pytest.raises(ChrysalisError):
        READERS[reader](good.replace(VERSION_3, VERSION_7))


def test_a_peers_certificate_of_a_version_that_does_not_exist(platform: SimulatedPlatform) -> None:
    with pytest.raises(ChrysalisError):
        ties.check_ratls(ties.Peer(platform.root_der.replace(VERSION_3, VERSION_7), bytes(32)), platform.quote())


def test_a_root_file_of_a_version_that_does_not_exist(platform: SimulatedPlatform, tmp_path: Path) -> None:
    file = tmp_path / "root"
    file.write_bytes(platform.root_der)
    assert files.root(file) == platform.root_der
    file.write_bytes(platform.root_der.replace(VERSION_3, VERSION_7))
    with pytest.raises(ChrysalisError):
        files.root(file)


def test_a_list_of_a_version_that_does_not_exist(platform: SimulatedPlatform) -> None:
    document = split(Collateral.from_json(platform.collateral(AT)))[DocumentKind.ROOT_CRL]
    trusted = anchor.from_der(platform.root_der)
    collateral_check.check(document, trusted, AT)
    version = bytes.fromhex("020101300a")  # v2, and the algorithm behind it
    assert document.body.count(version) == 1
    bent = SignedDocument(document.kind, document.body.replace(version, bytes.fromhex("020106300a")), b"", "")
    with pytest.raises(ChrysalisError):
        collateral_check.check(bent, trusted, AT)


def test_an_ocsp_answer_with_a_certificate_whose_key_is_no_point(platform: SimulatedPlatform) -> None:
    names, keys = platform.certificates, platform.keys
    answer = (
        answers.OCSPResponseBuilder()
        .add_response(names["ca"], names["root"], hashes.SHA256(), answers.OCSPCertStatus.GOOD, AT, AT, None, None)
        .responder_id(answers.OCSPResponderEncoding.HASH, names["tcb"])
        .certificates([names["tcb"]])
        .sign(keys["tcb"], hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    point = names["tcb"].public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert answer.count(point) == 1
    gpu_ocsp.read([answer])
    with pytest.raises(ChrysalisError):
        gpu_ocsp.read([answer.replace(point, point[:-1] + bytes([point[-1] ^ 1]))])


@pytest.mark.parametrize("what", ["trust root", "issuer chain", "GPU"])
def test_a_name_of_a_type_that_no_name_has(what: str, platform: SimulatedPlatform) -> None:
    der = platform.root_der
    kind = der.index(bytes.fromhex("0603550403")) + 5  # the string behind the first commonName
    READERS[what](der)  # the twin
    with pytest.raises(ChrysalisError):
        READERS[what](der[:kind] + b"\3" + der[kind + 1 :])  # BIT STRING
