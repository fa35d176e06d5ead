"""docs/reasons.md out of the code: each reason of a refusal, its cause, its remedy, where it arises and where its test is.

    python -m chrysalis.cli.reasons_doc docs

The causes are the messages that stand beside a reason in the code (a value that is filled in shows as …); the remedies are
the package's table, or stand beside the message.  A test is any test that names the word.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

PACKAGES = ("attestation", "broker", "wire", "sealing", "cli", "client")
"""Whose reasons are listed, beside the worker's."""
WORKER = "worker"
_STATUS = "the platform's TCB status is …; allowed: …"
_FILE = "… cannot be read: …; or … has more than … bytes"
_ROOT = "… is not a certificate"
_LISTED = "read the reasons that are listed with it; each has its remedy"
INDIRECT: dict[str, tuple[str, str]] = {
    "TcbOutOfDate": (_STATUS, ""),
    "TcbConfigurationNeeded": (_STATUS, ""),
    "TcbSwHardeningNeeded": (_STATUS, ""),
    "TcbRelaunchAdvised": (_STATUS, ""),
    "TcbStatusNotAllowed": (_STATUS, ""),
    "TdAttributesNotAllowed": ("the trust domain's TD attributes are not those of the policy", ""),
    "XfamNotAllowed": ("the trust domain's XFAM are not those of the policy", ""),
    "FileUnreadable": (_FILE, ""),
    "UsageInvalid": ("a verb, an option or a value is missing, or there is none like it", "read the verb's `--help`"),
    "GpuFileUnreadable": (_FILE, ""),
    "RootUnreadable": (_ROOT, ""),
    "GpuRootUnreadable": (_ROOT, ""),
    "NvSwitchTopologyMismatch": ("GPUs and NVSwitches do not name each other", ""),
    "TooManyPlatforms": ("more platforms are asked for than are kept", ""),
    "NoSource": ("no collateral source is set, and none was preloaded for this platform", ""),
    "MethodNotAllowed": ("the path exists, but not with this method", "use the method that the API's document names"),
    "EvidenceRefused": ("", _LISTED),
    "EarRefused": ("", _LISTED),
    "JobRefused": ("the worker refused the job: …; its own word stands beside it as `code`", "see the worker's message"),
    "CollateralMissing": (
        "there is no collateral for the platform, and no source to fetch it from",
        "preload it, or name a PCCS in the settings",
    ),
    "CollateralUnavailable": ("", "try again; if it stays, look at the collateral source"),
    "CollateralRolledBack": (
        "a document is older than the one that is kept",
        "find out who serves old collateral; the kept one stays in use",
    ),
    "ReferenceValueWithdrawn": ("a publisher withdrew a reference value that the result rests on", ""),
}
"""Causes and remedies of reasons that a table chooses, or that arise far from their texts."""
ENUM_NAME = re.compile(r"Reason$")
MAX_CAUSES = 4
MAX_TESTS = 3


@dataclass
class Entry:
    """One reason and what was found about it."""

    word: str
    enum: str
    package: str
    causes: list[str] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)  # modules
    tests: list[str] = field(default_factory=list)


def collect(root: Path) -> list[Entry]:
    """Every reason of the packages, in the order of their enumerations; root is the repository's."""
    entries: dict[tuple[str, str], Entry] = {}
    source, worker = root / "operator" / "chrysalis", root / "worker-image" / "chrysalis_worker"
    paths = [path for package in PACKAGES for path in sorted((source / package).rglob("*.py"))]
    own = sorted(worker.rglob("*.py"))
    for path in paths:
        _declare(path, source, "chrysalis", path.relative_to(source).parts[0], entries)
    for path in own:
        _declare(path, worker, worker.name, WORKER, entries)
    words = {entry.word for entry in entries.values()}
    for path in paths:
        _read_module(path, source, entries)
    for path in own:
        _read_module(path, worker.parent, entries)
    for entry in entries.values():
        cause, remedy = INDIRECT.get(entry.word, ("", ""))
        entry.causes += [cause] if cause and cause not in entry.causes else []
        entry.remedies += [remedy] if remedy else []
    for word, names in _tests(root / "tests", words, entries).items():
        for entry in entries.values():
            if entry.word == word:
                near = [name for name in names if name.startswith(f"tests/{entry.package}/")]
                entry.tests = (near + [name for name in names if name not in near])[:MAX_TESTS]
    return list(entries.values())


def render(entries: Iterable[Entry]) -> str:
    """The document."""
    lines = [
        "# Reasons",
        "",
        "Made from the code by `python -m chrysalis.cli.reasons_doc docs`; do not edit it. A reason is a stable word: the same in",
        "JSON, in conditions, in metric labels and on the terminal. `…` stands for what is filled in. What operator and settler say of",
        "their own resources stands in those resources' conditions.",
    ]
    group = None
    for entry in entries:
        if (entry.package, entry.enum) != group:
            group = (entry.package, entry.enum)
            lines += ["", f"## {entry.package}: {entry.enum}", "", "| reason | cause | remedy | test |", "|---|---|---|---|"]
        causes = "; or ".join(entry.causes[:MAX_CAUSES])
        tests = ", ".join(f"[{Path(test).stem.removeprefix('test_')}](../{test})" for test in entry.tests)
        lines.append(f"| `{entry.word}` | {_cell(causes)} | {_cell('; or '.join(entry.remedies[:2]))} | {tests} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _declare(path: Path, source: Path, root: str, package: str, entries: dict[tuple[str, str], Entry]) -> None:
    """The enumerations of a module: classes of StrEnum whose name ends in Reason, and their table of remedies."""
    text = path.read_text()
    if "Reason(StrEnum)" not in text:
        return
    name = ".".join((root, *path.relative_to(source).with_suffix("").parts))
    module = importlib.import_module(name)
    remedies: dict[str, str] = {}
    for value in vars(module).values():
        if isinstance(value, dict) and value and all(isinstance(key, StrEnum) and isinstance(item, str) for key, item in value.items()):
            remedies |= {f"{type(key).__name__}.{key.name}": item for key, item in value.items()}
    for value in dict.fromkeys(item for item in vars(module).values() if isinstance(item, type)):
        declared_here = issubclass(value, StrEnum) and value.__module__ == name
        if declared_here and ENUM_NAME.search(value.__name__):
            for member in _members(value):
                entry = entries.setdefault((value.__name__, member.name), Entry(member.value, value.__name__, package))
                if remedy := remedies.get(f"{value.__name__}.{member.name}"):
                    entry.remedies.append(remedy)


def _members(enum: type[StrEnum]) -> list[StrEnum]:
    return list(enum)


def _read_module(path: Path, source: Path, entries: dict[tuple[str, str], Entry]) -> None:
    tree = ast.parse(path.read_text())
    aliases = _aliases(tree, {enum for enum, _ in entries})
    place = path.relative_to(source).as_posix()
    makers: dict[str, tuple[Entry, int, int | None]] = {}
    variables = _variables(tree)
    for node in ast.walk(tree):
        for entry, rest in _mentions(node, aliases, entries):
            if place not in entry.places:
                entry.places.append(place)
            _note(entry, [_resolved(item, variables) for item in rest[:1]], [_resolved(item, variables) for item in rest[1:2]])
        if isinstance(node, ast.FunctionDef):
            makers |= _maker(node, aliases, entries)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in makers:
            entry, message, remedy = makers[node.func.id]
            given = [_resolved(item, variables) for item in node.args]
            _note(entry, given[message : message + 1], [] if remedy is None else given[remedy : remedy + 1])


def _variables(tree: ast.Module) -> dict[str, list[tuple[int, ast.expr]]]:
    """Where names are given texts, by line: a message is often put together before it is used."""
    found: dict[str, list[tuple[int, ast.expr]]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name) and _literal(node.value):
            found.setdefault(node.targets[0].id, []).append((node.lineno, node.value))
    return found


def _resolved(node: ast.expr, variables: dict[str, list[tuple[int, ast.expr]]]) -> ast.expr:
    """What a name was last given before it is used; anything else is itself."""
    if not isinstance(node, ast.Name):
        return node
    before = [pair for pair in variables.get(node.id, []) if pair[0] < node.lineno]
    return max(before, key=lambda pair: pair[0])[1] if before else node


def _aliases(tree: ast.Module, enums: set[str]) -> dict[str, str]:
    """Names in this module by which an enumeration goes: its own, and `_R = Enum`."""
    aliases = {name: name for name in enums}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in enums:
            aliases |= {target.id: node.value.id for target in node.targets if isinstance(target, ast.Name)}
    return aliases


def _entry_of(node: ast.expr, aliases: dict[str, str], entries: dict[tuple[str, str], Entry]) -> Entry | None:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
        return entries.get((aliases[node.value.id], node.attr))
    return None


def _mentions(node: ast.AST, aliases: dict[str, str], entries: dict[tuple[str, str], Entry]) -> Iterator[tuple[Entry, list[ast.expr]]]:
    """Reasons among a call's or a tuple's elements, each with what follows it: message and remedy."""
    if not isinstance(node, ast.Call | ast.Tuple):
        return
    elements = node.args if isinstance(node, ast.Call) else node.elts
    keywords = {keyword.arg: keyword.value for keyword in node.keywords} if isinstance(node, ast.Call) else {}
    for position, element in enumerate(elements):
        choices = [element.body, element.orelse] if isinstance(element, ast.IfExp) else [element]
        for choice in choices:
            entry = _entry_of(choice, aliases, entries)
            if entry is not None:
                yield entry, list(elements[position + 1 :])
    if "reason" in keywords and (entry := _entry_of(keywords["reason"], aliases, entries)) is not None:
        yield entry, [keywords[name] for name in ("message", "remedy") if name in keywords]


def _maker(
    node: ast.FunctionDef, aliases: dict[str, str], entries: dict[tuple[str, str], Entry]
) -> dict[str, tuple[Entry, int, int | None]]:
    """A function that makes one reason's error out of a message that it is given."""
    names = [argument.arg for argument in node.args.args]
    for inner in ast.walk(node):
        for entry, rest in _mentions(inner, aliases, entries):
            given = [item.id if isinstance(item, ast.Name) else "" for item in rest[:2]]
            if given and given[0] in names:
                remedy = names.index(given[1]) if len(given) > 1 and given[1] in names and given[1] == "remedy" else None
                return {node.name: (entry, names.index(given[0]), remedy)}
    return {}


def _note(entry: Entry, causes: Iterable[ast.expr], remedies: Iterable[ast.expr]) -> None:
    for nodes, found in ((causes, entry.causes), (remedies, entry.remedies)):
        for node in nodes:
            text = _literal(node)
            if found is entry.remedies and entry.package == "attestation":
                continue  # they stand in a table; behind the message comes the detail
            if text and text not in found:
                found.append(text)


def _literal(node: ast.expr) -> str:
    """The text of a string literal, with … for what is filled in; empty for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "…" for part in node.values]
        return "".join(parts) if any(part.strip("… ") for part in parts) else ""
    return ""


def _tests(folder: Path, words: set[str], entries: dict[tuple[str, str], Entry]) -> dict[str, list[str]]:
    """For each word, the test modules that name it, or its member."""
    members = {f"{enum}.{name}": entry.word for (enum, name), entry in entries.items()}
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        if path.name == "test_reasons_doc.py":
            continue
        text = path.read_text()
        named = set(re.findall(r"\b[A-Z][A-Za-z0-9]+\b", text)) & words
        aliases = {alias: enum for enum, alias in re.findall(r"(\w*Reason) as (\w+)", text)}
        aliases |= dict(re.findall(r"^(\w+) = (\w*Reason)$", text, re.MULTILINE))
        used = {f"{aliases.get(owner, owner)}.{member}" for owner, member in re.findall(r"\b(\w+)\.([A-Z0-9_]+)\b", text)}
        named |= {members[name] for name in used if name in members}
        for word in named:
            found.setdefault(word, []).append(path.relative_to(folder.parent).as_posix())
    return found


def main(arguments: list[str]) -> int:
    """Write DIRECTORY/reasons.md."""
    if len(arguments) != 1:
        print("usage: python -m chrysalis.cli.reasons_doc DIRECTORY", file=sys.stderr)
        return 2
    folder = Path(arguments[0]).resolve()
    (folder / "reasons.md").write_text(render(collect(folder.parent)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
