"""The canonical archive: one form for each content, and nothing else unpacks."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chrysalis.sealing import archive
from chrysalis.sealing.reasons import SealingError, SealingReason

LONG = "d" * 90 + "/" + "f" * 90


def repository(root: Path) -> Path:
    for name, content in {"m/config.pbtxt": b"name: 'm'", "m/1/model.py": b"x" * 1000, "m-2/config.pbtxt": b"", LONG: b"y" * 512}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "m-2" / "1").mkdir()
    return root


def tree(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


def test_contents_come_back_and_times_owners_and_modes_do_not_matter(tmp_path: Path) -> None:
    one, two = repository(tmp_path / "one"), repository(tmp_path / "two")
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    data = archive.pack(one)
    assert data == archive.pack(two)
    archive.unpack(data, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(one)


def test_any_tar_reads_it(tmp_path: Path) -> None:
    root = repository(tmp_path / "one")
    with tarfile.open(fileobj=io.BytesIO(archive.pack(root))) as tar:
        members = {m.name: m for m in tar.getmembers()}
        files = {name: tar.extractfile(m) for name, m in members.items()}
        assert {name: file.read() if file else None for name, file in files.items()} == tree(root)
        assert {(m.mode, m.uid, m.mtime) for m in members.values()} == {(0o644, 0, 0), (0o755, 0, 0)}


@given(cuts=st.lists(st.integers(0, 8000), max_size=20))
@settings(max_examples=30, deadline=None)
def test_pieces_of_any_size_are_the_same(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    base = tmp_path_factory.mktemp("cuts")
    root = repository(base / "one")
    data = archive.pack(root)
    unpacker = archive.Unpacker(base / "out")
    edges = sorted({0, len(data), *(c % len(data) for c in cuts)})
    for start, end in itertools.pairwise(edges):
        unpacker.write(data[start:end])
    unpacker.finish()
    assert tree(base / "out") == tree(root)


def canonical(*entries: tuple[bytes, bytes, bytes]) -> bytes:
    """Entries of (name, kind, content) in the canonical framing, whatever the name."""
    out = b""
    for name, kind, content in entries:
        header = bytearray(archive._header("placeholder", len(content), kind))
        header[:100] = name.ljust(100, b"\0")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        out += bytes(header) + content.ljust(-(-len(content) // 512) * 512, b"\0")
    return out + bytes(1024)


F, D = archive.FILE_TYPE, archive.DIRECTORY_TYPE
GOOD = canonical((b"m", D, b""), (b"m/x", F, b"1"))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("traversal", canonical((b"../x", F, b"1")), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("traversal inside", canonical((b"m", D, b""), (b"m/../../x", F, b"1")), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("absolute", canonical((b"/etc/x", F, b"1")), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("dot", canonical((b"./x", F, b"1")), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("control character", canonical((b"a\nb", F, b"1")), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("no name", canonical((b"", F, b"1")), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("not UTF-8", canonical((b"\xff", F, b"1")), SealingReason.ARCHIVE_MALFORMED),
        ("symbolic link", canonical((b"m", b"2", b"")), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("hard link", canonical((b"m", b"1", b"")), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("device", canonical((b"m", b"3", b"")), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("pax header", canonical((b"m", b"x", b"")), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("twice", canonical((b"m", F, b"1"), (b"m", F, b"2")), SealingReason.ARCHIVE_MALFORMED),
        ("out of order", canonical((b"n", F, b"1"), (b"m", F, b"2")), SealingReason.ARCHIVE_MALFORMED),
        ("no directory", canonical((b"m/x", F, b"1")), SealingReason.ARCHIVE_MALFORMED),
        ("below a file", canonical((b"m", F, b""), (b"m/x", F, b"1")), SealingReason.ARCHIVE_MALFORMED),
        ("directory with content", canonical((b"m", D, b"1")), SealingReason.ARCHIVE_MALFORMED),
        ("another mode", GOOD.replace(b"0000644", b"0000755"), SealingReason.ARCHIVE_MALFORMED),
        ("padding", GOOD[:1025] + b"x" + GOOD[1026:], SealingReason.ARCHIVE_MALFORMED),
        ("truncated in the end marker", GOOD[:-512], SealingReason.ARCHIVE_MALFORMED),
        ("truncated in a header", GOOD[:700], SealingReason.ARCHIVE_MALFORMED),
        ("truncated in content", GOOD[:1024], SealingReason.ARCHIVE_MALFORMED),
        ("more zeros", GOOD + bytes(512), SealingReason.ARCHIVE_MALFORMED),
        ("something after the end", GOOD + GOOD, SealingReason.ARCHIVE_MALFORMED),
        ("half a block after the end", GOOD + b"\0", SealingReason.ARCHIVE_MALFORMED),
        ("empty", bytes(1024), SealingReason.ARCHIVE_MALFORMED),
        ("nothing", b"", SealingReason.ARCHIVE_MALFORMED),
        ("junk", b"junk" * 200, SealingReason.ARCHIVE_MALFORMED),
    ],
)
def test_what_is_not_canonical_is_refused(tmp_path: Path, name: str, data: bytes, reason: SealingReason) -> None:
    archive.unpack(GOOD, tmp_path / "good")
    with pytest.raises(SealingError) as caught:
        archive.unpack(data, tmp_path / "bad")
    assert caught.value.reason == reason
    assert {p.name for p in tmp_path.iterdir()} <= {"good", "bad"}


@given(st.binary(max_size=3000))
@settings(max_examples=100, deadline=None)
def test_foreign_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with pytest.raises(SealingError):
        archive.unpack(data, tmp_path_factory.mktemp("junk") / "out")


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_changed_byte_is_refused_or_content(tmp_path_factory: pytest.TempPathFactory, position: int, change: int) -> None:
    base = tmp_path_factory.mktemp("flip")
    data = bytearray(GOOD)
    data[position] ^= change
    try:
        archive.unpack(bytes(data), base / "out")
    except SealingError:
        return
    assert archive.pack(base / "out") == bytes(data)


def test_limits(tmp_path: Path) -> None:
    root = repository(tmp_path / "one")
    data = archive.pack(root)
    archive.unpack(data, tmp_path / "fits", archive.Limits(entries=9, size_bytes=len(data)))
    for number, limits in enumerate([archive.Limits(entries=8), archive.Limits(size_bytes=len(data) - 1)]):
        with pytest.raises(SealingError) as caught:
            archive.unpack(data, tmp_path / f"out{number}", limits)
        assert caught.value.reason == SealingReason.ARCHIVE_TOO_LARGE
    with pytest.raises(SealingError) as caught:
        archive.pack(root, archive.Limits(entries=8))
    assert caught.value.reason == SealingReason.ARCHIVE_TOO_LARGE
    with pytest.raises(SealingError) as caught:
        archive.pack(root, archive.Limits(size_bytes=2000))
    assert caught.value.reason == SealingReason.ARCHIVE_TOO_LARGE


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("link", lambda root: (root / "l").symlink_to("m"), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("dangling link", lambda root: (root / "l").symlink_to("/nowhere"), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("pipe", lambda root: os.mkfifo(root / "p"), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("control character", lambda root: (root / "a\nb").touch(), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("not UTF-8", lambda root: (Path(os.fsdecode(os.fsencode(root) + b"/\xff"))).touch(), SealingReason.ARCHIVE_ENTRY_REFUSED),
        ("long name", lambda root: (root / ("n" * 101)).touch(), SealingReason.ARCHIVE_ENTRY_REFUSED),
    ],
)
def test_what_may_not_be_sealed(tmp_path: Path, name: str, spoil: Callable[[Path], object], reason: SealingReason) -> None:
    root = repository(tmp_path / "one")
    archive.pack(root)
    spoil(root)
    with pytest.raises(SealingError) as caught:
        archive.pack(root)
    assert caught.value.reason == reason


def test_an_empty_or_missing_directory_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SealingError) as caught:
            archive.pack(path)
        assert caught.value.reason == SealingReason.SOURCE_UNUSABLE


def test_a_file_that_grows_is_refused(tmp_path: Path) -> None:
    root = repository(tmp_path / "one")
    pieces = archive.stream(root)
    next(pieces)
    (root / "m/1/model.py").write_bytes(b"x" * 1001)
    with pytest.raises(SealingError) as caught:
        list(pieces)
    assert caught.value.reason == SealingReason.SOURCE_UNUSABLE


def test_very_large_files_have_a_size_that_tar_reads() -> None:
    header = archive._header("big", 20 << 30, F)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 20 << 30
    assert archive._read_header(header) == ("big", 20 << 30, F)
