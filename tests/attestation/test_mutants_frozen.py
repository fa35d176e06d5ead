"""What was judged is handed around and remembered, so nobody can change it afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from chrysalis.attestation import appraisal, binding, genuineness, rules
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.quote import parse
from e2e.simtd.pki import SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
PARTS: dict[str, Any] = {"nonce": bytes(32), "tls_spki_sha256": bytes(32), "hpke": bytes(32), "receipt": bytes(32), "identity": {}}
JUDGED: dict[str, Callable[[SimulatedPlatform, bytes], Any]] = {
    "what is proved of a platform": lambda platform, _: genuineness.verify(
        parse(platform.quote()), Collateral.from_json(platform.collateral(AT)), AT, [platform.root_der]
    ),
    "a certificate chain": lambda platform, _: genuineness._chain_facts(platform.pck_chain.encode()),
    "the outcome of genuineness": lambda platform, _: appraisal._prove(
        parse(platform.quote()), Collateral.from_json(platform.collateral(AT)), None, [platform.root_der], AT
    ),
    "what a rule found": lambda *_: rules.Finding(),
    "a configuration": lambda _, initdata: rules.configuration(initdata),
    "a session": lambda *_: binding.bind(**PARTS),
    "its claims": lambda *_: binding.parse_claims(binding.bind(**PARTS).claims_buffer),
}


@pytest.mark.parametrize("what", JUDGED)
def test_what_was_judged_stays_as_it_is(platform: SimulatedPlatform, initdata: bytes, what: str) -> None:
    judged = JUDGED[what](platform, initdata)
    for field in dataclasses.fields(judged):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(judged, field.name, None)
