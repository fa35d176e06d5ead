"""The broker's own keys: made at first start, kept in files of the state directory that only the broker reads.

tls.key, tls.crt: the pinned TLS identity (P-256, self-signed; authorities play no part).  ear.key: Ed25519, signs results and
receipt-key certificates.  nonce.key: 32 bytes, MAC of challenges.  root.key: 32 bytes, encrypts the stored model keys.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import Clock

CERTIFICATE_LIFE = timedelta(days=3650)
SECRET_BYTES = 32


@dataclass(frozen=True)
class StateKeys:
    """The keys of one broker."""

    tls_key_file: Path
    tls_certificate_file: Path
    tls_spki_sha256: bytes
    ear_key: Ed25519PrivateKey
    nonce_key: bytes
    root_key: bytes

    @property
    def ear_public(self) -> bytes:
        """The raw Ed25519 public key that workers pin (spec.broker.earKey)."""
        return self.ear_key.public_key().public_bytes_raw()


def load_or_make(directory: Path, clock: Clock, root_key_file: Path | None = None) -> StateKeys:
    """Load the keys, making what is not there yet; raises BrokerError (StateUnusable).

    Each file appears whole or not at all, so a process that is killed in between starts again without harm.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        ear = load_pem_private_key(_file(directory / "ear.key", _new_ed25519), None)
        tls_file = directory / "tls.key"
        tls = load_pem_private_key(_file(tls_file, _new_p256), None)
        if not isinstance(ear, Ed25519PrivateKey) or not isinstance(tls, ec.EllipticCurvePrivateKey):
            raise ValueError("ear.key must be Ed25519 and tls.key a P-256 key")
        certificate_file = directory / "tls.crt"
        certificate = x509.load_pem_x509_certificate(_file(certificate_file, lambda: _self_signed(tls, clock)))
        spki = tls.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if certificate.public_key() != tls.public_key():
            raise ValueError("tls.crt is not the certificate of tls.key; remove it")
        return StateKeys(
            tls_key_file=tls_file,
            tls_certificate_file=certificate_file,
            tls_spki_sha256=hashlib.sha256(spki).digest(),
            ear_key=ear,
            nonce_key=_secret(directory / "nonce.key"),
            root_key=_secret(directory / "root.key") if root_key_file is None else _parse_secret(root_key_file, root_key_file.read_bytes()),
        )
    except (OSError, ValueError, TypeError) as error:
        raise BrokerError(
            BrokerReason.STATE_UNUSABLE,
            f"the keys in {directory} cannot be used",
            "mount a directory that the broker may write to, with the files of this broker or none",
            str(error),
        ) from error


def _file(path: Path, make: Callable[[], bytes]) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(make())
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)  # fails if it is there by now: the first one wins, nothing is overwritten
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path.read_bytes()


def _secret(path: Path) -> bytes:
    return _parse_secret(path, _file(path, lambda: secrets.token_hex(SECRET_BYTES).encode() + b"\n"))


def _parse_secret(path: Path, text: bytes) -> bytes:
    secret = bytes.fromhex(text.decode().strip())
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"{path} does not hold {SECRET_BYTES} bytes in hex")
    return secret


def _new_ed25519() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _new_p256() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _self_signed(key: ec.EllipticCurvePrivateKey, clock: Clock) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "chrysalis-broker")])
    now = clock.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + CERTIFICATE_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("chrysalis-broker")]), critical=False)
        .sign(key, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)
