"""Times on the command line."""

from __future__ import annotations

from datetime import datetime

import click

from chrysalis.clock import SystemClock, parse_rfc3339


class Rfc3339(click.ParamType[datetime]):
    """A time with an offset, or the word `now`."""

    name = "RFC3339"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        if value == "now":
            return SystemClock().now()
        try:
            return parse_rfc3339(value)
        except ValueError as error:
            self.fail(f"{error} (for example 2026-08-28T05:21:24Z, or now)", param, ctx)
