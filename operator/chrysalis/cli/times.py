"""Times on the command line."""

from __future__ import annotations

import re
from datetime import datetime

import click

from chrysalis.clock import SystemClock, from_unix, parse_rfc3339

_UNIX = re.compile(r"[0-9]{1,11}", re.ASCII)


class Rfc3339(click.ParamType[datetime]):
    """A time with an offset, Unix seconds, or the word `now`."""

    name = "RFC3339"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text = value.strip()
        if text.lower() == "now":
            return SystemClock().now()
        try:
            if _UNIX.fullmatch(text):
                return from_unix(int(text))
            return parse_rfc3339(text.upper())  # RFC 3339, section 5.6: `t` and `z` may be small
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time with an offset, like 2026-08-28T05:21:24Z, no Unix seconds, and not `now`", param, ctx)
