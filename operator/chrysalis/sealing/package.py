"""Sealed packages: a model archive encrypted with age (age-encryption.org/v1) to one fresh X25519 key.

Streams both ways; memory does not grow with the model.  Opening is all or nothing: files are written to a new directory
beside the destination, which takes its name only when every byte was authentic and the digest is the expected one.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyrage
from pyrage import x25519

from chrysalis.sealing import archive
from chrysalis.sealing.reasons import SealingError, SealingReason

VERSION_LINE = b"age-encryption.org/v1\n"
MAX_HEADER_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """What sealing gives: the secret identity (AGE-SECRET-KEY-1…), and what the world may know of the package."""

    identity: str
    package_digest: str  # sha256:<hex> of the sealed file
    model_digest: str  # sha256:<hex> of the plain archive
    size_bytes: int  # of the sealed file

    def __repr__(self) -> str:
        return f"Sealed(package_digest={self.package_digest!r}, model_digest={self.model_digest!r}, size_bytes={self.size_bytes})"


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What a sealed file tells without its key."""

    package_digest: str
    size_bytes: int
    recipients: list[str]  # the stanza types of the age header, `X25519` for ours


def seal(directory: Path, out_path: Path, limits: archive.Limits = archive.DEFAULT_LIMITS) -> Sealed:
    """Archive and encrypt a model repository; out_path appears only when it is complete.  Raises SealingError."""
    out_path = Path(out_path)
    identity = x25519.Identity.generate()
    source = _Source(archive.stream(Path(directory), limits))
    partial = out_path.with_name(f".{out_path.name}.{secrets.token_hex(8)}")
    try:
        with partial.open("xb") as file:
            sink = _Sink(file)
            pyrage.encrypt_io(source, sink, [identity.to_public()])
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out_path)
    except (OSError, pyrage.EncryptError) as error:
        if source.failure is not None:  # pyrage hides what a reader raises behind an OSError
            raise source.failure from error
        raise _destination(out_path, error) from error
    finally:
        partial.unlink(missing_ok=True)
    return Sealed(
        identity=str(identity),
        package_digest=f"sha256:{sink.sha.hexdigest()}",
        model_digest=f"sha256:{source.sha.hexdigest()}",
        size_bytes=sink.size,
    )


def open_package(path: Path, identity: str, model_digest: str, destination: Path, limits: archive.Limits = archive.DEFAULT_LIMITS) -> None:
    """Decrypt a package into `destination`, which must not exist (or be an empty directory) and whose parent must.

    model_digest, `sha256:<hex>`, is that of the plain archive.  Raises SealingError: IdentityMalformed, PackageMalformed,
    PackageKeyWrong, PackageDamaged (changed or truncated), Archive…, ModelDigestMismatch, DestinationUnusable; then nothing
    of the model is left on the disk.
    """
    destination = Path(destination)
    key = _identity(identity)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise SealingError(
            SealingReason.DESTINATION_UNUSABLE, f"{destination} is there and not an empty directory", "name one that does not exist"
        )
    inspect_header(path)
    staging = destination.with_name(f".{destination.name}.{secrets.token_hex(8)}")
    try:
        _decrypt(Path(path), key, staging, model_digest, limits)
        staging.rename(destination)
    except OSError as error:
        raise _destination(destination, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_identity(identity: str) -> None:
    """Raise SealingError (IdentityMalformed) unless the text is an age X25519 identity."""
    _identity(identity)


def digest(path: Path) -> str:
    """`sha256:<hex>` of a sealed file; raises SealingError when it cannot be read."""
    sha = hashlib.sha256()
    with _reading(path) as file:
        while piece := file.read(archive.CHUNK):
            sha.update(piece)
    return f"sha256:{sha.hexdigest()}"


def inspect(path: Path) -> Inspected:
    """What can be said without the key; raises SealingError for a file that is no age package."""
    recipients = inspect_header(path)
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    return Inspected(package_digest=digest(path), size_bytes=size, recipients=recipients)


def inspect_header(path: Path) -> list[str]:
    """The recipient stanzas' types; raises SealingError: PackageMalformed."""
    with _reading(path) as file:
        head = file.read(MAX_HEADER_BYTES)
    text, separator, _ = head.partition(b"\n---")
    if not head.startswith(VERSION_LINE) or not separator:
        raise SealingError(
            SealingReason.PACKAGE_MALFORMED,
            f"{path} is not an age package",
            "seal the repository with `chrysalis seal`, or fetch the package again: it may be truncated",
        )
    stanzas = [line[3:].split(b" ")[0] for line in text.split(b"\n") if line.startswith(b"-> ")]
    # age's own implementations add one stanza with a random name against ossification; it says nothing.
    return sorted({stanza.decode("ascii", "replace") for stanza in stanzas if not stanza.endswith(b"-grease")})


class _Source:
    """The archive's pieces as a reader that counts the digest; pyrage calls read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""
        self.sha = hashlib.sha256()
        self.failure: SealingError | None = None

    def read(self, size: int = -1) -> bytes:
        while not self._left:
            try:
                piece = next(self._pieces, None)
            except SealingError as error:
                self.failure = error
                raise
            if piece is None:
                return b""
            self._left = piece
        taken = self._left if size < 0 else self._left[:size]
        self._left = self._left[len(taken) :]
        self.sha.update(taken)
        return taken


class _Sink:
    """A writer that counts digest and size."""

    def __init__(self, target: BinaryIO | archive.Unpacker) -> None:
        self._target = target
        self.sha = hashlib.sha256()
        self.size = 0
        self.failure: OSError | None = None

    def write(self, piece: bytes) -> int:
        self.sha.update(piece)
        self.size += len(piece)
        try:
            self._target.write(piece)
        except OSError as error:
            self.failure = error
            raise
        return len(piece)

    def flush(self) -> None:
        self._target.flush()


def _decrypt(path: Path, key: x25519.Identity, staging: Path, model_digest: str, limits: archive.Limits) -> None:
    unpacker = archive.Unpacker(staging, limits)
    sink = _Sink(unpacker)
    try:
        with _reading(path) as file:
            pyrage.decrypt_io(file, sink, [key])
        unpacker.finish()
    except pyrage.DecryptError as error:
        # pyrage has one class for all; the text tells a header without our key from one that is no header.
        if "No matching keys" in str(error):
            raise SealingError(
                SealingReason.PACKAGE_KEY_WRONG,
                f"{path} was sealed to another key",
                "use the identity that was written when this package was sealed; if it is that one, the package's header was changed",
            ) from error
        raise _damaged(path, str(error)) from error
    except OSError as error:
        if sink.failure is not None:
            raise sink.failure from error
        raise _damaged(path, str(error)) from error
    finally:
        unpacker.close()
    found = f"sha256:{sink.sha.hexdigest()}"
    if not hmac.compare_digest(found.encode(), model_digest.encode()):
        raise SealingError(
            SealingReason.MODEL_DIGEST_MISMATCH,
            "the package holds another model than the expected one",
            "compare spec.model.digest with the digest that `chrysalis seal` printed",
            f"expected {model_digest[:80]}, found {found}",
        )


def _identity(text: str) -> x25519.Identity:
    try:
        return x25519.Identity.from_str(text.strip())
    except (pyrage.IdentityError, ValueError) as error:
        raise SealingError(
            SealingReason.IDENTITY_MALFORMED,
            "the key is not an age identity",
            "give the text that begins with AGE-SECRET-KEY-1, as `chrysalis seal --identity-out` wrote it",
        ) from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        yield file


def _unreadable(path: Path, error: OSError) -> SealingError:
    return SealingError(SealingReason.SOURCE_UNUSABLE, f"{path} cannot be read", "give the path of a sealed package", str(error))


def _damaged(path: Path, detail: str) -> SealingError:
    return SealingError(
        SealingReason.PACKAGE_DAMAGED, f"{path} was changed or is truncated", "fetch it again, and compare its digest", detail
    )


def _destination(path: Path, error: Exception) -> SealingError:
    return SealingError(
        SealingReason.DESTINATION_UNUSABLE, f"{path} cannot be written", "check the directory's permissions and free space", str(error)
    )
