"""Files of a data owner on the command line: its signing key, identities, documents; and asking a broker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from chrysalis.cli import failures, files
from chrysalis.errors import ChrysalisError
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.reasons import Refused, WireError, WireReason

MAX_FILE_BYTES = 1024 * 1024
EXIT_NO = 1
EXIT_UNREACHABLE = 3


class OwnerFileReason(StrEnum):
    """Why a file of the owner cannot be used."""

    FILE_UNUSABLE = "FileUnusable"
    OWNER_KEY_MALFORMED = "OwnerKeyMalformed"
    DOCUMENT_INVALID = "DocumentInvalid"


class OwnerFileError(ChrysalisError):
    """A file on the command line that cannot be read, written or understood."""


def read_text(path: Path) -> str:
    """The text of a small file, or of standard input (-); raises OwnerFileError."""
    data = files.read(path, MAX_FILE_BYTES, lambda message: OwnerFileError(OwnerFileReason.FILE_UNUSABLE, message, "check its path"))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{path} is not text"
        raise OwnerFileError(OwnerFileReason.FILE_UNUSABLE, message, "check its path; UTF-8 text is expected", str(error)) from error


def owner_key(path: Path) -> Ed25519PrivateKey:
    """The owner's signing key (PKCS #8 PEM, as `chrysalis keys new-owner` writes it); raises OwnerFileError."""
    text = read_text(path)
    try:
        key = load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise OwnerFileError(
            OwnerFileReason.OWNER_KEY_MALFORMED, f"{path} is no Ed25519 private key in PEM", "make one with `chrysalis keys new-owner FILE`"
        )
    return key


def new_owner_key(path: Path) -> Ed25519PrivateKey:
    """Make a signing key in a new file that only its owner reads; raises OwnerFileError."""
    key = Ed25519PrivateKey.generate()
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except OSError as error:
        raise OwnerFileError(OwnerFileReason.FILE_UNUSABLE, f"{path} cannot be made", "name a new file", str(error)) from error
    return key


def ask(
    url: str,
    pin: str,
    question: Callable[[BrokerClient], Awaitable[None]],
    token: Callable[[], str] | None = None,
    timeout: float = 15.0,
) -> int:
    """Ask a broker something; returns the exit code 0, 1 (refused, and why) or 3 (not reached).  token gives the bearer."""

    async def run() -> None:
        async with BrokerClient(url, spki_sha256=pin, token=token, timeout=timeout) as client:
            await question(client)

    try:
        asyncio.run(run())
    except Refused as refused:
        return failures.tell(refused.reasons, EXIT_UNREACHABLE if refused.retryable else EXIT_NO)
    except WireError as error:
        if error.reason not in (WireReason.SERVICE_UNREACHABLE, WireReason.PIN_MISMATCH):
            raise
        return failures.tell([error], EXIT_UNREACHABLE)
    return 0
