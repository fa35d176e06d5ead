"""Reading an OCI image layout (image specification 1.1): the digest of the one image in it, and its layers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from chrysalis.cli.owner_files import OwnerFileError, OwnerFileReason

MAX_MANIFEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class LayoutImage:
    """An image by the digest of its manifest, and its layers' digests in order."""

    digest: str
    layers: list[str]


def image_of(folder: Path) -> LayoutImage:
    """The image of a layout; raises OwnerFileError unless there is exactly one, whose manifest has the digest that the index names."""
    try:
        index = json.loads(_read(folder / "index.json"))
        (described,) = index["manifests"]
        digest = described["digest"]
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or len(value) != 64 or not value.isalnum():
            raise ValueError(f"the manifest's digest is {digest[:80]!r}")
        raw = _read(folder / "blobs" / "sha256" / value)
        if hashlib.sha256(raw).hexdigest() != value:
            raise ValueError(f"the manifest is not the one that {digest} names")
        return LayoutImage(digest, [str(layer["digest"]) for layer in json.loads(raw)["layers"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OwnerFileError(
            OwnerFileReason.DOCUMENT_INVALID,
            f"{folder} is no OCI image layout with one image",
            "give the folder that `python -m e2e.images` prints",
            str(error)[:1024],
        ) from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"{path.name} is over {MAX_MANIFEST_BYTES} bytes")
    return data
