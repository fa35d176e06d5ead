"""What a point is recognised by, seen from outside: databases on the machine's volumes, the API server, the devnet's control."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

from e2e.demo import objects
from e2e.demo.install import WORKER
from e2e.demo.world import World

MANY = 1_000_000


class Sight:
    """Looks, and never changes what it looks at.  What is not there yet looks like nothing."""

    def __init__(self, world: World) -> None:
        self.world = world

    def broker(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the broker's database."""
        return self._rows("*/broker.db", query)

    def ledger(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the settler's ledger."""
        return self._rows("*/*/ledger.sqlite", query)

    def conditions(self, kind: str) -> dict[str, tuple[str, str]]:
        """Conditions of the worker (cw) or the account (sacct): type -> (status, reason)."""
        name = WORKER if kind == "cw" else objects.ACCOUNT
        done = self.world.try_kubectl("get", kind, name, "-n", objects.NAMESPACE, "-o", "json")
        if done.returncode:
            return {}
        found = json.loads(done.stdout).get("status", {}).get("conditions", [])
        return {each["type"]: (each["status"], each.get("reason", "")) for each in found}

    def pods(self) -> list[dict[str, Any]]:
        """The worker's pods."""
        done = self.world.try_kubectl("get", "pods", "-n", objects.NAMESPACE, "-o", "json")
        return [] if done.returncode else list(json.loads(done.stdout)["items"])

    def chain(self) -> dict[str, Any]:
        """The devnet's own word on itself."""
        with urllib.request.urlopen(f"{self._control}/status", timeout=60) as answer:
            status: dict[str, Any] = json.loads(answer.read())
        return status

    def disturb_chain(self, *, lose_messages: bool = False, hide_blocks: bool = False) -> None:
        """Have the devnet lose every external message, or hide what it did with them; without either, let it be itself."""
        body = {"drop_externals": MANY if lose_messages else 0, "withhold_shard": hide_blocks}
        request = urllib.request.Request(f"{self._control}/faults", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()

    @property
    def _control(self) -> str:
        return str(self.world.facts["devnet"]["control"])

    def _rows(self, pattern: str, query: str) -> list[tuple[Any, ...]]:
        for path in sorted(Path(self.world.running.layout.folder / "volumes").glob(pattern)):
            try:
                with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
                    return database.execute(query).fetchall()
            except sqlite3.OperationalError:  # its tables are not made yet
                return []
        return []
