"""The session binding: golden byte vectors, and every input changes the outcome."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation import binding
from chrysalis.attestation.reasons import AttestationError

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "docs" / "wire" / "binding.json").read_text())
VECTORS: list[dict[str, Any]] = GOLDEN["vectors"]
INPUTS: dict[str, Any] = {
    "nonce": b"\1" * 32,
    "tls_spki_sha256": b"\2" * 32,
    "hpke": b"\3" * 32,
    "receipt": b"\4" * 32,
    "identity": {"measured": {"a": 1}, "claimed": {}},
}


def inputs(vector: dict[str, Any]) -> dict[str, Any]:
    names = {"nonce": "nonce", "tls_spki_sha256": "tlsSpkiSha256", "hpke": "hpke", "receipt": "receipt"}
    return {name: bytes.fromhex(vector[member]) for name, member in names.items()} | {"identity": vector["identity"]}


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_golden_vectors(vector: dict[str, Any]) -> None:
    made = binding.bind(**inputs(vector), gpu_digest=bytes.fromhex(vector["gpuDigest"]))
    assert binding.identity_cbor(vector["identity"]).hex() == vector["identityCbor"]
    assert made.transcript.hex() == vector["transcript"]
    assert made.claims_buffer.hex() == vector["claimsBuffer"]
    assert made.report_data.hex() == vector["reportData"]
    assert binding.gpu_nonce(**inputs(vector)).hex() == vector["gpuNonce"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_golden_vectors_follow_from_the_stated_construction(vector: dict[str, Any]) -> None:
    parts = b""
    for member in ("nonce", "tlsSpkiSha256", "hpke", "receipt", "identityCbor"):
        value = bytes.fromhex(vector[member])
        parts += len(value).to_bytes(2, "big") + value
    gpu = bytes.fromhex(vector["gpuDigest"])
    transcript = hashlib.sha512(b"chrysalis/v1/session" + parts + len(gpu).to_bytes(2, "big") + gpu).digest()
    assert transcript.hex() == vector["transcript"]
    assert hashlib.sha256(b"chrysalis/v1/gpu" + parts).hexdigest() == vector["gpuNonce"]
    # {"nonce": 64 bytes, "pubkey-hash": bytes of [1, 32 bytes]}, written out
    claims = b"\xa2\x65nonce\x58\x40" + transcript + b"\x6bpubkey-hash\x58\x24\x82\x01\x58\x20" + bytes.fromhex(vector["tlsSpkiSha256"])
    assert claims.hex() == vector["claimsBuffer"]
    assert vector["reportData"] == hashlib.sha256(claims).hexdigest() + "00" * 32
    assert cbor2.loads(bytes.fromhex(vector["identityCbor"])) == vector["identity"]


def test_every_input_is_bound() -> None:
    seen = {binding.bind(**INPUTS).report_data}
    for name in ("nonce", "tls_spki_sha256", "hpke", "receipt"):
        seen.add(binding.bind(**(INPUTS | {name: b"\xff" * 32})).report_data)
    seen.add(binding.bind(**(INPUTS | {"identity": {}})).report_data)
    seen.add(binding.bind(**INPUTS, gpu_digest=bytes(32)).report_data)
    seen.add(binding.bind(**(INPUTS | {"hpke": INPUTS["receipt"], "receipt": INPUTS["hpke"]})).report_data)
    assert len(seen) == 8


def test_order_of_keys_does_not_matter() -> None:
    one = binding.bind(**(INPUTS | {"identity": {"a": 1, "bb": 2}}))
    assert one == binding.bind(**(INPUTS | {"identity": {"bb": 2, "a": 1}}))


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": b""},
        {"nonce": b"\1" * 31},
        {"tls_spki_sha256": b"\1" * 33},
        {"hpke": b""},
        {"receipt": b"\1" * 64},
        {"identity": {"x": 1.5}},
        {"identity": {1: "x"}},
        {"identity": {"x": {"y": {2: 3}}}},
        {"identity": {"x": "y" * 70_000}},
        {"gpu_digest": b"\1"},
    ],
)
def test_what_cannot_be_bound(change: dict[str, Any]) -> None:
    with pytest.raises(AttestationError) as caught:
        binding.bind(**(INPUTS | change))
    assert caught.value.reason == "BindingInvalid"


def test_nesting_is_bounded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"x": deep}
    with pytest.raises(AttestationError):
        binding.identity_cbor(deep)


def test_claims_are_read_back() -> None:
    made = binding.bind(**INPUTS)
    claims = binding.parse_claims(made.claims_buffer)
    assert (claims.spki_sha256, claims.transcript) == (INPUTS["tls_spki_sha256"], made.transcript)


@pytest.mark.parametrize(
    "claims",
    [
        b"",
        b"\xa0",
        cbor2.dumps({"pubkey-hash": b"x", "nonce": bytes(64)}),
        cbor2.dumps({"pubkey-hash": cbor2.dumps([7, bytes(32)]), "nonce": bytes(64)}),
        cbor2.dumps({"pubkey-hash": cbor2.dumps([1, bytes(31)]), "nonce": bytes(64)}),
        cbor2.dumps({"pubkey-hash": cbor2.dumps([1, bytes(32)]), "nonce": bytes(32)}),
        cbor2.dumps({"pubkey-hash": cbor2.dumps([1, bytes(32)]), "nonce": bytes(64), "more": 1}),
        cbor2.dumps({"pubkey-hash": cbor2.dumps([1, bytes(32)]), "nonce": bytes(64)}),  # keys in the wrong order
        binding.claims_buffer(bytes(32), bytes(64)) + b"\0",
        bytes(2000),
        b"\x9f" * 500,
    ],
)
def test_claims_of_another_form(claims: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        binding.parse_claims(claims)
    assert caught.value.reason == "BindingInvalid"


@given(st.binary(max_size=300))
def test_any_bytes_are_claims_or_refused(data: bytes) -> None:
    try:
        binding.parse_claims(data)
    except AttestationError:
        pass
