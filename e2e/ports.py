"""TCP ports for programs that have to be told theirs before they listen."""

from __future__ import annotations

import random
import socket

LOWEST, HIGHEST = 10_000, 32_000
"""Below the range from which Linux takes the ports of outgoing connections (32768 on, `ip_local_port_range`), and the test suite opens
many: a port from there could be taken between the choice and the program's start."""
TRIES = 1000
_chosen: set[tuple[str, int]] = set()


def free_port(address: str = "127.0.0.1") -> int:
    """A port of this address that nobody has now, and that this process was not given before; raises OSError where there is none.

    At random, so that processes that choose at the same time choose differently.
    """
    for port in random.sample(range(LOWEST, HIGHEST), TRIES):
        if (address, port) in _chosen:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
        _chosen.add((address, port))
        return port
    raise OSError(f"no free port of {address} in {TRIES} tries")
