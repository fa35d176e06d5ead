"""Bounds of the binding to the byte, and each claim wrong on its own: what mutants showed to be untested."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest

from chrysalis.attestation import binding
from chrysalis.attestation.reasons import AttestationError

PARTS: dict[str, Any] = {"nonce": b"\1" * 32, "tls_spki_sha256": b"\2" * 32, "hpke": b"\3" * 32, "receipt": b"\4" * 32}


def _nested(levels: int, kind: type) -> Any:
    value: Any = "end"
    for _ in range(levels):
        value = {"k": value} if kind is dict else [value]
    return value


@pytest.mark.parametrize("kind", [dict, list])
def test_an_identity_may_have_sixteen_levels_and_no_more(kind: type) -> None:
    binding.identity_cbor({"top": _nested(15, kind)})
    with pytest.raises(AttestationError, match="nested too deeply"):
        binding.identity_cbor({"top": _nested(16, kind)})
    with pytest.raises(AttestationError, match="nested too deeply"):
        binding.identity_cbor({"top": _nested(17, kind)})
    with pytest.raises(AttestationError, match="nested too deeply"):
        binding.identity_cbor({"top": _nested(40, kind)})


def test_an_element_may_have_what_its_length_prefix_can_say() -> None:
    overhead = len(binding.identity_cbor({"x": "y" * 65_000})) - 65_000
    largest = 0xFFFF - overhead
    binding.bind(**PARTS, identity={"x": "y" * largest})
    with pytest.raises(AttestationError, match="65,535 fit"):
        binding.bind(**PARTS, identity={"x": "y" * (largest + 1)})


@pytest.mark.parametrize(("size", "good"), [(31, False), (32, True), (64, True), (65, False)])
def test_sizes_of_a_gpu_digest(size: int, good: bool) -> None:
    if good:
        binding.bind(**PARTS, identity={}, gpu_digest=bytes(size))
    else:
        with pytest.raises(AttestationError):
            binding.bind(**PARTS, identity={}, gpu_digest=bytes(size))


def _claims(algorithm: object = 1, spki: object = bytes(32), transcript: object = bytes(64)) -> bytes:
    return cbor2.dumps({"pubkey-hash": cbor2.dumps([algorithm, spki], canonical=True), "nonce": transcript}, canonical=True)


def test_each_claim_has_its_type_and_size() -> None:
    assert binding.parse_claims(_claims()) == binding.Claims(bytes(32), bytes(64))
    for wrong in (
        {"algorithm": 0},
        {"algorithm": 2},
        {"spki": bytes(31)},
        {"spki": bytes(33)},
        {"spki": "0" * 32},
        {"transcript": bytes(63)},
        {"transcript": bytes(65)},
        {"transcript": "0" * 64},
    ):
        with pytest.raises(AttestationError):
            binding.parse_claims(_claims(**wrong))


def test_a_claims_buffer_of_more_than_a_kibibyte_is_not_decoded() -> None:
    with pytest.raises(AttestationError, match="is not that of"):
        binding.parse_claims(bytes(1024))
    with pytest.raises(AttestationError, match="has 1025 bytes"):
        binding.parse_claims(bytes(1025))
    with pytest.raises(AttestationError, match="has 5000 bytes"):
        binding.parse_claims(bytes(5000))


@pytest.mark.parametrize("bent", [b"\xbf" + _claims()[1:] + b"\xff", _claims() + b"\0"])
def test_another_encoding_of_the_same_claims(bent: bytes) -> None:
    with pytest.raises(AttestationError):
        binding.parse_claims(bent)
