"""The binding of a broker's own evidence: golden bytes, and nothing that could be a worker's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chrysalis.attestation import binding
from chrysalis.attestation.broker_binding import bind_broker
from chrysalis.attestation.reasons import AttestationError, AttestationReason

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "docs" / "wire" / "binding.json").read_text())["brokerVectors"]
GOOD = {"nonce": b"n" * 32, "tls_spki_sha256": b"t" * 32, "ear_key": b"e" * 32}


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["name"])
def test_golden_vectors(vector: dict[str, Any]) -> None:
    bound = bind_broker(
        nonce=bytes.fromhex(vector["nonce"]),
        tls_spki_sha256=bytes.fromhex(vector["tlsSpkiSha256"]),
        ear_key=bytes.fromhex(vector["earKey"]),
    )
    found = (bound.transcript.hex(), bound.claims_buffer.hex(), bound.report_data.hex())
    assert found == (vector["transcript"], vector["claimsBuffer"], vector["reportData"])
    assert binding.parse_claims(bound.claims_buffer).spki_sha256.hex() == vector["tlsSpkiSha256"]


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_part_counts_and_has_its_length(name: str) -> None:
    good = bind_broker(**GOOD)
    assert bind_broker(**(GOOD | {name: b"x" * 32})).report_data != good.report_data
    for wrong in (b"", b"x" * 31, b"x" * 33):
        with pytest.raises(AttestationError) as refused:
            bind_broker(**(GOOD | {name: wrong}))
        assert refused.value.reason == AttestationReason.BINDING_INVALID


def test_it_is_no_workers_session() -> None:
    worker = binding.bind(nonce=b"n" * 32, tls_spki_sha256=b"t" * 32, hpke=b"e" * 32, receipt=b"e" * 32, identity={})
    assert worker.transcript != bind_broker(**GOOD).transcript
