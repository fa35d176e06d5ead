"""What a run of the command line in this process gave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chrysalis.cli.main import main


@dataclass(frozen=True)
class Outcome:
    """Exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)  # raises for anything but exactly one document
        return document

    @property
    def reasons(self) -> list[str]:
        return [reason["reason"] for reason in self.json["reasons"]]


def outcome(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Outcome:
    """Run `chrysalis WORDS`."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return Outcome(int(ended.value.code or 0), captured.out, captured.err)
