"""JSON lines on stderr: time, level, logger, event, and reason and detail where there are any.  Never receipts, tokens or keys."""

from __future__ import annotations

import json
import logging
import sys

from chrysalis.clock import from_unix

FIELDS = ("event", "reason", "worker", "pod", "detail")


class JsonLines(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": from_unix(int(record.created)).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update({name: str(getattr(record, name)) for name in FIELDS if hasattr(record, name)})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(level: str) -> None:
    """Send everything to stderr; libraries only warn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "uvicorn.error", "uvicorn.access", "alembic", "pytoniq"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
