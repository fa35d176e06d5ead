"""`make bench`: run the measurements, print a table, write bench-results.json.

Each area is a module of this package with `IDS` (what it measures) and `measure(only)` that returns rows of
{id, value, unit, reference, ratio, reach, ok}: `ratio` compares with the reference that ran in the same invocation, `reach`
is the bound that an issue sets for the ratio or the value, `ok` whether it was met.  ONLY=prefix picks ids.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

AREAS = ("verify", "contract", "gateway", "admit")
RESULTS = Path("bench-results.json")


def main() -> int:
    only = os.environ.get("ONLY", "")
    rows: list[dict[str, Any]] = []
    for area in AREAS:
        if find_spec(f"bench.{area}") is None:
            continue
        module = importlib.import_module(f"bench.{area}")
        if any(name.startswith(only) for name in module.IDS):
            print(f"measuring {area} …", file=sys.stderr, flush=True)
            rows += [row for row in module.measure() if row["id"].startswith(only)]
    if not rows:
        print(f"nothing is measured under ONLY={only!r}", file=sys.stderr)
        return 2
    print(f"{'id':28} {'value':>12} {'unit':14} {'ratio':>8} {'reach':>10}  reference")
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} ×"
        reach = row["reach"] or ""
        mark = {True: "", False: "  missed", None: ""}[row["ok"]]
        print(f"{row['id']:28} {row['value']:>12,.1f} {row['unit']:14} {ratio:>8} {reach:>10}  {row['reference']}{mark}")
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
