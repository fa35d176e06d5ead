"""Log lines: JSON on stderr, plain text on a terminal.  Never prompts, keys, tokens or whole evidence."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

EXTRA = (
    *("event", "reason", "verdict", "worker", "pod", "result", "error", "trace_id"),
    *("document", "subject", "file", "certificate", "detail"),  # of collateral, and of what services answer
    *("judged", "revoked", "seconds"),  # of a re-appraisal
)
"""The attributes of a record that are written; nothing else gets out by accident."""


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message and the listed attributes."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str | int | float] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in EXTRA:
            value = getattr(record, name, "")
            if value not in ("", None):
                line[name] = value if isinstance(value, int | float) else str(value)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line)


def configure(level: str) -> None:
    """Send everything to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s") if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "alembic", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
