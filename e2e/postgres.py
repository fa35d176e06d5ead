"""A PostgreSQL of its own in a temporary folder: Debian's server, run as an unprivileged user, gone with the test.

It listens on a Unix socket in that folder, and on a TCP address only where one is given (of a test's own bridge).  Nothing
of the system's own PostgreSQL is used or touched.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from e2e.mortal import mortal
from e2e.ports import free_port

USER = "chrysalis"
UNPRIVILEGED = ("postgres", "nobody")
START_SECONDS = 120
DEFAULT_PORT = 5432
"""Without an address it only names the socket's file."""


class Postgres:
    """A running server.

    durable: whether a commit waits for the disk; tests do without.  address: an IPv4 address of this machine to listen on,
    at a free port; over it the user needs `password`.
    """

    def __init__(self, *, durable: bool = False, address: str = "") -> None:
        """Make the cluster and start it; raises RuntimeError where Debian's `postgresql` is not installed."""
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not binaries:
            raise RuntimeError("PostgreSQL is not installed; run .ci/setup as root")
        self._bin = binaries[-1].parent
        self.folder = Path(tempfile.mkdtemp(prefix="chrysalis-pg-"))  # short: a socket's path has at most 107 characters
        self.address, self.port = address, free_port(address) if address else DEFAULT_PORT
        self.password = secrets.token_hex(16)
        self._numbers = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            account = next(pwd.getpwnam(name) for name in UNPRIVILEGED if _exists(name))
            self._as = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        os.chmod(self.folder, 0o755)  # the server checks its data folder, and others may reach the socket
        try:
            self._run("initdb", "-D", "data", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
            if address:
                with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
                    rules.write(f"host all {USER} 0.0.0.0/0 scram-sha-256\n")
            settings = {"listen_addresses": address, "unix_socket_directories": str(self.folder), "max_connections": "200"}
            if address:
                settings["port"] = str(self.port)
            if not durable:
                settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
            with (self.folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    # SIGQUIT: at once, its own children included
                    mortal(self._bin / "postgres", "-D", "data", *(f"--{n}={value}" for n, value in settings.items()), signal="QUIT"),
                    cwd=self.folder,
                    stdout=log,
                    stderr=log,
                    **self._as,
                )
            self._wait()
            with self._connect() as connection:
                connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(USER), sql.Literal(self.password)))
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def database(self) -> str:
        """The URL of a new, empty database: over TCP, without the password, where the server has an address."""
        self._numbers += 1
        name = f"broker{self._numbers}"
        with self._connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        if self.address:
            return f"postgresql+psycopg://{USER}@{self.address}:{self.port}/{name}"
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def drop(self, url: str) -> None:
        """Remove a database again, whoever is connected to it."""
        name = make_url(url).database or ""
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def copy(self, database: str) -> str:
        """The name of a new database that is as this one is at this moment, whoever works on it meanwhile."""
        self._numbers += 1
        name, file = f"copy{self._numbers}", f"copy{self._numbers}.dump"
        where = ("-h", str(self.folder), "-p", str(self.port), "-U", USER)
        self._run("pg_dump", *where, "-Fc", "-f", file, database)
        with self._connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        self._run("pg_restore", *where, "-d", name, file)
        return name

    def put_back(self, copy: str, database: str) -> None:
        """Let a copy take the place of a database; who works on that is cut off."""
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
            connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(copy), sql.Identifier(database)))

    def stop(self) -> None:
        """End the server at once and remove its files."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:  # SIGTERM waits for clients to leave
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run([self._bin / program, *arguments], cwd=self.folder, capture_output=True, text=True, **self._as)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr or done.stdout}")

    def connect(self, database: str) -> psycopg.Connection[Any]:
        """A connection of one's own, to look at a database from outside."""
        return psycopg.connect(host=str(self.folder), port=self.port, user=USER, dbname=database, autocommit=True)

    def _connect(self) -> psycopg.Connection[Any]:
        return self.connect("postgres")

    def _wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > until or self._process is None or self._process.poll() is not None:
                    raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-2000:]}") from error
                time.sleep(0.05)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
