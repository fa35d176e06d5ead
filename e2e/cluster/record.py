"""What an instance writes down about itself, so that a later run can find it, use it, or clear it away."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from e2e import cache
from e2e.cluster.layout import Layout, instance_folder
from e2e.cluster.processes import Process

SCHEMA_VERSION = 1


@dataclass
class Record:
    """Slot, nodes and processes of one instance; the file is written before anything that it names is made."""

    instance: str
    slot: int
    nodes: tuple[str, ...]
    processes: list[Process] = field(default_factory=list)
    complete: bool = False
    owner: Process | None = None
    """Who ends the instance; nobody where it stays until somebody ends it by hand."""

    @property
    def layout(self) -> Layout:
        """The names and addresses that follow from it."""
        return Layout(self.instance, self.slot, instance_folder(self.instance), self.nodes)

    def save(self) -> None:
        """Write the record; a reader sees the old or the new one, never half of it."""
        path = _path(self.instance)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"schemaVersion": SCHEMA_VERSION, **asdict(self)}, indent=1))
        unfinished.replace(path)

    def remove(self) -> None:
        """Forget the instance."""
        _path(self.instance).unlink(missing_ok=True)


def _path(instance: str) -> Path:
    folder = instance_folder(instance)
    return folder.with_name(f"{instance}.json")


def read(instance: str) -> Record | None:
    """The record of an instance; None if there is none that can be read."""
    try:
        data = json.loads(_path(instance).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if data.get("schemaVersion") != SCHEMA_VERSION:
        return None
    processes = [Process(**process) for process in data["processes"]]
    owner = Process(**data["owner"]) if data.get("owner") else None
    return Record(data["instance"], data["slot"], tuple(data["nodes"]), processes, data["complete"], owner)


def others(instance: str) -> list[Record]:
    """The records of all other instances of this cache."""
    found = [read(path.stem) for path in (cache.root() / "run").glob("*.json") if path.stem != instance]
    return [record for record in found if record is not None]
