"""Where the broker's database is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from sqlalchemy import URL
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from chrysalis.api.base import Model
from chrysalis.broker.database import DRIVERS, SQLITE
from chrysalis.broker.reasons import BrokerError, BrokerReason

FILE = "broker.db"
MAX_PASSWORD_BYTES = 4096


class DatabaseSettings(Model):
    """The database; absent: SQLite in stateDir.

    url: postgresql+psycopg://USER@HOST:PORT/DATABASE with libpq's parameters behind `?` (sslmode=verify-full,
    sslrootcert=FILE), for several replicas; without a password, which does not belong into a configuration.
    passwordFile: holds the password (a mounted Secret); a line's end at its end does not count.
    """

    url: Annotated[str, Field(max_length=2048)]
    password_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _readable(cls, url: str) -> str:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ValueError("is no URL") from error
        if parsed.drivername not in DRIVERS:
            raise ValueError("must begin with postgresql+psycopg://")
        if parsed.password is not None or "password" in parsed.query:
            raise ValueError("must not hold the password; use passwordFile")
        return url

    def resolve(self) -> URL:
        """The URL with the password; raises BrokerError (SettingsInvalid) when its file cannot be read."""
        url = make_url(self.url)
        if self.password_file is None:
            return url
        try:
            with self.password_file.open("rb") as file:
                raw = file.read(MAX_PASSWORD_BYTES + 1)
            if len(raw) > MAX_PASSWORD_BYTES:
                raise ValueError(f"over {MAX_PASSWORD_BYTES} bytes")
            return url.set(password=raw.decode().rstrip("\r\n"))
        except (OSError, ValueError) as error:
            raise BrokerError(
                BrokerReason.SETTINGS_INVALID,
                f"{self.password_file} holds no database password",
                "mount the Secret's file that database.passwordFile names",
                type(error).__name__,
            ) from error


def url_of(settings: DatabaseSettings | None, state_dir: Path) -> URL:
    """The database of some settings; raises BrokerError (SettingsInvalid)."""
    return settings.resolve() if settings is not None else URL.create(SQLITE, database=str(state_dir / FILE))
