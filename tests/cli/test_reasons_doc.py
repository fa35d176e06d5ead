"""docs/reasons.md is what the code says, and every reason has a cause, a remedy and a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chrysalis.attestation import appraisal
from chrysalis.cli import reasons_doc

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def entries() -> list[reasons_doc.Entry]:
    return reasons_doc.collect(ROOT)


def test_the_document_is_current(entries: list[reasons_doc.Entry]) -> None:
    made = reasons_doc.render(entries)
    assert (ROOT / "docs" / "reasons.md").read_text() == made, "run `make docs`"


@pytest.mark.parametrize("part", ["causes", "remedies", "tests"])
def test_every_reason_is_explained_and_tested(entries: list[reasons_doc.Entry], part: str) -> None:
    lacking = [f"{entry.enum}.{entry.word}" for entry in entries if not getattr(entry, part)]
    assert lacking == []


def test_what_is_found(entries: list[reasons_doc.Entry]) -> None:
    found = {entry.word: entry for entry in entries}
    assert len({(entry.enum, entry.word) for entry in entries}) == len(entries)
    debug = found["TdDebugEnabled"]
    assert debug.causes == ["the trust domain runs in debug mode"]
    assert debug.remedies == ["start the trust domain without debugging; its memory can be read by the host now"]
    assert all(test.startswith("tests/attestation/") for test in debug.tests)
    enums = {entry.enum for entry in entries}
    assert enums >= {"AttestationReason", "GpuReason", "BrokerReason", "WireReason", "ClientReason", "WorkerReason"}


def test_a_module_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reasons_doc.main([]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["attestation.md", "reasons.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    links = re.findall(r"\]\(([^)#\s]+)\)", text)
    assert links
    assert [link for link in links if not link.startswith("http") and not (ROOT / "docs" / link).exists()] == []


def test_the_steps_of_the_document_are_those_of_the_code() -> None:
    steps = re.findall(r"^\| (\d+) (\w+)", (ROOT / "docs" / "attestation.md").read_text(), re.MULTILINE)
    code = re.findall(r"^    (\d+)\. (\w+)", appraisal.appraise.__doc__ or "", re.MULTILINE)
    assert [number for number, _ in steps] == [number for number, _ in code] == [str(number) for number in range(1, 13)]
