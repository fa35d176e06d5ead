"""`python -m e2e.devnet`: run a devnet until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

from chrysalis.errors import ChrysalisError
from e2e.devnet.chain import BLOCK_SECONDS
from e2e.devnet.network import SERVERS, Network, Options


def main() -> int:
    """Start, print the config, wait for SIGTERM or SIGINT, stop.  Exit code 0, or 3 when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m e2e.devnet", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address that the liteservers listen on (a bridge's, so that pods reach them)")
    parser.add_argument("--ports", type=int, nargs="*", default=(), help="ports of the liteservers; free ones if not given")
    parser.add_argument("--servers", type=int, default=SERVERS, help="how many liteservers, each with its own key")
    parser.add_argument("--block-seconds", type=float, default=BLOCK_SECONDS)
    parser.add_argument("--control-port", type=int, default=0, help="port of the control on loopback; a free one if not given")
    parser.add_argument("--config", type=Path, help="file to write the liteservers' addresses and keys to")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="devnet: %(message)s")
    options = Options(
        host=args.host,
        ports=args.ports,
        servers=args.servers,
        block_seconds=args.block_seconds,
        control_port=args.control_port,
        config_file=args.config,
    )
    try:
        asyncio.run(_run(Network(options)))
    except (ChrysalisError, OSError) as error:
        print(f"devnet: {error}", file=sys.stderr)
        return 3
    return 0


async def _run(network: Network) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await network.start()
    try:
        print(json.dumps(network.document(), indent=1), flush=True)
        print("The TVM, the blocks and their proofs are real; validators and money are simulated. Stop with Ctrl-C.", file=sys.stderr)
        await stop.wait()
    finally:
        await network.stop()


if __name__ == "__main__":
    sys.exit(main())
