"""`make bench`: run the measurements, print a table, write bench-results.json.

Each area is a module of this package with `IDS` (what it measures) and `measure()` that returns a Row for each.  ONLY=prefix
picks ids.  Ends with 1 when an area could not be measured (the others are, all the same) and with 2 when ONLY picks nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench import Row

AREAS = ("verify", "attest", "gpu", "contract", "gateway", "admit", "broker", "mutation")
RESULTS = Path("bench-results.json")


def main(arguments: Sequence[str] = ()) -> int:
    """Measure what ONLY picks; returns the exit code."""
    if arguments:
        print("usage: make bench [ONLY=beginning of an id]; docs/benchmarks.md says what there is", file=sys.stderr)
        return 2
    only = os.environ.get("ONLY", "")
    rows: list[Row] = []
    failed: list[str] = []
    for area in AREAS:
        module = importlib.import_module(f"bench.{area}")
        if not picked(module.IDS, only):
            continue
        print(f"measuring {area} …", file=sys.stderr, flush=True)
        try:
            rows += [row for row in module.measure() if row.id.startswith(only)]
        except Exception as error:
            traceback.print_exception(error)
            failed.append(area)
    if not rows and not failed:
        print(f"nothing is measured under ONLY={only!r}", file=sys.stderr)
        return 2
    print(table(rows))
    RESULTS.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")
    if failed:
        print(f"could not be measured: {', '.join(failed)}; what was said stands above", file=sys.stderr)
    return 1 if failed else 0


def picked(ids: Iterable[str], only: str) -> bool:
    """Whether the prefix picks any of these ids."""
    return any(name.startswith(only) for name in ids)


def table(rows: Sequence[Row]) -> str:
    """The rows for a person."""
    lines = [f"{'id':32} {'value':>12} {'unit':10} {'ratio':>8} {'reach':>10}  reference"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} ×"
        mark = "  MISSED" if row.ok is False else ""
        lines.append(f"{row.id:32} {row.value:>12,.1f} {row.unit:10} {ratio:>8} {row.reach or '':>10}  {row.reference}{mark}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
