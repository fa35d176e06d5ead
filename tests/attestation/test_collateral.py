"""Collateral: exact bytes kept, a foreign chain dropped, damage refused."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import HEX_FIELDS, MAX_COLLATERAL_BYTES, TEXT_FIELDS, Collateral
from chrysalis.attestation.reasons import AttestationError
from e2e.simtd.pki import PERIOD, CollateralShape, SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
ISSUE = AT.replace(hour=0)
PLATFORM = SimulatedPlatform.create()
TEXT = PLATFORM.collateral(AT)
GOOD = Collateral.from_json(TEXT)
QUOTE = PLATFORM.quote()


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(TEXT).items() if key != name}


def test_documents_are_kept_byte_for_byte() -> None:
    again = Collateral.from_json(GOOD.to_json())
    assert again == GOOD
    assert again.to_json() == GOOD.to_json()
    assert GOOD.tcb_info == json.loads(TEXT)["tcb_info"]
    assert Collateral.from_json(TEXT.encode()) == GOOD


def test_a_pck_chain_is_dropped() -> None:
    more = json.loads(TEXT) | {"pck_certificate_chain": "x"}
    assert Collateral.from_json(json.dumps(more)) == GOOD


@pytest.mark.parametrize("name", [*TEXT_FIELDS, *HEX_FIELDS])
def test_every_document_is_needed(name: str) -> None:
    for document in (without(name), without(name) | {name: None}, without(name) | {name: 5}):
        with pytest.raises(AttestationError, match=name) as caught:
            Collateral.from_json(json.dumps(document))
        assert caught.value.reason == "CollateralMalformed"


def test_a_member_stands_once_and_lists_are_bounded() -> None:
    """Readers differ in which of two they take, and a list takes a hundred times the room of its brackets."""
    twice = TEXT.replace("{", '{"tcb_info":"",', 1)
    assert json.loads(twice) == json.loads(TEXT)
    for text, words in ((twice, "'tcb_info' twice"), (TEXT.replace("{", '{"x":[' + "[]," * 20_000 + "[]],", 1), "objects and lists")):
        with pytest.raises(AttestationError) as caught:
            Collateral.from_json(text)
        assert caught.value.reason == "CollateralMalformed"
        assert words in caught.value.detail


@pytest.mark.parametrize(
    "text",
    ["", "hello", "[]", "null", "5", "{", "[" * 100_000, b"\xff\xfe", "x" * (MAX_COLLATERAL_BYTES + 1)],
    ids=["empty", "word", "list", "null", "number", "cut", "deep", "bytes", "large"],
)
def test_what_is_no_collateral(text: str | bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        Collateral.from_json(text)
    assert caught.value.reason == "CollateralMalformed"


def test_hexadecimal_members_must_be_hexadecimal() -> None:
    with pytest.raises(AttestationError, match="pck_crl"):
        Collateral.from_json(json.dumps(without("pck_crl") | {"pck_crl": "zz"}))


def test_the_facts_of_the_documents() -> None:
    assert (GOOD.tcb.id, GOOD.qe.id, GOOD.tcb.fmspc, GOOD.tcb.pce_id) == ("TDX", "TD_QE", "51D000000000", "0000")
    assert (GOOD.tcb.issue_date, GOOD.tcb.next_update) == (ISSUE, ISSUE + PERIOD)
    assert GOOD.pck_crl_facts.this_update == ISSUE
    assert GOOD.pck_crl_facts.number == GOOD.root_crl_facts.number == int(ISSUE.timestamp()) // 86400
    later = Collateral.from_json(PLATFORM.collateral(AT + timedelta(days=1)))
    assert later.pck_crl_facts.number > GOOD.pck_crl_facts.number


def test_every_part_has_its_expiry() -> None:
    shape = CollateralShape(crl_next=AT + timedelta(hours=1), root_crl_next=AT + timedelta(hours=2))
    names = {expiry.name: expiry.at for expiry in Collateral.from_json(PLATFORM.collateral(AT, shape)).expiries}
    assert names["pckCrl.nextUpdate"] == AT + timedelta(hours=1)
    assert names["rootCrl.nextUpdate"] == AT + timedelta(hours=2)
    assert sorted(names) == [
        "pckCrl.nextUpdate",
        "qeIdentity.nextUpdate",
        "rootCrl.nextUpdate",
        "tcbInfo.nextUpdate",
        "tcbSigningCertificate.notAfter",
    ]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        Collateral.from_json(text)
    except AttestationError:
        pass


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["root_ca_crl", "pck_crl"]), st.integers(0, 400), st.integers(0, 255), st.integers(0, 500))
def test_any_change_of_a_revocation_list_is_refused_or_changes_nothing(name: str, position: int, value: int, end: int) -> None:
    data = bytearray(getattr(GOOD, name))
    data[position % len(data)] = value
    bent = dataclasses.replace(GOOD, **{name: bytes(data[: end or None])})
    verdict = appraise(quote=QUOTE, collateral=bent, policy=None, at=AT, roots=[PLATFORM.root_der])
    assert verdict.accepted == (bytes(data[: end or None]) == getattr(GOOD, name))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TEXT_FIELDS), st.integers(0, 3000), st.characters(max_codepoint=300))
def test_any_change_of_a_document_ends_in_a_verdict(name: str, position: int, value: str) -> None:
    text = getattr(GOOD, name)
    position %= len(text)
    bent = dataclasses.replace(GOOD, **{name: text[:position] + value + text[position + 1 :]})
    verdict = appraise(quote=QUOTE, collateral=bent, policy=None, at=AT, roots=[PLATFORM.root_der])
    if name in ("tcb_info", "qe_identity"):
        assert verdict.accepted == (getattr(bent, name) == text)
