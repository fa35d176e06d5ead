"""The simulated platform: private keys that last, names that say what it is, and documents that verifiers accept."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.eventlog import parse, replay
from e2e.simtd import der, eventlog
from e2e.simtd.pki import ORGANISATION, STATE_FILE, TCB_SIGNER_NAME, SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def accepted(platform: SimulatedPlatform, quote: bytes, at: datetime = AT) -> bool:
    bundle = Collateral.from_json(platform.collateral(at))
    return appraise(quote=quote, collateral=bundle, policy=None, at=at, roots=[platform.root_der]).accepted


def test_the_keys_stay_in_a_private_file(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = SimulatedPlatform.load_or_create(state, AT)
    again = SimulatedPlatform.load_or_create(state, AT)
    assert first.root_der == again.root_der
    assert accepted(first, again.quote())
    assert stat.S_IMODE((state / STATE_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert SimulatedPlatform.load_or_create(tmp_path / "other").root_der != first.root_der


def test_a_damaged_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_text("{}")
    with pytest.raises(KeyError):
        SimulatedPlatform.load_or_create(tmp_path)


def test_a_clock_outside_the_certificates(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2019"):
        SimulatedPlatform.load_or_create(tmp_path, datetime(2019, 1, 1, tzinfo=UTC))


def test_every_certificate_says_that_it_is_simulated() -> None:
    for name, certificate in SimulatedPlatform.create().certificates.items():
        (common,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        (organisation,) = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        assert organisation.value == ORGANISATION
        assert common.value == TCB_SIGNER_NAME if name == "tcb" else str(common.value).startswith("Simulated")


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("days", [0, 1, 400])
def test_its_evidence_is_accepted_under_its_root(version: int, days: int) -> None:
    platform = SimulatedPlatform.create()
    assert accepted(platform, platform.quote(version=version), AT + timedelta(days=days))


def test_collateral_of_one_day_is_of_one_issue() -> None:
    platform = SimulatedPlatform.create()
    morning = json.loads(platform.collateral(AT.replace(hour=1)))
    evening = json.loads(platform.collateral(AT.replace(hour=23)))
    assert morning["tcb_info"] == evening["tcb_info"]
    assert json.loads(platform.collateral(AT + timedelta(days=1)))["tcb_info"] != morning["tcb_info"]


def test_the_reference_values_are_those_of_its_quotes_and_its_event_log() -> None:
    platform = SimulatedPlatform.create()
    values = platform.reference_values()
    registers = replay(parse(platform.event_log))
    assert [value.hex() for value in registers] == [values[f"rtmr{index}"] for index in range(4)]
    bundle = Collateral.from_json(platform.collateral(AT))
    verdict = appraise(quote=platform.quote(), collateral=bundle, policy=None, at=AT, roots=[platform.root_der])
    for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig"):
        assert verdict.measurements[name] == values[name]


def test_the_measurements_do_not_change_by_accident() -> None:
    assert eventlog.VERSION == "1"
    assert eventlog.MRTD.hex()[:16] == "ee416e06cb08f4b7"
    assert eventlog.RTMR2.hex()[:16] == "4ab28d2b7c6cfeee"


def test_a_quotes_fields_have_their_lengths() -> None:
    platform = SimulatedPlatform.create()
    with pytest.raises(ValueError, match="584"):
        platform.quote(bytes(63))


@pytest.mark.parametrize("dotted", ["1.2.840.113741.1.13.1.2.17", "2.23.133.5.4.9", "1.3.6.1.4.1.16777216"])
def test_object_identifiers(dotted: str) -> None:
    certificate = SimulatedPlatform.create().certificates["pck"]
    extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(der.SGX_EXTENSION)).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    encoded = der.oid(dotted)
    assert encoded[0] == 6
    assert encoded[1] == len(encoded) - 2
    if dotted.startswith(der.SGX_EXTENSION):
        assert encoded in extension.value


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 65_535])
def test_lengths(length: int) -> None:
    encoded = der.octets(bytes(length))
    head = encoded[1 : len(encoded) - length]
    assert (head[0] if head[0] < 0x80 else int.from_bytes(head[1:], "big")) == length
