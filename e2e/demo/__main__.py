"""`make demo`: play the twelve steps, print the table, and end with 0 only when every built step proved its point."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from e2e.demo.script import steps
from e2e.demo.story import Console, closing, play, table
from e2e.demo.world import World


def main() -> int:
    """Run the demo; KEEP=1 leaves everything up."""
    world = World(
        instance=os.environ.get("CHRYSALIS_INSTANCE") or "demo",
        state=Path(tempfile.mkdtemp(prefix="chrysalis-demo-")),
        keep=os.environ.get("KEEP") == "1",
    )
    console = Console()
    started = world.clock.monotonic()
    outcomes = play(steps(world), console)
    line, code = closing(outcomes)
    console.head("\n" + table(outcomes))
    console.head(f"\n{line} ({world.clock.monotonic() - started:.0f} s)")
    return code


if __name__ == "__main__":
    sys.exit(main())
