"""Salted hashes of requests and responses, so that no prompt can be guessed from a ticket or a receipt (settlement.md)."""

from __future__ import annotations

import hashlib

SALT_BYTES = 32
REQUEST = b"chrysalis/v1/req\0"
RESPONSE = b"chrysalis/v1/rsp\0"


def request_hash(salt32: bytes, body: bytes) -> str:
    """`req`: of the HTTP body's bytes as received; lower-case hex.  The salt is fresh for each job and stays with the client."""
    return _hash(REQUEST, salt32, body)


def response_hash(salt32: bytes, body: bytes) -> str:
    """`rsp`: of the body's bytes as sent, before any receipt line; lower-case hex."""
    return _hash(RESPONSE, salt32, body)


def _hash(context: bytes, salt32: bytes, body: bytes) -> str:
    if len(salt32) != SALT_BYTES:
        raise ValueError(f"the salt has {SALT_BYTES} bytes, not {len(salt32)}")
    digest = hashlib.sha256(context)
    digest.update(salt32)
    digest.update(body)
    return digest.hexdigest()
