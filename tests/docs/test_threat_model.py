"""The threat model names a test for each attack; each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/threat-model.md", "docs/attestation.md")
REFERENCE = re.compile(r"`((?:tests|e2e)/[\w/]+\.py)(?:::(\w+))?`")


def references() -> list[tuple[str, str, str]]:
    """Every (page, file, test or "") that the pages name."""
    found = []
    for page in PAGES:
        if (path := ROOT / page).exists():
            found += [(page, *match) for match in REFERENCE.findall(path.read_text())]
    return found


@pytest.mark.parametrize(("page", "file", "name"), sorted(set(references())))
def test_a_named_test_exists(page: str, file: str, name: str) -> None:
    path = ROOT / file
    assert path.is_file(), f"{page} names {file}, which does not exist"
    if name:
        assert re.search(rf"^\s*(async )?def {name}\b", path.read_text(), re.MULTILINE), f"{page} names {name}, which {file} does not have"


def test_every_attack_has_a_test() -> None:
    attacks = (ROOT / PAGES[0]).read_text().partition("## Evidence")[2]
    rows = [line for line in attacks.splitlines() if line.startswith("| ") and not line.startswith("| attack")]
    assert len(rows) > 30
    assert [row for row in rows if not REFERENCE.search(row)] == []
