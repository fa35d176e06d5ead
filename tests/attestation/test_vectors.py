"""Real quotes and real Intel collateral: every outcome that the vectors' manifest states, each under the vector's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chrysalis.attestation import eventlog
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.quote import parse, read
from chrysalis.clock import from_unix

pytestmark = pytest.mark.vectors

OUTCOMES = {
    ("automata/quotev4.hex", "fb-dcap-quote-collateral-00"): "TcbOutOfDate",
    ("automata/quotev4.hex", "mix-0080-2025-06"): "TcbOutOfDate",
    ("automata/quotev4.hex", "mix-0080-2025-10"): "TcbOutOfDate",
    ("dcap-qvl/quote-from-tappd.hex", "near-b0c0-2026-08"): "TcbLevelNotFound",
    ("dcap-qvl/quote-from-tappd.hex", "qvl-b0c0-2025-06"): "TcbLevelNotFound",
    ("dcap-qvl/tdx_quote", "near-b0c0-2026-08"): "TcbOutOfDate",
    ("dcap-qvl/tdx_quote", "qvl-b0c0-2025-06"): "",
    ("dcap-qvl/tdx_quote_outdated", "qvl-90c0-2026-02"): "TcbLevelNotFound",
    ("edgeless/quote", "fb-dcap-quote-collateral-00"): "TcbOutOfDate",
    ("edgeless/quote", "mix-0080-2025-06"): "TcbOutOfDate",
    ("edgeless/quote", "mix-0080-2025-10"): "TcbOutOfDate",
    ("go-tdx-guest/cos-113-tdx-quote.dat", "fb-dcap-quote-collateral-00"): "TcbOutOfDate",
    ("go-tdx-guest/cos-113-tdx-quote.dat", "mix-0080-2025-06"): "",
    ("go-tdx-guest/cos-113-tdx-quote.dat", "mix-0080-2025-10"): "",
    ("go-tdx-guest/quote_v5_sample.dat", "qvl-90c0-2026-02"): "",
    ("go-tdx-guest/tdx_prod_quote_SPR_E4.dat", "go-5080-2023"): "TcbLevelNotFound",
    ("trustee/td-quote.bin", "fb-dcap-quote-collateral-00"): "SeptVeDisableOff",
    ("trustee/td-quote.bin", "mix-0080-2025-06"): "SeptVeDisableOff",
    ("trustee/td-quote.bin", "mix-0080-2025-10"): "SeptVeDisableOff",
    ("trustee/tdx_quote_4.dat", "go-5080-2023"): "TdDebugEnabled",
    ("dstack/quote-report.json", "qvl-90c0-2026-02"): "",
}
"""First reason of each quote under each collateral; empty where it is accepted."""
WORDS = {
    "TcbLevelNotFound": "No matching TCB level found",
    "SeptVeDisableOff": "SEPT_VE_DISABLE is not enabled",
    "TdDebugEnabled": "Debug mode is enabled",
}


@pytest.fixture(scope="session")
def manifest(vectors: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((vectors / "MANIFEST.json").read_text())
    return document


def test_every_outcome_of_the_manifest_is_in_the_table(manifest: dict[str, Any]) -> None:
    assert sorted((item["quote"], item["bundle"]) for item in manifest["outcomes"]) == sorted(OUTCOMES)
    assert len(OUTCOMES) == 21


@pytest.mark.parametrize(("quote", "bundle"), OUTCOMES, ids=[f"{quote}@{bundle}" for quote, bundle in OUTCOMES])
def test_outcome(vectors: Path, manifest: dict[str, Any], quote: str, bundle: str) -> None:
    stated = next(item for item in manifest["outcomes"] if (item["quote"], item["bundle"]) == (quote, bundle))
    verdict = appraise(
        quote=read((vectors / quote).read_bytes()),
        collateral=Collateral.from_json((vectors / "collateral" / f"{bundle}.json").read_bytes()),
        policy=None,
        at=from_unix(stated["now"]),
    )
    expected = OUTCOMES[quote, bundle]
    assert (verdict.reasons[0].reason if verdict.reasons else "") == expected
    assert verdict.accepted == (expected == "")
    assert verdict.fmspc == stated["fmspc"].upper()
    if stated["result"] == "OK":
        assert verdict.evidence_class == "Hardware"
        assert verdict.tcb_status == stated["detail"]["status"]
        assert verdict.advisory_ids == stated["detail"]["advisories"]
    else:
        assert WORDS[expected] in stated["detail"]
        assert verdict.evidence_class is None
    window = next(item for item in manifest["collateral"] if item["bundle"] == bundle)
    if verdict.accepted:
        assert verdict.to_json_dict()["expiresAt"] == window["valid_to"]
        limits = {
            "tcb": "tcbInfo.nextUpdate",
            "qe": "qeIdentity.nextUpdate",
            "pckcrl": "pckCrl.nextUpdate",
            "rootcrl": "rootCrl.nextUpdate",
        }
        assert verdict.limited_by == limits[window["valid_to_limited_by"]]


def test_an_sgx_quote_is_of_an_unsupported_type(vectors: Path) -> None:
    bundle = Collateral.from_json((vectors / "collateral" / "qvl-sgx-2025-06.json").read_bytes())
    quote = (vectors / "dcap-qvl" / "sgx_quote").read_bytes()
    verdict = appraise(quote=quote, collateral=bundle, policy=None, at=from_unix(1751000000))
    assert [reason.reason for reason in verdict.reasons] == ["QuoteTypeUnsupported"]


def test_collateral_of_another_platform_is_named_before_anything_else(vectors: Path) -> None:
    bundle = Collateral.from_json((vectors / "collateral" / "qvl-20a0-2025-09.json").read_bytes())
    verdict = appraise(quote=(vectors / "dcap-qvl" / "tdx_quote").read_bytes(), collateral=bundle, policy=None, at=from_unix(1751624191))
    assert verdict.reasons[0].reason == "CollateralMismatch"


def test_expired_collateral(vectors: Path) -> None:
    bundle = Collateral.from_json((vectors / "collateral" / "qvl-b0c0-2025-06.json").read_bytes())
    quote = (vectors / "dcap-qvl" / "tdx_quote").read_bytes()
    verdict = appraise(quote=quote, collateral=bundle, policy=None, at=from_unix(1751624191 + 40 * 86400))
    assert [reason.reason for reason in verdict.reasons] == ["CollateralExpired"]


def test_a_chain_in_the_collateral_is_dropped(vectors: Path) -> None:
    path = vectors / "collateral" / "near-b0c0-2026-08.json"
    assert "pck_certificate_chain" in json.loads(path.read_text())
    assert "pck_certificate_chain" not in json.loads(Collateral.from_json(path.read_bytes()).to_json())


@pytest.mark.parametrize("name", ["go-tdx-guest/ccel_data.dat", "cctrusted/ccel_data.bin"])
def test_event_log_replays_as_stated(vectors: Path, manifest: dict[str, Any], name: str) -> None:
    stated = next(item for item in manifest["eventLogs"] if item["eventLog"] == name)
    events = eventlog.parse((vectors / name).read_bytes())
    registers = eventlog.replay(events)
    quote = parse((vectors / stated["quote"]).read_bytes())
    assert len(events) in (stated["events"], stated["events"] - 1)  # the manifest may count the header
    assert [register.hex() for register in registers] == stated["rtmrs"]
    assert [one == two for one, two in zip(registers, quote.rtmrs, strict=True)] == stated["matches"]
