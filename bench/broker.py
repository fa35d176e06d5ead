"""broker.*: attestations through the whole broker, its memory, and how soon a changed policy has revoked what it condemns.

Two broker processes on one machine share a database; the load comes over TLS connections that are kept open.  One attestation
is three requests: a challenge, the evidence, the release of the key.  Evidence is made beforehand (that is the hardware's work,
not the broker's), over challenges that were asked for earlier.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench import Row
from chrysalis.broker.store import NewEvidence, Store, StoredResult
from chrysalis.wire.broker import Evidence
from e2e.broker_fleet import KEY_ID, NO_LIMITS, POLICY_NAME, Fleet, Replica
from e2e.postgres import Postgres

DATABASES = ("sqlite", "postgresql")
IDS = (
    *(f"broker.{database}.{name}" for database in DATABASES for name in ("closed-loop-32", "closed-loop-32.p99", "open-loop-50.p99")),
    "broker.memory-10000-results",
    *(f"broker.{database}.revocation-1000" for database in DATABASES),
)
REPLICAS = 2
CLOSED, CLOSED_EACH = 32, 50
OPEN_RATE, OPEN_SECONDS = 50, 16
WARM_UP = 64
RESULTS, REVOKED = 10_000, 1_000
REACH_RATE, REACH_CLOSED_P99, REACH_OPEN_P99, REACH_MIB, REACH_SECONDS = 200, 400, 100, 200, 5


def measure() -> list[Row]:
    """All of the broker's rows."""
    rows = []
    for database in DATABASES:
        with tempfile.TemporaryDirectory(prefix="chrysalis-bench-") as folder, _database(database) as url:
            rows += asyncio.run(_on(database, Path(folder), url))
    return rows


class _database:
    """The URL of a new PostgreSQL database whose commits wait for the disk; empty for SQLite."""

    def __init__(self, kind: str) -> None:
        self._server = Postgres(durable=True) if kind == "postgresql" else None

    def __enter__(self) -> str:
        return self._server.database() if self._server is not None else ""

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.stop()


async def _on(database: str, folder: Path, url: str) -> list[Row]:
    more = {"limits": NO_LIMITS, "maxConcurrentAttestations": 16, "nonceSeconds": 300}
    with Fleet(folder, url, more) as fleet:
        fleet.start(REPLICAS)
        await fleet.prepare()
        load = Load(fleet)
        await load.closed(CLOSED, WARM_UP // CLOSED)
        closed = await load.closed(CLOSED, CLOSED_EACH)
        opened = await load.open(OPEN_RATE, OPEN_SECONDS)
        setting = f"{REPLICAS} processes, TLS kept open, {database}, commits wait for the disk"
        rows = [
            _row(f"broker.{database}.closed-loop-32", closed.rate, "1/s", REACH_RATE, setting, least=True),
            _row(f"broker.{database}.closed-loop-32.p99", closed.p99, "ms", REACH_CLOSED_P99, f"median {closed.median:.0f} ms"),
            _row(f"broker.{database}.open-loop-50.p99", opened.p99, "ms", REACH_OPEN_P99, f"median {opened.median:.0f} ms"),
            await _revocation(database, fleet),
        ]
        if database == "sqlite":
            rows.append(await _memory(fleet))
        return rows


async def _revocation(database: str, fleet: Fleet) -> Row:
    """From the answer to the policy's upload until each of 1,000 results that it condemns is marked."""
    store = _store(fleet)
    _fill(store, fleet, REVOKED)
    async with fleet.client(fleet.replicas[0]) as client:
        living = sum(result.revoked_at is None for result in store.results(verdict="Accepted", limit=1_000_000))
        began = time.perf_counter()
        await client.put_policy(POLICY_NAME, fleet.policy(2, measurements=[fleet.measurement() | {"mrtd": "ab" * 48}]))
        await asyncio.to_thread(_until_done, store)
        seconds = time.perf_counter() - began
    left = sum(result.revoked_at is None for result in store.results(verdict="Accepted", limit=1_000_000))
    store.close()
    if left:
        raise RuntimeError(f"{left} results were not revoked")
    setting = f"{living} results were judged again and marked; the time is for each {REVOKED}"
    return _row(f"broker.{database}.revocation-1000", seconds / living * REVOKED, "s", REACH_SECONDS, setting)


def _until_done(store: Store) -> None:
    while store.pending_sweeps():
        time.sleep(0.02)


async def _memory(fleet: Fleet) -> Row:
    """The larger process's resident memory with 10,000 results, after each was listed and all were trimmed once."""
    store = _store(fleet)
    have = len(store.results(limit=1_000_000))
    _fill(store, fleet, max(0, RESULTS - have))
    store.close()
    for replica in fleet.replicas:
        async with fleet.client(replica) as client:
            for _ in range(3):
                await client.results(limit=1000)
    await asyncio.sleep(31)  # the housekeeping has been over them
    most = max(_resident_mib(replica) for replica in fleet.replicas)
    return _row("broker.memory-10000-results", most, "MiB", REACH_MIB, "resident, each of the two processes")


def _fill(store: Store, fleet: Fleet, number: int) -> None:
    """More results like the newest accepted one, written to the database as an attestation writes them."""
    pattern = next(result for result in store.results(verdict="Accepted", limit=10))
    evidence = store.evidence(pattern.result_id)
    if evidence is None:
        raise RuntimeError("the pattern has no evidence")
    new = NewEvidence(message=evidence.message, collateral=evidence.collateral, at=evidence.at, key_version=evidence.key_version)

    def add(index: int) -> None:
        members = vars(pattern) | {"result_id": f"fill-{number}-{index}", "released_at": None, "revoked_at": None}
        store.add_result(StoredResult(**members | {"revoked_reason": None, "revoked_message": None}), new)

    with ThreadPoolExecutor(CLOSED) as pool:  # those that wait together are committed together
        for _ in pool.map(add, range(number)):
            pass


def _store(fleet: Fleet) -> Store:
    return Store(fleet.database or f"sqlite:///{fleet.folder / 'state' / 'broker.db'}")


def _resident_mib(replica: Replica) -> float:
    pages = int(Path(f"/proc/{replica.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@dataclass
class Times:
    """How long attestations took, in seconds, and how long they took together."""

    each: list[float] = field(default_factory=list)
    whole: float = 0.0

    @property
    def rate(self) -> float:
        """Attestations a second."""
        return len(self.each) / self.whole

    @property
    def p99(self) -> float:
        """Milliseconds that 99 of 100 take at most."""
        return sorted(self.each)[int(len(self.each) * 0.99)] * 1000

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.each) * 1000


class Load:
    """Workers that attest, their connections spread evenly over the replicas."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE  # the pin is the client's business; here it is the load that counts
        self._pods = itertools.count()

    async def closed(self, workers: int, each: int) -> Times:
        """Every worker attests again as soon as it is done."""
        made = await self._evidence(workers * each)
        evidence = [iter(made[number::workers]) for number in range(workers)]
        async with await self._connect(workers) as connections:
            times = Times()
            began = time.perf_counter()

            async def work(connection: Connection, bodies: Iterator[bytes]) -> None:
                for body in bodies:
                    times.each.append(await _attest(connection, body))

            await asyncio.gather(*(work(connection, bodies) for connection, bodies in zip(connections.all, evidence, strict=True)))
            times.whole = time.perf_counter() - began
            return times

    async def open(self, rate: int, seconds: int) -> Times:
        """Attestations begin at fixed times, whether those before are done or not; each time counts from when it was due."""
        bodies = await self._evidence(rate * seconds)
        async with await self._connect(CLOSED) as connections:
            free: asyncio.Queue[Connection] = asyncio.Queue()
            for connection in connections.all:
                free.put_nowait(connection)
            times = Times()
            began = time.perf_counter()

            async def one(due: float, body: bytes) -> None:
                connection = await free.get()
                try:
                    await _attest(connection, body)
                finally:
                    free.put_nowait(connection)
                times.each.append(time.perf_counter() - due)

            running = []
            for number, body in enumerate(bodies):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                running.append(asyncio.ensure_future(one(due, body)))
            await asyncio.gather(*running)
            times.whole = time.perf_counter() - began
            return times

    async def _evidence(self, number: int) -> list[bytes]:
        """Bodies of POST /v1/attest over challenges of now; before the load connects, since a broker drops who says nothing."""
        bodies = []
        async with await self._connect(1) as connections:
            for _ in range(number):
                nonce = (await connections.all[0].ask("/v1/challenge", b""))["nonce"]
                evidence: Evidence = self._fleet.evidence(nonce, next(self._pods))
                bodies.append(evidence.model_dump_json(by_alias=True).encode())
        return bodies

    async def _connect(self, number: int) -> Connections:
        ports = itertools.cycle([replica.port for replica in self._fleet.replicas])
        return Connections([await Connection.open(next(ports), self._context) for _ in range(number)])


@dataclass
class Connections:
    """Open connections, closed at the end."""

    all: list[Connection]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self.all:
            connection.writer.close()


@dataclass
class Connection:
    """HTTP/1.1 over one TLS connection: no more than the load needs, so that it takes little of the two processors."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext) -> Connection:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    async def ask(self, path: str, body: bytes) -> dict[str, Any]:
        """POST and read the answer; raises RuntimeError for another status than 200."""
        self.writer.write(f"POST {path} HTTP/1.1\r\nhost: broker\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        answer = await self.reader.readexactly(length)
        if " 200 " not in head.split("\r\n")[0]:
            raise RuntimeError(f"{path}: {head.splitlines()[0]} {answer[:500]!r}")
        parsed: dict[str, Any] = json.loads(answer)
        return parsed


async def _attest(connection: Connection, body: bytes) -> float:
    """One attestation and how long it took."""
    began = time.perf_counter()
    await connection.ask("/v1/challenge", b"")
    result = await connection.ask("/v1/attest", body)
    release = {"schemaVersion": "chrysalis/v1", "resultId": result["resultId"]}
    await connection.ask(f"/v1/keys/{KEY_ID}:release", json.dumps(release).encode())
    return time.perf_counter() - began


def _row(name: str, value: float, unit: str, reach: float, reference: str, *, least: bool = False) -> Row:
    ok = value >= reach if least else value <= reach
    return Row(id=name, value=value, unit=unit, ratio=None, reach=f"{'≥' if least else '≤'} {reach:g}", ok=ok, reference=reference)
