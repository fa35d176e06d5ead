"""`python -m e2e.opinions`: judge everything anew and write the table, with the causes that it had.

Rows whose verdicts are new have no cause; the program names them and ends with 1, and somebody has to understand them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from e2e import cache
from e2e.opinions import Case, cases, table


def main() -> int:
    """Write the table; 1 while a difference has no cause, 2 without the real vectors."""
    vectors = Path(os.environ.get("CHRYSALIS_VECTORS") or cache.REPOSITORY.parent / "shared" / "vectors")
    if not (vectors / "MANIFEST.json").is_file():
        print(f"no MANIFEST.json in {vectors}; set CHRYSALIS_VECTORS: the table has the real vectors' rows, too", file=sys.stderr)
        return 2
    everything: list[Case] = [*cases.real(vectors), *cases.simulated(4), *cases.simulated(5)]
    known = table.load() if table.TABLE.exists() else {}
    lines = table.with_causes(table.judge(everything), known)
    table.TABLE.write_text(table.dump(lines))
    missing = table.unexplained(lines)
    print("\n".join([*missing, f"{len(lines)} rows, {sum(line.differs for line in lines)} differences, {len(missing)} without a cause"]))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
