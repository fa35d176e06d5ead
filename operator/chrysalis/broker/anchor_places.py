"""Where an anchor's bytes lie: a file on another volume, or a ConfigMap of the cluster.  What they mean is chrysalis.broker.anchors'."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx

from chrysalis.broker.anchor_settings import ConfigMapName
from chrysalis.broker.exchange import StatusError, exchange
from chrysalis.broker.kubernetes_settings import KubernetesSettings
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.state_keys import replace_file
from chrysalis.clock import Clock

MAX_ANCHOR_BYTES = 16 * 1024 * 1024
MAX_OBJECT_BYTES = 4 * 1024 * 1024
MAX_ENTRY_BYTES = 700 * 1024
"""Compressed; etcd takes objects of 1.5 MiB, and a ConfigMap may hold 1 MiB of base64."""
FILE_NAMES, CONFIG_MAP_NAMES = 100_000, 9_000
"""Names of policies and keys for which there is room in the worst case: of 63 characters and with versions of 16 digits that do not
compress, beside as many recalled keys and publishers as there can be."""
ENTRY = "anchor"
ASK_SECONDS = 5.0
ATTEMPTS = 8
"""How often an update is tried when other replicas write at the same time."""

Change = Callable[[bytes | None], bytes | None]
"""Makes new content of what is there (None: nothing yet); None leaves it as it is."""


class Place(Protocol):
    """A place outside of the database."""

    def read(self) -> bytes | None:
        """What lies there, None where nothing does yet; raises BrokerError (AnchorUnusable)."""

    def update(self, change: Change) -> None:
        """Put new content there, durably, and only in place of what `change` has seen; raises BrokerError (AnchorUnusable)."""


class FilePlace:
    """A file; replicas that share it take turns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        try:
            with self._path.open("rb") as file:
                raw = file.read(MAX_ANCHOR_BYTES + 1)
        except FileNotFoundError:
            if self._path.parent.is_dir():
                return None
            raise self._unusable("its directory is not there") from None
        except OSError as error:
            raise self._unusable(str(error)) from error
        if len(raw) > MAX_ANCHOR_BYTES:
            raise self._unusable(f"over {MAX_ANCHOR_BYTES} bytes")
        return raw

    def update(self, change: Change) -> None:
        with self._turn():
            new = change(self.read())
            if new is not None:
                try:
                    replace_file(self._path, new)
                except OSError as error:
                    raise self._unusable(str(error)) from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            descriptor = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _unusable(self, detail: str) -> BrokerError:
        return BrokerError(
            BrokerReason.ANCHOR_UNUSABLE,
            f"the anchor {self._path} cannot be read or written",
            "mount the volume of anchor.file, writable for the broker",
            detail[:512],
        )


class ConfigMapPlace:
    """An entry of a ConfigMap, written on condition of its resourceVersion: of two replicas that write at once, one sees the other's.

    The broker makes no ConfigMap: a right to create objects cannot be confined to one name.  The chart makes it, empty.
    """

    def __init__(
        self, name: ConfigMapName, settings: KubernetesSettings, clock: Clock, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._name = name
        self._settings = settings
        self._url = f"{settings.url.rstrip('/')}/api/v1/namespaces/{name.namespace}/configmaps/{name.name}"
        self._clock = clock
        self._transport = transport
        self._http: httpx.Client | None = None
        self._lock = threading.Lock()

    def read(self) -> bytes | None:
        return self._entry(self._ask("GET"))

    def update(self, change: Change) -> None:
        for _ in range(ATTEMPTS):
            found = self._ask("GET")
            new = change(self._entry(found))
            if new is None:
                return
            packed = zlib.compress(new, 9)
            if len(packed) > MAX_ENTRY_BYTES:
                raise self._unusable(f"{len(packed)} bytes: too many policies and keys for a ConfigMap; use anchor.file")
            found["binaryData"] = {**(found.get("binaryData") or {}), ENTRY: base64.b64encode(packed).decode()}
            found["metadata"].pop("managedFields", None)
            try:
                self._ask("PUT", found)  # resourceVersion is in its metadata: refused (409) where it changed meanwhile
                return
            except _Conflict:
                continue
        raise self._unusable("other writers were always faster")

    def _entry(self, found: dict[str, Any]) -> bytes | None:
        try:
            entry = (found.get("binaryData") or {}).get(ENTRY)
            if entry is None:
                return None
            unpacking = zlib.decompressobj()
            raw = unpacking.decompress(base64.b64decode(entry, validate=True), MAX_ANCHOR_BYTES)
            if not unpacking.eof:
                raise ValueError(f"over {MAX_ANCHOR_BYTES} bytes, or cut off")
        except (ValueError, TypeError, AttributeError, zlib.error):
            return b""  # something that nobody signed: its reader says so
        return raw

    def _ask(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            own = self._settings.token_file.read_text().strip()  # kubelet rotates it
            answer = exchange(
                self._client(),
                method,
                self._url,
                clock=self._clock,
                seconds=ASK_SECONDS,
                max_bytes=MAX_OBJECT_BYTES,
                json=body,
                headers={"authorization": f"Bearer {own}"},
            )
            found = json.loads(answer)
            if not isinstance(found, dict) or not isinstance(found["metadata"]["resourceVersion"], str):
                raise ValueError("the API server's answer is no object with a resourceVersion")
            return found
        except StatusError as error:
            if error.status == 409 and method == "PUT":
                raise _Conflict from error
            raise self._unusable(str(error)) from error
        except (OSError, httpx.HTTPError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._unusable(f"{type(error).__name__}: {error}") from error

    def _client(self) -> httpx.Client:
        with self._lock:
            if self._http is None:
                verify = ssl.create_default_context(cafile=str(self._settings.ca_file)) if self._transport is None else True
                self._http = httpx.Client(verify=verify, trust_env=False, transport=self._transport)
            return self._http

    def _unusable(self, detail: str) -> BrokerError:
        return BrokerError(
            BrokerReason.ANCHOR_UNUSABLE,
            f"the anchor, ConfigMap {self._name.namespace}/{self._name.name}, cannot be read or written",
            "check that the API server answers, that the object is there (empty at first; the chart makes it) and that the broker's "
            "ServiceAccount may get and update it",
            detail[:512],
        )


class _Conflict(Exception):
    """The object was changed since it was read."""
