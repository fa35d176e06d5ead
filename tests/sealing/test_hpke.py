"""HPKE: agrees with RFC 9180 worked out by hand, and binds to key and info."""

from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from chrysalis.sealing import hpke
from chrysalis.sealing.reasons import SealingError, SealingReason

INFO = hpke.model_key_info("minilm", "sha256:" + "ab" * 32, "01900000-0000-7000-8000-000000000000")


def _extract(salt: bytes, suite: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")


def _expand(prk: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return hmac.digest(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info + b"\x01", "sha256")[:length]


def open_by_hand(private: X25519PrivateKey, wrapped: bytes, info: bytes) -> bytes:
    """RFC 9180, sections 4.1, 5.1 and 6.1: mode_base, KEM 0x0020, KDF 0x0001, AEAD 0x0003."""
    enc, ciphertext = wrapped[:32], wrapped[32:]
    kem = b"KEM" + (0x20).to_bytes(2, "big")
    shared = private.exchange(X25519PublicKey.from_public_bytes(enc))
    secret = _expand(_extract(b"", kem, b"eae_prk", shared), kem, b"shared_secret", enc + private.public_key().public_bytes_raw(), 32)
    suite = b"HPKE" + b"".join(n.to_bytes(2, "big") for n in (0x20, 1, 3))
    context = b"\0" + _extract(b"", suite, b"psk_id_hash", b"") + _extract(b"", suite, b"info_hash", info)
    prk = _extract(secret, suite, b"secret", b"")
    key, nonce = _expand(prk, suite, b"key", context, 32), _expand(prk, suite, b"base_nonce", context, 12)
    return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, b"")


def test_it_is_rfc_9180() -> None:
    private = X25519PrivateKey.generate()
    wrapped = hpke.wrap(private.public_key().public_bytes_raw(), b"secret", INFO)
    assert open_by_hand(private, wrapped, INFO) == b"secret" == hpke.unwrap(private, wrapped, INFO)


def test_the_info_is_that_of_the_design() -> None:
    assert hpke.model_key_info("a", "bc", "") == b"chrysalis/v1/model-key\x00\x01a\x00\x02bc\x00\x00"


@pytest.mark.parametrize("part", ["key", "info", "ciphertext", "enc", "short"])
def test_refusals(part: str) -> None:
    private = X25519PrivateKey.generate()
    wrapped = hpke.wrap(private.public_key().public_bytes_raw(), b"secret", INFO)
    changed = {
        "ciphertext": wrapped[:-1] + bytes([wrapped[-1] ^ 1]),
        "enc": bytes([wrapped[0] ^ 1]) + wrapped[1:],
        "short": wrapped[:31],
    }.get(part, wrapped)
    with pytest.raises(SealingError) as caught:
        hpke.unwrap(X25519PrivateKey.generate() if part == "key" else private, changed, INFO[:-1] if part == "info" else INFO)
    assert caught.value.reason == SealingReason.WRAPPED_KEY_INVALID


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32)], ids=["none", "short", "low order"])
def test_unusable_keys(public: bytes) -> None:
    with pytest.raises(SealingError) as caught:
        hpke.wrap(public, b"secret", INFO)
    assert caught.value.reason == SealingReason.WRAPPED_KEY_INVALID
