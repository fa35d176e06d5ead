"""Device chains: order, signatures, constraints, dates, firmware identifiers."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation.gpu import chain, der
from chrysalis.attestation.gpu.reasons import GpuError
from e2e.simtd.gpu import BLACKWELL, LS10, NOT_AFTER, NOT_BEFORE, SimulatedGpus, certificate, pem

VENDOR = SimulatedGpus.create()
DEVICE = VENDOR.device()
AT = datetime(2026, 11, 1, tzinfo=UTC)


def _new() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _built(**leaf: Any) -> bytes:
    """A chain of three: a root, an authority that may have a path length, a leaf in another shape."""
    root_key, middle_key, key = _new(), _new(), leaf.pop("key", _new())
    root = certificate("GH100 root", root_key, None, root_key, authority=True, path_length=leaf.pop("root_length", None))
    middle = certificate("GH100 middle", middle_key, root, root_key, authority=leaf.pop("middle_authority", True))
    end = certificate("GH100 leaf", key, middle, leaf.pop("signed_by", middle_key), **leaf)
    return pem(end, middle, root)


def _p256_leaf() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return _built(key=key)


def _sha256_leaf() -> bytes:
    root_key, key = _new(), _new()
    root = certificate("GH100 root", root_key, None, root_key, authority=True)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "GH100 leaf")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(root.subject).public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(NOT_BEFORE).not_valid_after(NOT_AFTER)
    return pem(builder.sign(root_key, hashes.SHA256()), root)


C = DEVICE.certificates
INVALID: dict[str, bytes] = {
    "root in the middle": pem(C[0], C[4], C[1], C[2], C[3]),
    "root first, others in order": pem(C[4], *C[:4]),
    "two exchanged": pem(C[0], C[2], C[1], C[3], C[4]),
    "one left out": pem(C[0], C[1], C[3], C[4]),
    "no root": pem(*C[:-1]),
    "one alone": pem(C[0]),
    "leaf left out": pem(*C[1:]),
    "leaf of another device": pem(VENDOR.device().certificates[0], *C[1:]),
    "root of another vendor": pem(*C[:-1], SimulatedGpus.create().certificates["root"]),
    "leaf is an authority": _built(authority=True),
    "middle is no authority": _built(middle_authority=False),
    "path length": _built(root_length=0),
    "signed by another key": _built(signed_by=_new()),
    "P-256": _p256_leaf(),
    "SHA-256": _sha256_leaf(),
    "critical extension": _built(extension=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), critical=True),
    "firmware identifier is no DER": _built(extension=x509.UnrecognizedExtension(chain.FWID_OIDS[1], b"\x30\x05\1")),
    "firmware identifier is empty": _built(extension=x509.UnrecognizedExtension(chain.FWID_OIDS[1], b"\x30\0")),
    "firmware identifier of another digest": _built(
        extension=x509.UnrecognizedExtension(chain.FWID_OIDS[1], bytes.fromhex("3010300e060960864801650304020104010a")[:18])
    ),
}
UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "no PEM": b"certificate",
    "binary before": b"\x80\n" + DEVICE.chain,
    "binary between": pem(C[0]) + b"\1" + pem(*C[1:]),
    "a key beside them": DEVICE.chain + b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
    "half a certificate beside them": DEVICE.chain + b"-----BEGIN CERTIFICATE-----\nAAAA\n",
    "a key": DEVICE.chain.replace(b"CERTIFICATE", b"PRIVATE KEY"),
    "too many": pem(*C, *C),
    "no certificate inside": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "too large": DEVICE.chain + b"\n" * 100_000,
}


def test_a_chain() -> None:
    found = chain.read(DEVICE.chain)
    assert (found.architecture, found.fwid, found.hardware_model) == ("Hopper", DEVICE.fwid, "GH100 A01 Simulated BROM")
    assert found.root_sha256 == hashlib.sha256(VENDOR.root_der).hexdigest()
    found.check(AT, found.root_sha256)
    assert found.verify(DEVICE.report(bytes(32))[-96:], DEVICE.report(bytes(32))[:-96]) is False  # ECDSA: each report has its own
    report = DEVICE.report(bytes(32))
    assert found.verify(report[-96:], report[:-96])
    assert not found.verify(report[-95:], report[:-96])
    assert not found.verify(bytes(96), report[:-96])


FORMS: dict[str, bytes] = {
    "root first, as SPDM carries it": pem(*reversed(C)),
    "with what tools write around them": b"".join(b"Bag Attributes\n    friendlyName: x\nsubject=CN = y\n" + pem(one) for one in C),
    "with text behind": DEVICE.chain + b"# end\r\n",
    "base64 in lines": base64.encodebytes(DEVICE.chain),
    "base64 for URLs, unpadded": base64.urlsafe_b64encode(DEVICE.chain).rstrip(b"="),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_in_which_a_chain_is_handed_over(form: str) -> None:
    assert chain.read(chain.read_pem(FORMS[form])) == chain.read(DEVICE.chain)


@pytest.mark.parametrize(("architecture", "expected"), [(BLACKWELL, "Blackwell"), (LS10, "LS10")])
def test_other_architectures(architecture: str, expected: str) -> None:
    device = VENDOR.device(architecture)
    found = chain.read(device.chain)
    assert (found.architecture, found.fwid) == (expected, device.fwid)


def test_a_chain_of_three_is_enough_and_names_no_firmware() -> None:
    assert chain.read(_built()).fwid is None


@pytest.mark.parametrize("place", range(5))
def test_no_signature_is_remembered_for_other_bytes(place: int) -> None:
    """Authorities' signatures are remembered where they hold; one that is changed in its last byte is another."""
    assert chain.read(DEVICE.chain).certificates[place] == C[place]
    changed = bytearray(C[place].public_bytes(Encoding.DER))
    changed[-1] ^= 1
    with pytest.raises(GpuError) as refused:
        chain.read(pem(*C[:place], x509.load_der_x509_certificate(bytes(changed)), *C[place + 1 :]))
    assert refused.value.reason == "GpuCertificateInvalid"


@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str) -> None:
    with pytest.raises(GpuError) as refused:
        chain.read(INVALID[name])
    assert refused.value.reason == "GpuCertificateInvalid"


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable(name: str) -> None:
    with pytest.raises(GpuError) as refused:
        chain.read(UNREADABLE[name])
    assert refused.value.reason == "GpuChainUnreadable"


@pytest.mark.parametrize(
    "data",
    [
        DEVICE.chain.replace(b"\n", b"\r\n"),
        DEVICE.chain.rstrip(),
        b"\n\n" + DEVICE.chain.replace(b"-----BEGIN", b"\n \n-----BEGIN") + bytes(64),
        base64.b64encode(DEVICE.chain),
        base64.encodebytes(DEVICE.chain + bytes(3)),
    ],
)
def test_line_ends_padding_and_wrapping_do_not_matter(data: bytes) -> None:
    assert chain.read(data).certificates == C


def test_root_and_dates() -> None:
    found = chain.read(DEVICE.chain)
    for at, root, reason in (
        (AT, chain.NVIDIA_DEVICE_ROOT_SHA256, "GpuTrustRootMismatch"),
        (datetime(2019, 12, 31, tzinfo=UTC), found.root_sha256, "GpuCertificateExpired"),
        (datetime(2050, 1, 1, tzinfo=UTC), found.root_sha256, "GpuCertificateExpired"),
    ):
        with pytest.raises(GpuError) as refused:
            found.check(at, root)
        assert refused.value.reason == reason


def test_the_identity_stays_and_differs_between_devices() -> None:
    other = VENDOR.device()
    assert chain.read(DEVICE.chain).device_id == chain.read(DEVICE.chain + b"\n").device_id
    assert chain.read(DEVICE.chain).device_id != chain.read(other.chain).device_id


@given(st.binary(max_size=120))
def test_any_der(data: bytes) -> None:
    for read in (der.elements, der.sequence):
        with contextlib.suppress(GpuError):
            read(data)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for wrapped in (data, b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(data) + b"\n-----END CERTIFICATE-----\n"):
        with pytest.raises(GpuError):
            chain.read(wrapped)
