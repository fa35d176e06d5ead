"""Salted hashes: contexts and salts keep them apart."""

from __future__ import annotations

import hashlib

import pytest

from chrysalis.receipts import salted


def test_hashes_are_the_stated_formula_and_differ_by_context_and_salt() -> None:
    salt = bytes(32)
    assert salted.request_hash(salt, b"x") == hashlib.sha256(b"chrysalis/v1/req\0" + salt + b"x").hexdigest()
    assert salted.response_hash(salt, b"x") == hashlib.sha256(b"chrysalis/v1/rsp\0" + salt + b"x").hexdigest()
    assert salted.request_hash(b"\1" * 32, b"x") != salted.request_hash(salt, b"x")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_salt_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        salted.request_hash(bytes(size), b"")
