"""Addresses of services on the command line."""

from __future__ import annotations

from urllib.parse import urlsplit

import click


class HttpsUrl(click.ParamType[str]):
    """An https URL with a host, and a port where one is given; what is none is usage, not a service that cannot be reached."""

    name = "URL"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parts = urlsplit(value)
            usable = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and value.isprintable() and " " not in value
        except ValueError:  # a port above 65535, a bracket that does not close
            usable = False
        if not usable:
            self.fail(f"{value!r} is no https URL, like https://broker.example:8443", param, ctx)
        return value


HTTPS = HttpsUrl()
