"""A stranger who wishes a broker ill, for tests on the loopback: `python -m e2e.flood`.

It floods one broker from one source address, for some seconds or until SIGTERM, in one of these ways, and prints how often it was
answered what:

- quotes: evidence over valid nonces, genuinely signed but for another nonce, so that each costs a whole verification;
- slow: messages of which a byte comes now and then;
- large: messages of the largest size that is read, and beyond;
- connections: connections that say nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

HOST = "127.0.0.1"
LARGE = 2 * 1024 * 1024
OK = 200


class Flood:
    """One source address."""

    def __init__(self, port: int, source: str, seconds: float, evidence: dict[str, object]) -> None:
        self._port = port
        self._source = source
        self._until = time.monotonic() + seconds
        self._evidence = evidence
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self.answers: Counter[str] = Counter()

    async def run(self, kind: str, connections: int) -> None:
        """Until the time is over, or SIGTERM."""
        way = {"quotes": self._quotes, "slow": self._slow, "large": self._large, "connections": self._connections}[kind]
        flood = asyncio.gather(*(self._again(way) for _ in range(connections)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, flood.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await flood

    async def _again(self, way: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < self._until:
            try:
                async with asyncio.timeout(self._until - time.monotonic() + 0.1):
                    await way()
            except (OSError, asyncio.IncompleteReadError, ValueError, TimeoutError) as error:
                self.answers[type(error).__name__] += 1
                await asyncio.sleep(0.01)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, self._port, ssl=self._tls, local_addr=(self._source, 0))

    async def _quotes(self) -> None:
        reader, writer = await self._open()
        with contextlib.closing(writer):
            while time.monotonic() < self._until:
                status, body = await self._ask(reader, writer, "/v1/challenge", b"")
                if status != OK:
                    continue
                evidence = self._evidence | {"nonce": json.loads(body)["nonce"]}
                await self._ask(reader, writer, "/v1/attest", json.dumps(evidence).encode())

    async def _large(self) -> None:
        reader, writer = await self._open()
        with contextlib.closing(writer):
            for size in (LARGE, LARGE + 1):
                await self._ask(reader, writer, "/v1/attest", b'{"quote":"' + b"A" * (size - 12) + b'"}')

    async def _slow(self) -> None:
        _, writer = await self._open()
        with contextlib.closing(writer):
            writer.write(b"POST /v1/attest HTTP/1.1\r\nhost: broker\r\ncontent-length: 100000\r\n\r\n{")
            while time.monotonic() < self._until:
                await asyncio.sleep(0.5)
                writer.write(b" ")
                await writer.drain()
                self.answers["bytes"] += 1

    async def _connections(self) -> None:
        reader, writer = await self._open()
        with contextlib.closing(writer):
            await reader.read(1)
            self.answers["closed"] += 1

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes) -> tuple[int, bytes]:
        writer.write(f"POST {path} HTTP/1.1\r\nhost: broker\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
        self.answers[f"{path} {status}"] += 1
        return status, await reader.readexactly(length)


def main(argv: list[str] | None = None) -> int:
    """Flood, and print the answers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m e2e.flood", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--source", required=True, help="an address of the loopback")
    parser.add_argument("--kind", choices=["quotes", "slow", "large", "connections"], required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--evidence", type=Path, required=True, help="JSON of an Evidence message")
    options = parser.parse_args(argv)
    flood = Flood(options.port, options.source, options.seconds, json.loads(options.evidence.read_text()))
    asyncio.run(flood.run(options.kind, options.connections))
    print(json.dumps(flood.answers, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
