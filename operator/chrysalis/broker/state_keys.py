"""The broker's own keys: made at first start, then kept.

tls.key, tls.crt: the pinned TLS identity (P-256, self-signed; authorities play no part).  ear.key: Ed25519, the anchor: certifies the
keys that sign results, and signs receipt-key certificates.  nonce.key: 32 bytes, MAC of challenges.

One broker keeps them in files of its state directory that only it reads.  Replicas share them: in a directory that all mount (a
Secret), or sealed in the database, where the first replica puts them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from sqlalchemy import Connection, insert, select

from chrysalis.broker.database import Database
from chrysalis.broker.encryption import KeyEncryption
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tables import state_keys
from chrysalis.clock import Clock

CERTIFICATE_LIFE = timedelta(days=3650)
SECRET_BYTES = 32
TLS_KEY, TLS_CERTIFICATE, EAR_KEY, NONCE_KEY = NAMES = ("tls.key", "tls.crt", "ear.key", "nonce.key")
ROOT_KEY = "root.key"


@dataclass(frozen=True)
class StateKeys:
    """The keys of one broker."""

    tls_key_file: Path
    tls_certificate_file: Path
    tls_spki_sha256: bytes
    ear_key: Ed25519PrivateKey
    nonce_key: bytes

    @property
    def ear_public(self) -> bytes:
        """The raw Ed25519 public key that workers pin (spec.broker.earKey)."""
        return self.ear_key.public_key().public_bytes_raw()

    def material(self) -> dict[str, bytes]:
        """All of them by name, as files hold them; for sealing.  Raises OSError."""
        return {
            TLS_KEY: self.tls_key_file.read_bytes(),
            TLS_CERTIFICATE: self.tls_certificate_file.read_bytes(),
            EAR_KEY: self.ear_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            NONCE_KEY: self.nonce_key.hex().encode() + b"\n",
        }


def load_or_make(directory: Path, clock: Clock) -> StateKeys:
    """The keys in the files of a directory, making what is not there yet; raises BrokerError (StateUnusable).

    Each file appears whole or not at all, so a process that is killed in between starts again without harm.
    """
    try:
        make_directory(directory)
        material: dict[str, bytes] = {}
        for name in NAMES:
            material[name] = _file(directory / name, functools.partial(_make, name, material, clock))
        return _parse(directory, material)
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(f"the keys in {directory}", error) from error


def load_or_share(directory: Path, database: Database, encryption: KeyEncryption, clock: Clock) -> StateKeys:
    """The keys in the database, sealed; the first replica puts there what lies in its directory, or new ones.

    The TLS key and its certificate are also written into the directory, where the server reads them.  Raises BrokerError
    (StateUnusable, KeyServiceUnavailable).
    """
    try:
        make_directory(directory)
        sealed = sealed_in(database)
        if not sealed:
            material: dict[str, bytes] = {}
            for name in NAMES:
                path = directory / name
                material[name] = path.read_bytes() if path.exists() else _make(name, material, clock)
            _parse(directory, material)
            offered = {name: encryption.encrypt(value, context(name)) for name, value in material.items()}
            database.transact(lambda db: _offer(db, offered))
            sealed = sealed_in(database)  # those of whoever came first
        material = {name: encryption.decrypt(sealed[name], context(name)) for name in NAMES}
        for name in (TLS_KEY, TLS_CERTIFICATE):
            replace_file(directory / name, material[name])
        return _parse(directory, material)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _unusable("the keys in the database", error) from error


def root_key(directory: Path) -> bytes:
    """The root key in the state directory, made at first use; raises BrokerError (StateUnusable)."""
    try:
        make_directory(directory)
        path = directory / ROOT_KEY
        return _parse_secret(path, _file(path, _new_secret))
    except (OSError, ValueError) as error:
        raise _unusable(f"{ROOT_KEY} in {directory}", error) from error


def sealed_in(database: Database) -> dict[str, bytes]:
    """The sealed keys of the database by name."""
    with database.reading() as db:
        return {row.name: row.sealed for row in db.execute(select(state_keys))}


def context(name: str) -> bytes:
    """What a sealed key's encryption is bound to."""
    return f"chrysalis/v1/state-key\0{name}".encode()


def make_directory(directory: Path) -> None:
    """The state directory, for its owner only; raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place of another, whole or not at all, and durable; raises OSError."""
    if path.exists() and path.read_bytes() == content:
        return
    partial = _partial(path, content)
    partial.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _offer(db: Connection, offered: Mapping[str, bytes]) -> None:
    if db.execute(select(state_keys.c.name).limit(1)).one_or_none() is None:
        db.execute(insert(state_keys), [{"name": name, "sealed": value} for name, value in offered.items()])


def _parse(directory: Path, material: Mapping[str, bytes]) -> StateKeys:
    ear = load_pem_private_key(material[EAR_KEY], None)
    tls = load_pem_private_key(material[TLS_KEY], None)
    if not isinstance(ear, Ed25519PrivateKey) or not isinstance(tls, ec.EllipticCurvePrivateKey):
        raise ValueError("ear.key must be Ed25519 and tls.key a P-256 key")
    certificate = x509.load_pem_x509_certificate(material[TLS_CERTIFICATE])
    if certificate.public_key() != tls.public_key():
        raise ValueError("tls.crt is not the certificate of tls.key; remove it")
    spki = tls.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return StateKeys(
        tls_key_file=directory / TLS_KEY,
        tls_certificate_file=directory / TLS_CERTIFICATE,
        tls_spki_sha256=hashlib.sha256(spki).digest(),
        ear_key=ear,
        nonce_key=_parse_secret(directory / NONCE_KEY, material[NONCE_KEY]),
    )


def _make(name: str, made: Mapping[str, bytes], clock: Clock) -> bytes:
    if name == TLS_KEY:
        return _new_p256()
    if name == TLS_CERTIFICATE:
        key = load_pem_private_key(made[TLS_KEY], None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("tls.key must be a P-256 key")
        return _self_signed(key, clock)
    return _new_ed25519() if name == EAR_KEY else _new_secret()


def _unusable(what: str, error: Exception) -> BrokerError:
    return BrokerError(
        BrokerReason.STATE_UNUSABLE,
        f"{what} cannot be used",
        "mount a directory that the broker may write to, with the files of this broker or none",
        str(error),
    )


def _partial(path: Path, content: bytes) -> Path:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return partial


def _file(path: Path, make: Callable[[], bytes]) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    partial = _partial(path, make())
    try:
        os.link(partial, path)  # fails if it is there by now: the first one wins, nothing is overwritten
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    sync_directory(path.parent)
    return path.read_bytes()


def _new_secret() -> bytes:
    return secrets.token_hex(SECRET_BYTES).encode() + b"\n"


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
