"""The README's commands are commands: each verb and each option exists, and so does each file that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from chrysalis.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split(" #")[0].split(" | ")[0].removeprefix("$ chrysalis ") for line in README.splitlines() if line.startswith("$ chrysalis ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command(line: str) -> None:
    words = shlex.split(line)
    command: click.Command = cli
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, name
        command = found
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert [word for word in words if word.startswith("-") and word not in options] == []


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:docs|tests|e2e|helm|operator|bench|worker-image|contracts|crds)/[\w./-]*)`", README)))
)
def test_a_file(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)", README))))
def test_a_target(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
