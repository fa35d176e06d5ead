"""What docs/cli.md says of the documents that `-o json` prints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def _table() -> dict[str, list[str]]:
    found = {}
    for line in PAGE.read_text().partition("\nResults:\n")[2].splitlines():
        if line.startswith("| `"):
            verbs, members = line.strip("| ").split(" | ")
            outside = re.sub(r"\([^()]*\)", "", re.sub(r"\[[^]]*\]\([^)]*\)", "", members)).partition(", as ")[0]
            for verb in re.findall(r"`([^`]+)`", verbs):
                found[verb] = ["schemaVersion", *re.findall(r"`(\w+)`", outside)]
    return found


MEMBERS = _table()


def told(document: Mapping[str, Any], verb: str) -> bool:
    """Whether the document has exactly the members that the page names, schemaVersion first; raises AssertionError with both."""
    assert sorted(document) == sorted(MEMBERS[verb]), verb
    return next(iter(document)) == "schemaVersion"
