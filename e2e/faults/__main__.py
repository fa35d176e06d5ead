"""`python -m e2e.faults`: one run with kills at points that SEED chooses; `--all` plays every point at least once."""

from __future__ import annotations

import argparse
import os
import secrets
import sys

from e2e.demo.story import Console, table
from e2e.faults.points import POINTS, Point, draw, rounds
from e2e.faults.scenario import run


def main() -> int:
    """Play; 0 when the end state was the same each time."""
    parser = argparse.ArgumentParser(prog="python -m e2e.faults", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every named point, in several runs")
    parser.add_argument("--points", metavar="NAME,NAME", help=f"these points: {', '.join(point.name for point in POINTS)}")
    options = parser.parse_args()
    console = Console()
    for points in _chosen(options.all, options.points, console):
        outcomes = run(points, console, keep=os.environ.get("KEEP") == "1")
        console.head("\n" + table(outcomes) + "\n")
        if any(outcome.state != "proved" for outcome in outcomes):
            return 1
    return 0


def _chosen(every: bool, named: str | None, console: Console) -> list[list[Point]]:
    if every:
        return rounds()
    if named:
        return [[next(point for point in POINTS if point.name == name) for name in named.split(",")]]
    seed = seed_of(os.environ.get("SEED"))
    console.head(f"SEED={seed}")
    return [draw(seed)]


def seed_of(text: str | None) -> int:
    """The seed to use: the given one, or a new one that is short enough to type."""
    return int(text) if text else secrets.randbelow(1_000_000)


if __name__ == "__main__":
    sys.exit(main())
