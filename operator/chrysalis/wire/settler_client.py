"""The settler's client: published epochs (from its HTTP server or a folder that mirrors it) and receipts of one's own.

Nothing here is believed: epochs are checked against the chain's proofs, receipts against their signatures, by who asked.
"""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from chrysalis.wire.pinning import pinned_context
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.settler import MAX_FILE_BYTES, PATH_LATEST, PATH_RECEIPTS, LatestEpoch, PartyReceipts


class EpochSource(Protocol):
    """Where published epochs are read from."""

    def read(self, path: str) -> bytes:
        """The bytes of `latest.json` or `epochs/N/FILE`; raises WireError."""


class EpochFolder:
    """A folder that mirrors what the settler publishes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes:
        """The file's bytes; raises WireError."""
        file = self._folder / path.lstrip("/")
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                raise WireError(
                    WireReason.ANSWER_TOO_LARGE, f"{file} is over {MAX_FILE_BYTES} bytes", "give the folder of one contract's epochs"
                )
            return file.read_bytes()
        except OSError as error:
            raise WireError(
                WireReason.SERVICE_UNREACHABLE, f"cannot read {file}", "give the folder that holds latest.json", str(error)
            ) from error


class SettlerClient:
    """The settler's HTTP server.  `spki_sha256` pins its TLS key (for https); blocking, for the command line."""

    def __init__(self, url: str, *, spki_sha256: bytes | None = None, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WireError(WireReason.SERVICE_UNREACHABLE, f"{url[:200]!r} is not an http(s) URL", "give the settler's address")
        verify: ssl.SSLContext | bool = True
        if parts.scheme == "https" and spki_sha256 is not None:
            verify = pinned_context(parts.hostname, parts.port or 443, spki_sha256=spki_sha256).context
        self._http = httpx.Client(base_url=url.rstrip("/"), verify=verify, timeout=timeout, trust_env=False)

    def read(self, path: str) -> bytes:
        """A published file's bytes; raises WireError."""
        return self._get("/" + path.lstrip("/"), {}, {})

    def receipts(self, token: str, *, after: int = 0, limit: int = 500) -> PartyReceipts:
        """One page of one's own receipts; `token` is a compact PartyToken."""
        raw = self._get(PATH_RECEIPTS, {"after": str(after), "limit": str(limit)}, {"authorization": f"Bearer {token}"})
        try:
            return PartyReceipts.model_validate_json(raw)
        except ValidationError as error:
            raise _malformed(PATH_RECEIPTS, str(error)) from error

    def _get(self, path: str, query: dict[str, str], headers: dict[str, str]) -> bytes:
        body = bytearray()
        try:
            with self._http.stream("GET", path, params=query, headers=headers) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_FILE_BYTES:
                        raise WireError(WireReason.ANSWER_TOO_LARGE, f"the answer to {path} is over {MAX_FILE_BYTES} bytes", "ask for less")
        except httpx.HTTPError as error:
            raise WireError(
                WireReason.SERVICE_UNREACHABLE,
                f"no answer from {self._http.base_url}",
                "check that the settler runs",
                f"{type(error).__name__}: {error}",
            ) from error
        if not response.is_success:
            detail = bytes(body[:512]).decode(errors="replace")
            raise WireError(
                WireReason.REFUSED_BY_SERVICE, f"the settler answered {response.status_code} to {path}", "see the detail", detail
            )
        return bytes(body)


def epoch_source(where: str) -> EpochSource:
    """A URL's server or a path's folder."""
    return SettlerClient(where) if where.startswith(("http://", "https://")) else EpochFolder(Path(where))


def latest(source: EpochSource) -> LatestEpoch:
    """What the source says is the newest epoch; a statement to be checked, not a fact."""
    raw = source.read(PATH_LATEST)
    try:
        return LatestEpoch.model_validate_json(raw)
    except ValidationError as error:
        raise _malformed(PATH_LATEST, f"{error}; SHA-256 {hashlib.sha256(raw).hexdigest()}") from error


def _malformed(path: str, detail: str) -> WireError:
    return WireError(WireReason.ANSWER_MALFORMED, f"{path} is not what this version expects", "compare the versions", detail[:1024])
