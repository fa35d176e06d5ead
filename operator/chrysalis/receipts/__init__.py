"""The signed objects of settlement (offer, ticket, receipt, …), their hash chains, prices and Merkle trees.

Pure: bytes in, verdicts out.  Imports api and what is below; never does I/O.  Formats: docs/wire/receipts.json holds
golden byte vectors that every implementation must reproduce.
"""

from __future__ import annotations

import hashlib

SPKI_PREFIX_ED25519 = bytes.fromhex("302a300506032b6570032100")
"""DER of SubjectPublicKeyInfo up to the raw key (RFC 8410): an Ed25519 key's SPKI is this and the 32 bytes."""


def worker_id(receipt_public_key: bytes) -> str:
    """`wrk`: SHA-256 of the receipt key's SubjectPublicKeyInfo, lower-case hex; raises ValueError unless the raw key has 32 bytes."""
    if len(receipt_public_key) != 32:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(receipt_public_key)}")
    return hashlib.sha256(SPKI_PREFIX_ED25519 + receipt_public_key).hexdigest()
