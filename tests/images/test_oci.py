"""Image layouts: the same inputs to the same bytes, and what the specification wants in them."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest

from e2e.images import code, oci
from e2e.images.debian import parse_targets
from e2e.images.oci import EPOCH, Layer, RunConfig, new_layer


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a program, a link, a nested file and a socket-like oddity."""
    source = tmp_path / "tree"
    (source / "b" / "deep").mkdir(parents=True)
    (source / "b" / "deep" / "file").write_text("text")
    (source / "a").write_text("program")
    (source / "a").chmod(0o4750)
    (source / "link").symlink_to("b/deep")
    os.mkfifo(source / "pipe")
    return source


def layer_of(tree: Path, tar: Path) -> Layer:
    with new_layer(tar) as layer:
        layer.tree(tree, "top")
    return Layer.of(tar)


def test_a_layer_does_not_depend_on_times_owners_or_order(tree: Path, tmp_path: Path) -> None:
    first = layer_of(tree, tmp_path / "1.tar")
    for path in tree.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (tree / "z").write_text("new")
    (tree / "z").unlink()
    assert layer_of(tree, tmp_path / "2.tar").digest == first.digest
    (tree / "a").write_text("Program")
    assert layer_of(tree, tmp_path / "3.tar").digest != first.digest


def test_a_layer_belongs_to_root_and_gives_no_privilege(tree: Path, tmp_path: Path) -> None:
    with tarfile.open(layer_of(tree, tmp_path / "1.tar").path) as archive:
        members = {member.name: member for member in archive}
    assert list(members) == ["top", "top/a", "top/b", "top/b/deep", "top/b/deep/file", "top/link"]
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, EPOCH)}
    assert members["top/a"].mode == 0o755
    assert members["top/b/deep/file"].mode == 0o644
    assert members["top/link"].linkname == "b/deep"


def test_a_layout_names_every_blob_by_its_hash(tree: Path, tmp_path: Path) -> None:
    layers = [layer_of(tree, tmp_path / "1.tar")]
    config = RunConfig(command=["/top/a"], user="1:1", environment={"A": "b"})
    folders = [tmp_path / "one", tmp_path / "two"]
    digests = {oci.write_layout(folder, layers, config) for folder in folders}
    assert len(digests) == 1
    folder = folders[0]
    assert oci.read_digest(folder) in digests
    blobs = list((folder / "blobs" / "sha256").iterdir())
    assert len(blobs) == 3
    for blob in blobs:
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    made = json.loads((folder / "blobs/sha256" / oci.config_digest(folder).removeprefix("sha256:")).read_bytes())
    assert made["config"]["User"] == "1:1"
    assert made["rootfs"]["diff_ids"] == [layers[0].digest]
    # a name in the index would become a tag, and hide the digest
    assert "annotations" not in json.loads((folder / "index.json").read_bytes())["manifests"][0]


def test_another_configuration_is_another_image(tree: Path, tmp_path: Path) -> None:
    layers = [layer_of(tree, tmp_path / "1.tar")]
    assert oci.write_layout(tmp_path / "a", layers, RunConfig()) != oci.write_layout(tmp_path / "b", layers, RunConfig(user="1"))


def test_code_is_compiled_for_its_place_and_leaves_out_what_it_should(tmp_path: Path) -> None:
    source = tmp_path / "package"
    for name in ("__init__.py", "kept/__init__.py", "left/__init__.py", "__pycache__/x.pyc"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("x = 1\n")
    (tmp_path / "work").mkdir()
    code.write_layer(tmp_path / "1.tar", [code.Package(source, "/opt/x", ("left",))], {"bin/run": "#!"}, tmp_path / "work")
    with tarfile.open(tmp_path / "1.tar") as archive:
        found = set(archive.getnames())
    inside = "opt/x/lib/python3.11/site-packages/package"
    assert {f"{inside}/__init__.py", f"{inside}/__pycache__/__init__.cpython-311.pyc", f"{inside}/kept/__init__.py", "bin/run"} <= found
    assert not any("left" in name or name.endswith("x.pyc") for name in found)


@pytest.mark.parametrize(
    ("listing", "sources"),
    [
        ("Debian|http://mirror/debian/|bookworm|main|Packages", 1),
        ("Debian|http://mirror/debian/|bookworm|main|Packages\nDebian|http://mirror/debian/|bookworm|main|Packages", 1),
        ("Debian|http://mirror/debian/|bookworm|main|Translation-en", 0),
        ("Vendor|http://vendor/|bookworm|main|Packages", 0),
        ("|http://mirror/debian/|bookworm|main|Packages", 0),
        ("nonsense", 0),
        ("", 0),
    ],
)
def test_only_debian_sources_of_this_machine_are_taken(listing: str, sources: int) -> None:
    found = parse_targets(listing)
    assert len(found) == sources
    assert all(line.startswith("deb ") and line.endswith("http://mirror/debian/ bookworm main") for line in found)
