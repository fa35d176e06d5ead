"""Writing container images as OCI image layouts: the same inputs give the same bytes, and so the same digest.

Layers are plain tar files, not compressed: these images never leave the machine, and a layer that a node already has is not
sent again.  Follows the OCI image specification 1.1 (image-layout, manifest, config).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

EPOCH = 1_767_225_600
"""The one time stamp in every image (SOURCE_DATE_EPOCH): 2026-01-01T00:00:00Z."""
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Layer:
    """One layer: its tar file, and the digest and size of it."""

    path: Path
    digest: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Layer:
        """The layer that a tar file is."""
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(path, f"sha256:{digest}", path.stat().st_size)


@dataclass(frozen=True)
class Image:
    """A built image.  archive: the folder of its OCI layout.  reference: how a pod names it, by digest."""

    archive: Path
    repository: str
    digest: str

    @property
    def reference(self) -> str:
        return f"{self.repository}@{self.digest}"


@dataclass(frozen=True)
class RunConfig:
    """What a container of the image runs, unless the pod says otherwise."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    user: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str = "/"

    def as_dict(self) -> dict[str, Any]:
        return {
            "User": self.user,
            "Env": [f"{name}={value}" for name, value in self.environment.items()],
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.command),
            "WorkingDir": self.directory,
        }


class LayerWriter:
    """Writes one layer's tar file.  Everything belongs to root and carries the one time stamp; order is the caller's."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._folders: set[str] = set()

    def folder(self, name: str, mode: int = 0o755) -> None:
        """A folder, with those above it; a second time it is not written again."""
        name = name.strip("/")
        if not name or name in self._folders:
            return
        self.folder(os.path.dirname(name))
        self._folders.add(name)
        self._add(name, tarfile.DIRTYPE, mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """A file with these bytes."""
        self.folder(os.path.dirname(name))
        self._add(name, tarfile.REGTYPE, mode, io.BytesIO(data), len(data))

    def copy(self, source: Path, name: str, mode: int | None = None) -> None:
        """A file of this machine; executable if it is one here, unless a mode is given."""
        if mode is None:
            mode = 0o755 if source.stat().st_mode & 0o111 else 0o644
        self.folder(os.path.dirname(name))
        with source.open("rb") as stream:
            self._add(name, tarfile.REGTYPE, mode, stream, source.stat().st_size)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self.folder(os.path.dirname(name))
        self._add(name, tarfile.SYMTYPE, 0o777, target=target)

    def tree(self, source: Path, name: str) -> None:
        """A folder of this machine with all below it, in the order of the names; devices and sockets are left out."""
        if name:
            self.folder(name)
        for entry in sorted(source.iterdir()):
            inside = f"{name}/{entry.name}"
            if entry.is_symlink():
                self.link(inside, os.readlink(entry))
            elif entry.is_dir():
                self.tree(entry, inside)
            elif entry.is_file():
                self.copy(entry, inside)

    def _add(self, name: str, kind: bytes, mode: int, stream: IO[bytes] | None = None, size: int = 0, target: str = "") -> None:
        info = tarfile.TarInfo(name.strip("/"))
        info.type, info.mode, info.mtime, info.size, info.linkname = kind, mode, EPOCH, size, target
        self._archive.addfile(info, stream)


@contextmanager
def new_layer(path: Path) -> Iterator[LayerWriter]:
    """Open a tar file for one layer; read it back with `Layer.of` afterwards."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        yield LayerWriter(archive)


def write_layout(folder: Path, layers: Sequence[Layer], config: RunConfig) -> str:
    """Write an image layout into an empty folder; returns the manifest's digest.

    The manifest has no name in the index: containerd then names the image by digest alone, and no tag hides it.
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for layer in layers:
        _place(layer.path, blobs / layer.digest.removeprefix("sha256:"))
    image = {
        "created": "2026-01-01T00:00:00Z",
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": config.as_dict(),
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": _blob(blobs, _CONFIG_TYPE, image),
        "layers": [{"mediaType": _LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in layers],
    }
    described = _blob(blobs, _MANIFEST_TYPE, manifest)
    (folder / "index.json").write_bytes(_canonical({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": [described]}))
    (folder / "oci-layout").write_bytes(_canonical({"imageLayoutVersion": "1.0.0"}))
    return str(described["digest"])


def read_digest(folder: Path) -> str:
    """The manifest's digest of a layout that `write_layout` wrote."""
    index = json.loads((folder / "index.json").read_bytes())
    return str(index["manifests"][0]["digest"])


def config_digest(folder: Path) -> str:
    """The digest of the image's configuration, by which the container runtime also knows it."""
    manifest = json.loads((folder / "blobs" / "sha256" / read_digest(folder).removeprefix("sha256:")).read_bytes())
    return str(manifest["config"]["digest"])


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _blob(blobs: Path, media_type: str, value: object) -> dict[str, Any]:
    data = _canonical(value)
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _place(source: Path, target: Path) -> None:
    """Put a layer into the layout without copying it where the file system allows that."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError:
        shutil.copyfile(source, target)
