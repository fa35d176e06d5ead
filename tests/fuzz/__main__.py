"""`make fuzz`: every target for SECONDS (600), or those that ONLY picks; the corpus is kept from run to run."""

from __future__ import annotations

import argparse
import os
import secrets
import sys

from tests.fuzz.conductor import fuzz_all, picked


def main() -> int:
    """1 where something broke, 2 where ONLY picks nothing."""
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("--seconds", type=int, default=600)
    options = parser.parse_args()
    targets = picked(os.environ.get("ONLY", ""))
    if not targets:
        print(f"no target begins with {os.environ.get('ONLY')!r}", file=sys.stderr)
        return 2
    seed = int(os.environ.get("SEED") or secrets.randbelow(1 << 31))
    print(f"SEED={seed}; {len(targets)} targets, {options.seconds} s each", flush=True)
    outcomes = fuzz_all(targets, options.seconds, seed, keep=True, told=lambda outcome: print(outcome, flush=True))
    return 1 if any(outcome.problem for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
