"""Log lines: JSON on stderr, plain text on a terminal.  Never keys, tokens or whole evidence."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

EXTRA = ("event", "reason", "worker", "pod", "trace_id")
"""The attributes of a record that are written; nothing else gets out by accident."""


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: str(getattr(record, name)) for name in EXTRA if getattr(record, name, "")}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-4096:]
        return json.dumps(line)


def configure(level: str) -> None:
    """Send everything to stderr; kopf's chatter about each object only at debug."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s") if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "kopf", "kubernetes", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
