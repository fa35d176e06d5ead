"""Every verb's help says its exit codes and shows an example that the parser takes; shells complete verbs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from chrysalis.cli.examples import HELP
from chrysalis.cli.main import cli

KEY, LONG = "ab" * 32, "ab" * 64
NAMES: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
"""As the program has them: a command keeps the first that it is asked with."""
GIVEN = {"$RTMR": "ab" * 48, "$REPORT_DATA": LONG}


def verbs(command: click.Command = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, by its words."""
    if not isinstance(command, click.Group):
        yield " ".join(words), command
        return
    context = click.Context(command, **NAMES)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from verbs(found, (*words, name))


VERBS = dict(verbs())


def test_the_table_names_verbs() -> None:
    assert set(HELP) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb: str) -> None:
    shown = VERBS[verb].get_help(click.Context(VERBS[verb], info_name=verb, max_content_width=200, terminal_width=200, **NAMES))
    assert "\n  chrysalis " in re.sub(r"\n +chrysalis ", "\n  chrysalis ", shown)
    assert re.search(r"(?i)\bexit (?:code:? )?\d|exit codes?:", shown), shown
    for option in VERBS[verb].params:
        assert not isinstance(option, click.Option) or option.help or "--output" in option.opts or option.name == "output", option.name


@pytest.mark.parametrize("line", sorted({line for _, lines in HELP.values() for line in lines}))
def test_an_example_is_taken(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def path(self: click.Path, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(value)

    monkeypatch.setattr(click.Path, "convert", path)  # the files need not be there
    words = [re.sub(r"\$[A-Z_]+", lambda name: GIVEN.get(name[0], KEY), word) for word in shlex.split(line)]
    if ">" in words:
        words = words[: words.index(">")]
    verb = next(name for name in sorted(VERBS, key=len, reverse=True) if line.startswith(name + " ") or line == name)
    context = VERBS[verb].make_context(verb, words[len(verb.split()) :], **NAMES)
    assert context.params


@pytest.mark.parametrize(("shell", "marker"), [("bash", "complete -o"), ("zsh", "#compdef chrysalis"), ("fish", "complete --no-files")])
def test_completion_scripts(shell: str, marker: str) -> None:
    done = subprocess.run([sys.executable, "-m", "chrysalis.cli.main", "completion", shell], capture_output=True, text=True, timeout=60)
    assert (done.returncode, marker in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("ver", "plain,verify"), ("policy si", "plain,sign"), ("verify --coll", "plain,--collateral"), ("infer --mode e", "plain,ear")],
)
def test_a_shell_completes(typed: str, offered: str) -> None:
    environment = os.environ | {
        "_CHRYSALIS_COMPLETE": "bash_complete",
        "COMP_WORDS": f"chrysalis {typed}",
        "COMP_CWORD": str(len(typed.split())),
    }
    done = subprocess.run([sys.executable, "-m", "chrysalis.cli.main"], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, offered in done.stdout.splitlines()) == (0, True), done.stdout + done.stderr
