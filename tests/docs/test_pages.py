"""Every page: what it links to is there, and each command line in it is one that the program takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from chrysalis.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"`chrysalis ([^`]+)`|^(?:\$ |    )chrysalis (.+?)(?:\s+#.*)?$", re.MULTILINE)


def links() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for link in set(LINK.findall(page.read_text())):
            if not re.match(r"[a-z]+:", link):
                yield str(page.relative_to(ROOT)), link


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for spans in COMMAND.findall(page.read_text()):
            yield str(page.relative_to(ROOT)), " ".join("".join(spans).split())


def anchors(page: Path) -> set[str]:
    """As forges make them of headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)}


@pytest.mark.parametrize(("page", "link"), sorted(set(links())))
def test_a_link(page: str, link: str) -> None:
    file, _, anchor = link.partition("#")
    target = (ROOT / page).parent / file if file else ROOT / page
    assert target.exists()
    assert not anchor or anchor in anchors(target)


def alternatives(word: str, command: click.Group) -> list[click.Command]:
    """The commands that a word names: one, or several with bars between."""
    found = [command.get_command(click.Context(command), name) for name in word.strip(",").split("|")]
    assert None not in found, f"{command.name} has no {word}"
    return [one for one in found if one is not None]


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_a_command(page: str, line: str) -> None:
    words = re.sub(r"[\[\]]", " ", line.split(" | ")[0]).split()
    named: list[click.Command] = [cli]
    while words and isinstance(named[0], click.Group) and not words[0].startswith("-") and words[0] != "VERB" and "…" not in words[0]:
        named = alternatives(words.pop(0), named[0])
    for command in named:
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = {option for word in words for option in re.findall(r"^--?[a-z][a-z-]*", word)}
        assert given <= options | {"--help", "-h", "--version"}, command.name


def test_there_are_some() -> None:
    assert len(set(commands())) > 50
    assert len(set(links())) > 100
