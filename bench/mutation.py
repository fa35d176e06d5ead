"""mutation.*: what share of small changes of the appraisal, the binding and the policy some test notices.

cosmic-ray's operators make the mutants; its runner, which writes each one into the checkout and starts a Python for it, and
mutmut's, which wants the package at the top of the repository, are not used: here a process that has loaded all tests forks for each
mutant, and the child swaps the code of the changed function and runs the tests until the first failure.  What is changed outside
of functions needs a new import: there the fork comes before anything of the project is loaded.

Of cosmic-ray's operators, each binary operator has one replacement (the others only raise TypeError, which any test notices), and
`==` never becomes `is`: for interned words and small numbers that is the same.  Type annotations are not mutated, nor is text.

A mutant's id is module.function:operator:number, so that it lives as long as its function.  Survivors stand, by id and with one
word why, in tests/mutation/survivors.txt; an unlisted one fails the measurement.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from bench import Row
from e2e import cache

REACH_PERCENT = 90.0
PACKAGE = cache.REPOSITORY / "operator"
SURVIVORS = cache.REPOSITORY / "tests" / "mutation" / "survivors.txt"
CAUSES = {
    "Equivalent": "the same behaviour for every input",
    "Unreachable": "an earlier check, ours or the library's, leaves no input that gets there",
    "Tuning": "the size of a cache or of a bound where one more or less means nothing",
    "Wording": "only what a person reads changes",
}
MODULES = {
    "chrysalis.attestation.appraisal": (
        "attestation/test_mutants_appraisal",
        "attestation/test_appraisal",
        "attestation/test_ends_of_time",
        "attestation/test_refusals",
        "attestation/test_library_gaps",
    ),
    "chrysalis.attestation.binding": ("attestation/test_binding", "attestation/test_mutants_binding", "attestation/test_mutants_frozen"),
    "chrysalis.attestation.policy_file": ("attestation/test_policy_file", "attestation/test_mutants_policy_file"),
    "chrysalis.attestation.policy_yaml": ("attestation/test_mutants_policy_yaml", "attestation/test_policy_file"),
    "chrysalis.attestation.rules": (
        "attestation/test_policy_rules",
        "attestation/test_mutants_rules",
        "attestation/test_policy_fields",
        "attestation/test_appraisal",
    ),
    "chrysalis.attestation.domain": ("attestation/test_refusals",),
    "chrysalis.attestation.genuineness": (
        "attestation/test_genuineness",
        "attestation/test_mutants_genuineness",
        "attestation/test_enclave_gaps",
        "attestation/test_library_gaps",
        "attestation/test_proved",
    ),
    "chrysalis.api.policy": (
        "attestation/test_mutants_policy",
        "api/test_policy_payload",
        "attestation/test_policy_rules",
        "api/test_crd",
        "attestation/test_lint",
    ),
}
"""What is mutated, and the tests that most likely notice; those of the other modules follow where these do not."""
TOTAL = "mutation.killed"
ROWS = {f"mutation.{module.rpartition('.')[2]}": module for module in MODULES}
"""A part of each module: ONLY=mutation.rules runs the mutants of that one alone."""
IDS = (*ROWS, TOTAL)
ONE_REPLACEMENT = {
    "Add": "Sub",
    "Sub": "Add",
    "Mul": "FloorDiv",
    "Div": "Mul",
    "FloorDiv": "Mul",
    "Mod": "Mul",
    "Pow": "Mul",
    "BitOr": "BitAnd",
    "BitAnd": "BitOr",
    "BitXor": "BitOr",
    "LShift": "RShift",
    "RShift": "LShift",
}
PRELOADED = ("pytest", "hypothesis", "pydantic", "cryptography.x509", "dcap_qvl", "cbor2", "yaml", "lxml.etree", "signxml", "jwt")
SLOW = "any_change or flipped or any_text or deep or generating_twice or without_anchors or any_bytes or hypothesis"
"""Words in the names of tests that cost most of the time and that search instead of asking; what they find stands in a table, too."""
ARGUMENTS = ("-x", "-q", "-s", "-p", "no:cacheprovider", "-p", "no:schemathesis", "--hypothesis-seed=0", "-k", f"not ({SLOW})")
"""Hypothesis gives the same verdict each time, and nothing is left behind."""
TIMEOUT_FACTOR, TIMEOUT_SECONDS = 8, 20
MEMORY_BYTES = 4 << 30
POLL_SECONDS = 0.02
ALONE_SECONDS = 600


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    id: str
    module: str
    operator: str
    occurrence: int  # of the operator in the whole module, as cosmic-ray counts
    function: str  # the outermost function around it, Class.name for a method; empty for module and class bodies and for decorators


def path_of(module: str) -> Path:
    """The module's source."""
    return PACKAGE / (module.replace(".", "/") + ".py")


def mutants(module: str) -> list[Mutant]:
    """All mutants of a module, in the order of the operators and of the source."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    source = path_of(module).read_text()
    nodes, parsed = list(ast_nodes(get_ast(source))), ast.parse(source)
    functions, annotations = list(_functions(parsed)), list(_annotations(parsed))
    found = []
    for name in sorted(plugins.operator_names()):
        kind = plugins.get_operator(name)
        if kind.arguments() or not _used(name):
            continue
        operator, occurrence, seen = kind(), -1, Counter[str]()
        for node in nodes:
            for start, end in operator.mutation_positions(node):
                occurrence += 1
                if "BinaryOperator" in name and any(first <= start and end <= last for first, last in annotations):
                    continue
                function = _function(functions, start[0])
                label = ".".join(part for part in (module.rpartition(".")[2], function) if part) + f":{name.removeprefix('core/')}"
                seen[label] += 1
                found.append(Mutant(f"{label}:{seen[label]}", module, name, occurrence, _outermost(parsed, start[0])))
    return found


def _used(operator: str) -> bool:
    name = operator.removeprefix("core/")
    if name.startswith("ReplaceBinaryOperator_"):
        _, old, new = name.split("_")
        return ONE_REPLACEMENT[old] == new
    if name.startswith("ReplaceComparisonOperator_"):
        _, old, new = name.split("_")
        return (old in ("Is", "IsNot")) == (new in ("Is", "IsNot"))
    return name != "NoOp"


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield name, first, node.end_lineno or node.lineno
            yield from _functions(node, name + ".")


def _function(functions: Sequence[tuple[str, int, int]], line: int) -> str:
    inside = [(last - first, name) for name, first, last in functions if first <= line <= last]
    return min(inside)[1] if inside else ""


def _outermost(tree: ast.Module, line: int) -> str:
    for node in tree.body:
        inner: list[tuple[str, ast.stmt]] = [("", node)]
        if isinstance(node, ast.ClassDef):
            inner = [(f"{node.name}.", each) for each in node.body]
        for prefix, each in inner:
            if isinstance(each, ast.FunctionDef) and each.body[0].lineno <= line <= (each.end_lineno or line):
                return prefix + each.name
    return ""


def _annotations(tree: ast.AST) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for node in ast.walk(tree):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr):
                yield (part.lineno, part.col_offset), (part.end_lineno or part.lineno, part.end_col_offset or part.col_offset)


def mutated(mutant: Mutant) -> str:
    """The module's text with the change."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    source = path_of(mutant.module).read_text()
    text: str | None = mutate_code(source, plugins.get_operator(mutant.operator)(), mutant.occurrence)
    if text is None:
        raise ValueError(f"{mutant.id} cannot be made")
    return text


Child = Callable[["Mutant | None"], None]


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from changed text."""

    def __init__(self, module: str, text: str) -> None:
        self._module, self._text = module, text

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(path_of(fullname)))

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._text, str(path_of(self._module)), "exec"), module.__dict__)


def _child(mutant: Mutant | None) -> None:
    """Run the tests against a mutant (or the code as it is); ends the process: 0 where no test noticed."""
    import pytest

    _bounded()
    code = 1
    try:
        if mutant is not None:
            sys.meta_path.insert(0, _Changed(mutant.module, mutated(mutant)))
        near = MODULES[mutant.module] if mutant else ()
        for files in (near, [test for test in sorted({test for tests in MODULES.values() for test in tests}) if test not in near]):
            code = int(pytest.main([*ARGUMENTS, *(f"tests/{file}.py" for file in files)])) if files else 0
            if code:
                break
    finally:
        os._exit(code)


class _InPlace:
    """A pytest plugin that, with all tests collected, forks for each mutant and swaps one function's code in the child."""

    def __init__(self, every: Sequence[Mutant]) -> None:
        self._every = every
        self.survivors: list[str] = []

    def pytest_runtestloop(self, session: Any) -> bool:
        """Instead of running the tests once, run them for each mutant."""
        self.survivors = _all(self._every, lambda mutant: _swapped(mutant, session))
        return True


def _swapped(mutant: Mutant | None, session: Any) -> None:
    """In the child: end the process, with 0 where no test notices."""
    from _pytest.main import pytest_runtestloop

    _bounded()
    code = 1
    try:
        if mutant is not None:
            function = _original(mutant)
            function.__code__ = _code(compile(mutated(mutant), str(path_of(mutant.module)), "exec"), mutant.function.split("."))
            near = tuple(f"tests/{name}.py" for name in MODULES[mutant.module])
            session.items.sort(key=lambda item: not item.nodeid.startswith(near))
        try:
            pytest_runtestloop(session)
        except session.Failed:
            pass
        code = 1 if session.testsfailed else 0
    finally:
        os._exit(code)


def _original(mutant: Mutant) -> Any:
    """The function object that callers hold, whatever wraps it."""
    found: Any = importlib.import_module(mutant.module)
    for name in mutant.function.split("."):
        found = vars(found)[name]
    for wrapper in ("__func__", "fget", "func", "__wrapped__"):
        found = getattr(found, wrapper, None) or found
    return found


def _code(code: CodeType, names: Sequence[str]) -> CodeType:
    for name in names:
        code = next(each for each in code.co_consts if isinstance(each, CodeType) and each.co_name == name)
    return code


def _bounded() -> None:
    """A child makes no noise, does not eat the machine, and can be ended with all that it starts."""
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with open(os.devnull, "r+b") as nothing:
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)


@dataclass
class _Running:
    mutant: Mutant | None
    pid: int
    started: float


def _start(mutant: Mutant | None, child: Child) -> _Running:
    pid = os.fork()
    if pid == 0:
        child(mutant)
    return _Running(mutant, pid, time.monotonic())


def _ended(running: _Running, limit: float) -> int | None:
    """The exit code of a child that has ended, which one that takes too long is made to do."""
    pid, status = os.waitpid(running.pid, os.WNOHANG)
    if pid:
        return os.waitstatus_to_exitcode(status)
    if time.monotonic() - running.started <= limit:
        return None
    os.killpg(running.pid, signal.SIGKILL)
    os.waitpid(running.pid, 0)
    return -signal.SIGKILL


def _all(every: Sequence[Mutant], child: Child) -> list[str]:
    """The ids of those that survive; raises RuntimeError where the tests fail on the code as it is, as nothing would mean anything."""
    running = [_start(None, child)]
    while (code := _ended(running[0], ALONE_SECONDS)) is None:
        time.sleep(POLL_SECONDS)
    if code:
        raise RuntimeError(f"the tests fail on the code as it is ({code}); run: make unit")
    limit = (time.monotonic() - running[0].started) * TIMEOUT_FACTOR + TIMEOUT_SECONDS
    waiting, survivors, done = list(reversed(every)), list[str](), 0
    running.clear()
    while waiting or running:
        while waiting and len(running) < len(os.sched_getaffinity(0)):
            running.append(_start(waiting.pop(), child))
        time.sleep(POLL_SECONDS)
        for each in list(running):
            code = _ended(each, limit)
            if code is None:
                continue
            running.remove(each)
            done += 1
            if code == 0 and each.mutant is not None:
                survivors.append(each.mutant.id)
                print(f"survived: {each.mutant.id}", file=sys.stderr, flush=True)
            if done % 50 == 0:
                print(f"{done} of {len(every)} mutants, {len(survivors)} survived", file=sys.stderr, flush=True)
    return survivors


def run(every: Sequence[Mutant]) -> list[str]:
    """The ids of those that survive, sorted."""
    import pytest

    apart = [mutant for mutant in every if not mutant.function or mutant.module.startswith("chrysalis.api.")]
    survivors = _all(apart, _child) if apart else []
    in_place = _InPlace([mutant for mutant in every if mutant not in apart])
    tests = sorted({test for tests in MODULES.values() for test in tests})
    pytest.main([*ARGUMENTS, *(f"tests/{test}.py" for test in tests)], plugins=[in_place])
    return sorted(survivors + in_place.survivors)


def listed(path: Path = SURVIVORS) -> dict[str, str]:
    """The known survivors and their causes; raises ValueError for a line that is none."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        name, cause = [*line.split(), "", ""][:2]
        if cause not in CAUSES or name in found:
            raise ValueError(f"{path.name}: {line!r} has no cause of {', '.join(CAUSES)}, or stands twice")
        found[name] = cause
    return found


def measure() -> list[Row]:
    """Run the mutants that ONLY picks, in a process of their own (this one has imported what is to be mutated)."""
    only = os.environ.get("ONLY", "")
    whole = TOTAL.startswith(only)
    chosen = {name: module for name, module in ROWS.items() if whole or name.startswith(only)}
    words = [name.rpartition(".")[2] for name in chosen]
    command = [sys.executable, "-m", "bench.mutation", *words]
    done = subprocess.run(command, cwd=cache.REPOSITORY, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the mutants could not be run: {done.returncode}")
    survivors = json.loads(done.stdout.splitlines()[-1])["survivors"]
    known = listed()
    new = [name for name in survivors if name not in known]
    if new:
        told = "\n".join(new)
        raise RuntimeError(
            f"{len(new)} mutants survive that {SURVIVORS.name} does not list; write a test, or list them with their cause:\n{told}"
        )
    rows, every, alive = [], list[str](), list[str]()
    for name, module in chosen.items():
        ids = [mutant.id for mutant in mutants(module)]
        mine = [each for each in survivors if each in ids]
        rows.append(_row(name, ids, mine, None))
        every, alive = every + ids, alive + mine
    stale = len([name for name in known if name in every and name not in alive])
    return [*rows, _row(TOTAL, every, alive, f"all listed; {stale} listed no longer do")] if whole else rows


def _row(name: str, every: Sequence[str], survivors: Sequence[str], note: str | None) -> Row:
    share = 100 * (len(every) - len(survivors)) / len(every)
    told = f"{len(every) - len(survivors)} of {len(every)} mutants; {len(survivors)} survive"
    return Row(
        id=name,
        value=share,
        unit="%",
        reference=told if note is None else f"{told}, {note}",
        ratio=None,
        reach=f"≥ {REACH_PERCENT:.0f} %",
        ok=share >= REACH_PERCENT,
    )


def main() -> int:
    """Run the mutants of all modules, or of those whose names end with an argument; JSON on standard output."""
    if any(name in sys.modules for name in MODULES):
        raise RuntimeError("a module that is to be mutated is loaded already")
    for name in PRELOADED:
        importlib.import_module(name)
    chosen = [module for module in MODULES if not sys.argv[1:] or module.rpartition(".")[2] in sys.argv[1:]]
    every = [mutant for module in chosen for mutant in mutants(module)]
    started = time.monotonic()
    survivors = run(every)
    seconds = round(time.monotonic() - started)
    # pytest has written to standard output as well; the result is its last line.
    print(json.dumps({"mutants": len(every), "survivors": survivors, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
