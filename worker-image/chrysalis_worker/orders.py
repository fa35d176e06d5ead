"""The agent's side of the supervisor's socket (see supervisor.py for the protocol)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chrysalis_worker.reasons import WorkerError, WorkerReason

ORDER_SECONDS = 15.0
"""Longer than the supervisor needs to end a Triton that does not want to."""


@dataclass(frozen=True)
class TritonStatus:
    """What the supervisor says of Triton; state is idle, running, stopping or exited."""

    state: str
    pid: int | None
    exit_code: int | None
    starts: int
    terminating: bool


class Orders:
    """Gives orders to the supervisor that listens on `socket`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def order(self, name: str) -> TritonStatus:
        """start, stop, restart or status; returns when it is done.  Raises WorkerError: SupervisorUnreachable."""
        try:
            async with asyncio.timeout(ORDER_SECONDS):
                reader, writer = await self._ask(name)
                try:
                    return _status(await reader.readline())
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise _unreachable(str(error) or type(error).__name__) from error

    async def watch(self) -> AsyncIterator[TritonStatus]:
        """The status now and at each change, until the supervisor goes away (then it raises WorkerError)."""
        try:
            reader, writer = await self._ask("watch")
        except OSError as error:
            raise _unreachable(str(error)) from error
        try:
            while line := await reader.readline():
                yield _status(line)
        except OSError as error:
            raise _unreachable(str(error)) from error
        finally:
            writer.close()
        raise _unreachable("the connection was closed")

    async def _ask(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        writer.write(json.dumps({"order": name}).encode() + b"\n")
        await writer.drain()
        return reader, writer


def _status(line: bytes) -> TritonStatus:
    try:
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise _unreachable(f"it refused: {said['error']}")
        return TritonStatus(
            state=str(said["state"]),
            pid=said["pid"],
            exit_code=said["exitCode"],
            starts=int(said["starts"]),
            terminating=bool(said["terminating"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _unreachable(f"an answer that cannot be read: {type(error).__name__}") from error


def _unreachable(detail: str) -> WorkerError:
    return WorkerError(
        WorkerReason.SUPERVISOR_UNREACHABLE,
        "Triton's supervisor does not answer",
        "look at the log of container `triton`; it is started by the kubelet and restarted when it ends",
        detail,
    )
