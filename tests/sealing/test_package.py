"""Sealed packages: all or nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyrage
import pytest

from chrysalis.sealing import archive, package
from chrysalis.sealing.reasons import SealingError, SealingReason


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "config.pbtxt").write_text("name: 'm'")
    (root / "m" / "1" / "weights").write_bytes(bytes(range(256)) * 1000)  # several age chunks of 64 KiB
    return root


def test_the_way_there_and_back(tmp_path: Path, repository: Path) -> None:
    sealed = package.seal(repository, tmp_path / "m.age")
    data = (tmp_path / "m.age").read_bytes()
    assert sealed.package_digest == "sha256:" + hashlib.sha256(data).hexdigest() == package.digest(tmp_path / "m.age")
    assert sealed.size_bytes == len(data)
    assert sealed.model_digest == archive.digest(repository)
    assert sealed.identity not in repr(sealed)
    package.open_package(tmp_path / "m.age", sealed.identity + "\n", sealed.model_digest, tmp_path / "out")
    assert archive.digest(tmp_path / "out") == sealed.model_digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.age", "out", "repository"]


def test_sealing_twice_gives_other_packages_of_the_same_model(tmp_path: Path, repository: Path) -> None:
    one, two = (package.seal(repository, tmp_path / name) for name in ("1.age", "2.age"))
    assert one.model_digest == two.model_digest
    assert one.package_digest != two.package_digest
    assert one.identity != two.identity


def test_inspect_needs_no_key(tmp_path: Path, repository: Path) -> None:
    sealed = package.seal(repository, tmp_path / "m.age")
    seen = package.inspect(tmp_path / "m.age")
    assert (seen.package_digest, seen.size_bytes, seen.recipients) == (sealed.package_digest, sealed.size_bytes, ["X25519"])


@pytest.mark.parametrize("place", [".", "missing"])
def test_what_cannot_be_read_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(SealingError) as caught:
        package.inspect(tmp_path / place)
    assert caught.value.reason == SealingReason.SOURCE_UNUSABLE
    assert str(tmp_path / place) in caught.value.message


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def another_letter(data: bytes, position: int) -> bytes:
    """Base64 stays base64, of another value."""
    return data[:position] + (b"B" if data[position : position + 1] == b"A" else b"A") + data[position + 1 :]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("flipped early", SealingReason.PACKAGE_DAMAGED),
        ("flipped late", SealingReason.PACKAGE_DAMAGED),
        ("truncated", SealingReason.PACKAGE_DAMAGED),
        ("truncated at a chunk", SealingReason.PACKAGE_DAMAGED),
        ("longer", SealingReason.PACKAGE_DAMAGED),
        ("header only", SealingReason.PACKAGE_DAMAGED),
        ("half a header", SealingReason.PACKAGE_MALFORMED),
        ("empty", SealingReason.PACKAGE_MALFORMED),
        ("junk", SealingReason.PACKAGE_MALFORMED),
        ("wrong key", SealingReason.PACKAGE_KEY_WRONG),
        ("flipped stanza", SealingReason.PACKAGE_KEY_WRONG),
        ("no key", SealingReason.IDENTITY_MALFORMED),
        ("other digest", SealingReason.MODEL_DIGEST_MISMATCH),
        ("missing file", SealingReason.SOURCE_UNUSABLE),
        ("not an archive", SealingReason.ARCHIVE_MALFORMED),
        ("too large", SealingReason.ARCHIVE_TOO_LARGE),
        ("destination in use", SealingReason.DESTINATION_UNUSABLE),
        ("destination without parent", SealingReason.DESTINATION_UNUSABLE),
    ],
)
def test_refusals_leave_nothing(tmp_path: Path, repository: Path, name: str, reason: SealingReason) -> None:
    path, room = tmp_path / "m.age", tmp_path / "room"
    sealed = package.seal(repository, path)
    room.mkdir()
    data = path.read_bytes()
    body = data.index(b"\n---") + 60
    bad = {
        "flipped early": flip(data, body + 40),
        "flipped late": flip(data, len(data) - 30),
        "flipped stanza": another_letter(data, data.index(b"-> X25519 ") + 12),
        "truncated": data[:-7],
        "truncated at a chunk": data[: body + 16 + 2 * (65536 + 16)],
        "longer": data + b"x",
        "header only": data[: body - 9],
        "half a header": data[:60],
        "empty": b"",
        "junk": b"junk" * 1000,
        "not an archive": pyrage.encrypt(b"junk" * 1000, [pyrage.x25519.Identity.from_str(sealed.identity).to_public()]),
    }.get(name, data)
    path.write_bytes(bad)
    identity = {"wrong key": str(pyrage.x25519.Identity.generate()), "no key": "AGE-SECRET-KEY-1"}.get(name, sealed.identity)
    digest = "sha256:" + "0" * 64 if name == "other digest" else sealed.model_digest
    out = room / "deep" / "out" if name == "destination without parent" else room / "out"
    if name == "destination in use":
        out.mkdir()
        (out / "x").touch()
    if name == "missing file":
        path.unlink()
    before = sorted(room.rglob("*"))
    limits = archive.Limits(size_bytes=1000) if name == "too large" else archive.DEFAULT_LIMITS
    with pytest.raises(SealingError) as caught:
        package.open_package(path, identity, digest, out, limits)
    assert caught.value.reason == reason
    assert caught.value.remedy
    assert sealed.identity not in str(caught.value) + caught.value.detail
    assert sorted(room.rglob("*")) == before


def test_a_failed_sealing_leaves_nothing(tmp_path: Path, repository: Path) -> None:
    (repository / "link").symlink_to("m")
    with pytest.raises(SealingError) as caught:
        package.seal(repository, tmp_path / "m.age")
    assert caught.value.reason == SealingReason.ARCHIVE_ENTRY_REFUSED
    assert [p.name for p in tmp_path.iterdir()] == ["repository"]
    with pytest.raises(SealingError) as caught:
        package.seal(repository / "m", tmp_path / "missing" / "m.age")
    assert caught.value.reason == SealingReason.DESTINATION_UNUSABLE
