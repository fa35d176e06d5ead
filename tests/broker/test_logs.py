"""Log lines: one JSON object each, with what their callers meant to say and nothing else."""

from __future__ import annotations

import ast
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from chrysalis.broker import logs

BROKER = Path(logs.__file__).parent


def said(**extra: Any) -> dict[str, Any]:
    record = logging.LogRecord("chrysalis.broker.x", logging.INFO, __file__, 1, "it %s", ("works",), None)
    vars(record).update(extra)
    line: dict[str, Any] = json.loads(logs.JsonLines().format(record))
    return line


def test_a_line_is_an_object() -> None:
    line = said(event="Start", reason="", seconds=0, revoked=3, secret="AGE-SECRET-KEY-1")
    assert (line["level"], line["logger"], line["message"], line["event"]) == ("INFO", "chrysalis.broker.x", "it works", "Start")
    assert (line["seconds"], line["revoked"]) == (0, 3)  # numbers stay numbers, and nought is one
    assert not {"secret", "reason"} & set(line)
    assert line["time"].endswith("+00:00")


def test_of_an_exception_only_the_class_is_written() -> None:
    try:
        raise ValueError("AGE-SECRET-KEY-1")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    text = logs.JsonLines().format(record)
    assert "AGE-SECRET-KEY-1" not in text
    assert json.loads(text)["exception"] == "ValueError"


def extras() -> list[tuple[str, str]]:
    """Each attribute that some call of a logger in the broker adds, with its file."""
    found = []
    for path in sorted(BROKER.rglob("*.py")):
        tree = ast.parse(path.read_text())
        dictionaries = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "extra":
                value = dictionaries.get(node.value.id) if isinstance(node.value, ast.Name) else node.value
                assert isinstance(value, ast.Dict), f"{path}: extra is not written out"
                found += [(key.value, path.name) for key in value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    return found


def test_nothing_that_a_caller_says_is_lost() -> None:
    assert len(extras()) > 20
    assert [(name, file) for name, file in extras() if name not in logs.EXTRA] == []


@pytest.mark.parametrize("name", ["key", "token", "authorization", "quote", "evidence", "prompt", "msg", "args"])
def test_nothing_secret_has_a_name(name: str) -> None:
    assert name not in logs.EXTRA
