"""The plain archive of a Triton model repository: one canonical byte string for each content, whose SHA-256 is modelDigest.

A tar file (POSIX ustar; sizes of 8 GiB and more in GNU's base-256 form) that any tar reads, with nothing free in it: entries
sorted by their path's bytes, a directory before what is in it, mode 0644 and 0755, owner 0, time 0, only regular files and
directories, two zero blocks at the end and nothing after.  The reader accepts exactly this form: it rebuilds each header
from the name and size that it read and compares, so links, devices, absolute paths and `..` have no way to stand in it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from chrysalis.sealing.reasons import SealingError, SealingReason

BLOCK = 512
CHUNK = 1 << 20
MAX_PATH_BYTES = 255
FILE_TYPE = b"0"
DIRECTORY_TYPE = b"5"


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most."""

    entries: int = 100_000
    size_bytes: int = 1 << 40


DEFAULT_LIMITS = Limits()


def pack(directory: Path, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The archive in memory; for small repositories and tests.  Raises SealingError."""
    return b"".join(stream(directory, limits))


def stream(directory: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes]:
    """The archive of everything in a directory, piece by piece.

    Raises SealingError for a link, a special file, a name that the format refuses, a file that changes while it is read,
    an unreadable or empty directory, and for more than the limits.
    """
    found = sorted(_entries(Path(directory)))
    if not found:
        raise _source(f"{directory} is empty", "give the directory that holds the model directories with their config.pbtxt")
    if len(found) > limits.entries:
        raise _too_large(f"over {limits.entries} entries")
    total = 2 * BLOCK + sum(BLOCK + (_padded(info.st_size) if stat.S_ISREG(info.st_mode) else 0) for _, _, info in found)
    if total > limits.size_bytes:
        raise _too_large(f"{total} bytes; at most {limits.size_bytes}")
    for name, path, info in found:
        if stat.S_ISDIR(info.st_mode):
            yield _header(name, 0, DIRECTORY_TYPE)
            continue
        yield _header(name, info.st_size, FILE_TYPE)
        yield from _content(path, info.st_size)
        yield bytes(_padded(info.st_size) - info.st_size)
    yield bytes(2 * BLOCK)


def digest(directory: Path) -> str:
    """modelDigest of a repository, `sha256:<hex>`, without writing the archive anywhere."""
    sha = hashlib.sha256()
    for piece in stream(directory):
        sha.update(piece)
    return f"sha256:{sha.hexdigest()}"


def unpack(data: bytes, destination: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack an archive into a directory that does not exist yet; on an error the caller removes what is in it."""
    unpacker = Unpacker(destination, limits)
    try:
        unpacker.write(data)
        unpacker.finish()
    finally:
        unpacker.close()


class Unpacker:
    """Takes an archive in pieces of any size and writes its files below a new directory.

    `write` and `finish` raise SealingError at the first byte that is not canonical; OSError comes from the destination.
    Nothing is complete before `finish` has returned.
    """

    def __init__(self, destination: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self._root = Path(destination)
        self._root.mkdir(mode=0o755)
        self._limits = limits
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._left = 0  # content bytes of the open file that are still to come
        self._padding = 0
        self._zero_blocks = 0
        self._last = b""
        self._directories: set[str] = {""}
        self._entries = 0
        self._size = 0

    def write(self, piece: bytes) -> int:
        """Take the next bytes; returns how many (all)."""
        self._size += len(piece)
        if self._size > self._limits.size_bytes:
            raise _too_large(f"over {self._limits.size_bytes} bytes")
        view = memoryview(piece)
        while view:
            if self._left:
                view = self._take_content(view)
            elif self._padding:
                view = self._take_padding(view)
            else:
                wanted = BLOCK - len(self._buffer)
                self._buffer += view[:wanted]
                view = view[wanted:]
                if len(self._buffer) == BLOCK:
                    block = bytes(self._buffer)
                    self._buffer.clear()
                    self._take_block(block)
        return len(piece)

    def flush(self) -> None:
        """Part of a writer's interface; files are flushed when they are complete."""

    def finish(self) -> None:
        """The archive has ended; raises SealingError when it has not."""
        if self._zero_blocks != 2 or self._buffer:
            raise _malformed("it ends before its end marker")
        if not self._entries:
            raise _malformed("it holds nothing")

    def close(self) -> None:
        """Close the file that is open, if any; needed after an error."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take_content(self, view: memoryview) -> memoryview:
        part = view[: self._left]
        if self._file is None:
            raise AssertionError("content without a file")
        self._file.write(part)
        self._left -= len(part)
        if not self._left:
            self.close()
        return view[len(part) :]

    def _take_padding(self, view: memoryview) -> memoryview:
        part = view[: self._padding]
        if any(part):
            raise _malformed("padding that is not zero")
        self._padding -= len(part)
        return view[len(part) :]

    def _take_block(self, block: bytes) -> None:
        if not any(block):
            self._zero_blocks += 1
            if self._zero_blocks > 2:
                raise _malformed("something follows the end marker")
            return
        if self._zero_blocks:
            raise _malformed("something follows the end marker")
        name, size, kind = _read_header(block)
        self._entries += 1
        if self._entries > self._limits.entries:
            raise _too_large(f"over {self._limits.entries} entries")
        encoded = name.encode()
        if encoded <= self._last:
            raise _malformed(f"{name!r} stands out of order or twice")
        if name.rpartition("/")[0] not in self._directories:
            raise _malformed(f"{name!r} stands before its directory")
        self._last = encoded
        path = self._root / name
        if kind == DIRECTORY_TYPE:
            path.mkdir(mode=0o755)
            self._directories.add(name)
            return
        if size > self._limits.size_bytes:
            raise _too_large(f"{name!r} has over {self._limits.size_bytes} bytes")
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb")
        self._left = size
        self._padding = _padded(size) - size
        if not size:
            self.close()


def _entries(directory: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    pending = [(directory, "")]
    while pending:
        folder, prefix = pending.pop()
        try:
            with os.scandir(folder) as found:
                children = [(child, child.stat(follow_symlinks=False)) for child in found]
        except OSError as error:
            raise _source(f"{folder} cannot be read", "give a readable directory", str(error)) from error
        for child, info in children:
            name, path = prefix + child.name, Path(child.path)
            _check_name(name, f"{path} cannot stand in a model archive")
            if stat.S_ISDIR(info.st_mode):
                pending.append((path, name + "/"))
            elif not stat.S_ISREG(info.st_mode):
                raise SealingError(
                    SealingReason.ARCHIVE_ENTRY_REFUSED,
                    f"{path} is neither a file nor a directory",
                    "replace links by copies and remove special files",
                )
            yield name, path, info


def _content(path: Path, size: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            left = size
            while left:
                piece = file.read(min(CHUNK, left))
                if not piece:
                    break
                left -= len(piece)
                yield piece
            if left or file.read(1):
                raise _source(f"{path} changed while it was read", "seal a copy that nobody writes to")
    except OSError as error:
        raise _source(f"{path} cannot be read", "make it readable", str(error)) from error


def _check_name(name: str, message: str) -> None:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    parts = name.split("/")
    if (
        not encoded
        or len(encoded) > MAX_PATH_BYTES
        or any(part in ("", ".", "..") for part in parts)
        or any(ord(c) < 32 or ord(c) == 127 or c == "\\" for c in name)
        or _split(encoded) is None
    ):
        raise SealingError(
            SealingReason.ARCHIVE_ENTRY_REFUSED,
            message,
            f"use relative UTF-8 paths of at most {MAX_PATH_BYTES} bytes (each name at most 100), without backslash or control characters",
            repr(name[:300]),
        )


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """ustar's prefix (155 bytes) and name (100 bytes), which meet at a slash; None when no slash fits."""
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", len(name) - 101)
    return None if cut <= 0 or cut > 155 or cut == len(name) - 1 else (name[:cut], name[cut + 1 :])


def _header(name: str, size: int, kind: bytes) -> bytes:
    split = _split(name.encode())
    if split is None:
        raise AssertionError("names are checked before")
    prefix, rest = split
    mode = b"0000755\0" if kind == DIRECTORY_TYPE else b"0000644\0"
    length = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    head = rest.ljust(100, b"\0") + mode + b"0000000\0" * 2 + length + b"00000000000\0"
    tail = kind + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + prefix.ljust(155, b"\0") + bytes(12)
    checksum = sum(head) + 8 * ord(" ") + sum(tail)
    return head + b"%06o\0 " % checksum + tail


def _read_header(block: bytes) -> tuple[str, int, bytes]:
    kind, length = block[156:157], block[124:136]
    try:
        rest, prefix = block[:100].rstrip(b"\0").decode(), block[345:500].rstrip(b"\0").decode()
        size = int.from_bytes(length[1:], "big") if length[0] == 0x80 else int(length[:11], 8)
    except ValueError as error:
        raise _malformed(f"a header that cannot be read: {error}") from error
    name = f"{prefix}/{rest}" if prefix else rest
    _check_name(name, f"the archive holds {name[:300]!r}, which may not be unpacked")
    if kind not in (FILE_TYPE, DIRECTORY_TYPE):
        raise SealingError(
            SealingReason.ARCHIVE_ENTRY_REFUSED,
            f"the archive holds {name!r}, which is neither a file nor a directory",
            "seal the repository again with `chrysalis seal`",
            f"type {kind!r}",
        )
    if size < 0 or _header(name, size, kind) != block:
        raise _malformed(f"the header of {name!r} is not in the canonical form")
    return name, size, kind


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _malformed(detail: str) -> SealingError:
    return SealingError(
        SealingReason.ARCHIVE_MALFORMED,
        "this is not a model archive in the form that `chrysalis seal` makes",
        "seal the repository again with `chrysalis seal`",
        detail,
    )


def _too_large(detail: str) -> SealingError:
    return SealingError(SealingReason.ARCHIVE_TOO_LARGE, "the model is larger than allowed", "raise the limit, or split the model", detail)


def _source(message: str, remedy: str, detail: str = "") -> SealingError:
    return SealingError(SealingReason.SOURCE_UNUSABLE, message, remedy, detail)
