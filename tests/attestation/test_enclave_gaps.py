"""What other verifiers refused and dcap-qvl does not: found by asking them (tests/differential)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.verdict import Verdict
from e2e.opinions import cases
from e2e.opinions.cases import AT, QE_REPORT_DATA, Subject
from e2e.simtd.pki import CollateralShape


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(4)


def _judge(subject: Subject, quote: bytes | None = None, documents: dict[str, str] | None = None) -> Verdict:
    collateral = Collateral.from_json(json.dumps(documents or subject.documents()))
    return appraise(quote=quote or subject.good, collateral=collateral, policy=None, at=AT, roots=[subject.platform.root_der])


STATUSES = {
    # (of the platform, of the quoting enclave): what both are together
    ("UpToDate", "UpToDate"): "UpToDate",
    ("UpToDate", "ConfigurationNeeded"): "ConfigurationNeeded",
    ("UpToDate", "OutOfDate"): "OutOfDate",
    ("UpToDate", "OutOfDateConfigurationNeeded"): "OutOfDateConfigurationNeeded",
    ("SWHardeningNeeded", "ConfigurationNeeded"): "ConfigurationAndSWHardeningNeeded",
    ("ConfigurationNeeded", "ConfigurationNeeded"): "ConfigurationNeeded",
    ("ConfigurationNeeded", "OutOfDate"): "OutOfDateConfigurationNeeded",
    ("OutOfDate", "ConfigurationNeeded"): "OutOfDateConfigurationNeeded",
    ("OutOfDate", "OutOfDateConfigurationNeeded"): "OutOfDateConfigurationNeeded",
    ("SWHardeningNeeded", "UpToDate"): "SWHardeningNeeded",
}


@pytest.mark.parametrize(("platform", "enclave"), STATUSES)
def test_a_quoting_enclave_that_is_not_up_to_date_is_part_of_the_platforms_status(subject: Subject, platform: str, enclave: str) -> None:
    verdict = _judge(subject, documents=subject.documents(CollateralShape(status=platform, qe_status=enclave)))
    together = STATUSES[platform, enclave]
    assert verdict.tcb_status == together
    assert verdict.accepted == (together == "UpToDate")


def test_the_enclaves_report_binds_the_key_and_nothing_else(subject: Subject) -> None:
    assert _judge(subject, subject.enclave(QE_REPORT_DATA + 63, b"\x00")).accepted
    verdict = _judge(subject, subject.enclave(QE_REPORT_DATA + 63, b"\x01"))
    assert [reason.reason for reason in verdict.reasons] == ["QeIdentityMismatch"]


@pytest.mark.parametrize(("which", "known"), [("tcb", 3), ("qe", 2)])
def test_documents_of_versions_that_nobody_has_read_yet(subject: Subject, which: str, known: int) -> None:
    def version(number: int) -> cases.Edit:
        def edit(info: dict[str, Any], identity: dict[str, Any]) -> None:
            (info if which == "tcb" else identity)["version"] = number

        return edit

    assert _judge(subject, documents=subject.rewritten(version(known))).accepted
    verdict = _judge(subject, documents=subject.rewritten(version(known + 1)))
    assert verdict.reasons[0].reason == "CollateralMismatch"
    assert f"version {known + 1}" in verdict.reasons[0].message
