"""The domain's keys: HPKE and receipt keys for its whole life, a TLS key for each attestation.

The receipt key is kept in memory-backed storage of the domain that only the agent mounts, so that a killed agent continues
its receipt chain; it ends with the domain.  The HPKE key, to which model keys are wrapped, is in the agent's memory alone
and new with each agent: a key that is read from a volume could be one that the host put there.  No key ever leaves.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from chrysalis.attestation import ratls
from chrysalis.receipts import worker_id
from chrysalis.wire.broker import Keys
from chrysalis_worker.reasons import WorkerError, WorkerReason

RAW_BYTES = 32
SKEW = timedelta(minutes=5)
"""A certificate starts this long before its making, for peers whose clocks are behind."""


@dataclass(frozen=True)
class DomainKeys:
    """The keys that live as long as the trust domain, or (hpke) as long as its agent."""

    hpke: X25519PrivateKey
    receipt: Ed25519PrivateKey

    @property
    def receipt_public(self) -> bytes:
        """The raw Ed25519 public key."""
        return self.receipt.public_key().public_bytes_raw()

    @property
    def hpke_public(self) -> bytes:
        """The raw X25519 public key."""
        return self.hpke.public_key().public_bytes_raw()

    @property
    def wrk(self) -> str:
        """The worker's id in settlement."""
        return worker_id(self.receipt_public)


def domain_keys(folder: Path) -> DomainKeys:
    """A new HPKE key, and the receipt key in this folder, made there when there is none; raises WorkerError when it cannot be read."""
    return DomainKeys(
        hpke=X25519PrivateKey.generate(),
        receipt=Ed25519PrivateKey.from_private_bytes(_seed(folder / "receipt.key")),
    )


def _seed(path: Path) -> bytes:
    """32 random bytes that stay the same while the file exists; written whole or not at all."""
    try:
        if not path.exists():
            partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(RAW_BYTES))
            partial.rename(path)
        seed = path.read_bytes()
    except OSError as error:
        raise WorkerError(
            WorkerReason.KEYS_DAMAGED, f"{path} cannot be read or written", "give the agent a writable memory-backed volume", str(error)
        ) from error
    if len(seed) != RAW_BYTES:
        raise WorkerError(
            WorkerReason.KEYS_DAMAGED, f"{path} does not hold {RAW_BYTES} bytes", "delete the pod: a new domain makes new keys"
        )
    return seed


class TlsKey:
    """The key that serves RA-TLS for one attestation (P-256)."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def spki_sha256(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo, which the evidence binds."""
        return hashlib.sha256(self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()

    def public(self, domain: DomainKeys) -> Keys:
        """All public keys of an attestation, as the evidence names them."""
        return Keys(tls_spki_sha256=self.spki_sha256.hex(), hpke=domain.hpke_public.hex(), receipt=domain.receipt_public.hex())

    def private_pem(self) -> bytes:
        """PKCS #8, for the TLS library alone."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def certificate(self, quote: bytes, claims_buffer: bytes, now: datetime, not_after: datetime) -> bytes:
        """The self-signed RA-TLS certificate in DER: quote and claims-buffer in one extension (worker.md, RA-TLS)."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "chrysalis worker")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier(ratls.OID), ratls.extension(quote, claims_buffer)), critical=False
            )
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)
