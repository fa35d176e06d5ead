"""`python -m e2e.pccs --listen HOST:PORT --state DIR [--bundles FOLDER]`: serve until SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path

from chrysalis.clock import SystemClock
from e2e.pccs.server import FaultyPccs
from e2e.pccs.sources import FileSource, SimulatedSource, Source
from e2e.simtd.pki import SimulatedPlatform


def main(argv: list[str] | None = None) -> int:
    """The platform's keys and the told behaviour are kept in STATE."""
    parser = argparse.ArgumentParser(prog="pccs", description=__doc__)
    parser.add_argument("--listen", required=True, help="HOST:PORT")
    parser.add_argument("--state", type=Path, required=True, help="private folder: the simulated platform's keys, the told behaviour")
    parser.add_argument("--bundles", type=Path, help="folder of QuoteCollateralV3 JSON files to serve instead of a simulated platform's")
    parser.add_argument("--valid-seconds", type=int, help="issue the simulated documents anew at each request, good for so long")
    options = parser.parse_args(argv)
    options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock = SystemClock()
    source: Source
    if options.bundles:
        source = FileSource(options.bundles)
    else:
        valid = timedelta(seconds=options.valid_seconds) if options.valid_seconds else None
        source = SimulatedSource(SimulatedPlatform.load_or_create(options.state, clock.now()), clock, valid=valid)
    host, _, port = options.listen.rpartition(":")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with FaultyPccs(source, (host, int(port)), options.state) as pccs:
        print(f"PCCS for tests: {pccs.url}", file=sys.stderr, flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
