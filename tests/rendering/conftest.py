"""A worker and its account that the golden files were rendered from."""

from __future__ import annotations

import pytest

from chrysalis.api.account import SettlementAccountSpec
from chrysalis.api.worker import ConfidentialWorkerSpec


@pytest.fixture
def account() -> SettlementAccountSpec:
    return SettlementAccountSpec.model_validate(
        {
            "funding": "OwnerFunded",
            "globalId": -217,
            "contract": "0:" + "c0" * 32,
            "liteservers": [{"host": "192.0.2.7", "port": 4443, "key": "1A" * 32}],
            "reservationKeys": ["2B" * 32],
            "feeBps": 250,
        }
    )


@pytest.fixture
def spec() -> ConfidentialWorkerSpec:
    return ConfidentialWorkerSpec.model_validate(
        {
            "replicas": 2,
            "runtimeClassName": "chrysalis-simtd",
            "image": "registry.example/chrysalis-worker@sha256:" + "11" * 32,
            "model": {
                "name": "minilm",
                "package": {"url": "http://packages.example/minilm.age", "digest": "sha256:" + "22" * 32, "sizeBytes": 25_000_000},
                "digest": "sha256:" + "33" * 32,
                "keyId": "minilm-key",
            },
            "policyRef": {"name": "minilm-policy"},
            "broker": {"url": "https://broker.example:8443", "spkiSha256": "AB" * 32, "earKey": "cd" * 32},
            "settlementAccountRef": {"name": "pool"},
            "payout": {"wallet": "UQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJKZ"},
            "prices": {"prompt": 50_000_000, "job": 1_000_000},
        }
    )
