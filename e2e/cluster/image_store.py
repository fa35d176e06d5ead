"""Bringing a built image onto a node: only what the node does not have yet is sent, and the image is known by digest alone."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time
from pathlib import Path
from typing import IO

from chrysalis.clock import Clock
from e2e.cluster.commands import run
from e2e.cluster.layout import Node
from e2e.cluster.reasons import ClusterError, Reason
from e2e.images.oci import config_digest, read_digest

_KUBERNETES = "k8s.io"
"""The containerd namespace in which kubelet's containers live."""
_SEEN_WITHIN_SECONDS = 60


def load(node: Node, layout_folder: Path, repository: str, clock: Clock) -> str:
    """Import an OCI layout on a node as REPOSITORY@DIGEST, and wait until the node's CRI knows it; returns that reference."""
    reference = f"{repository}@{read_digest(layout_folder)}"
    if reference in _images(node):
        return reference
    present = set(_ctr(node, "content", "ls", "-q").split())
    _import(node, layout_folder, repository, present)
    wanted = config_digest(layout_folder)
    deadline = clock.monotonic() + _SEEN_WITHIN_SECONDS
    # the CRI plugin hears of a new image by an event, and then adds a second name: the digest of its configuration
    while not {reference, wanted} <= (names := _images(node)):
        if clock.monotonic() > deadline:
            raise ClusterError(
                Reason.IMAGE_IMPORT_FAILED,
                f"{node.name} does not list {reference} after its import",
                f"read the log of containerd-{node.name}",
                detail=" ".join(sorted(names)),
            )
        time.sleep(0.05)
    return reference


def _images(node: Node) -> set[str]:
    return set(_ctr(node, "images", "ls", "-q").split())


def _ctr(node: Node, *arguments: str) -> str:
    return run(["ctr", "--address", str(node.containerd_socket), "--namespace", _KUBERNETES, *arguments])


def _import(node: Node, layout_folder: Path, repository: str, present: set[str]) -> None:
    arguments = ["ctr", "--address", str(node.containerd_socket), "--namespace", _KUBERNETES]
    arguments += ["images", "import", "--base-name", repository, "--digests", "-"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(layout_folder, present, process.stdin)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it ended early; its own words, read below, say why
        said = process.stdout.read().decode(errors="replace")
    if process.returncode:
        raise ClusterError(
            Reason.IMAGE_IMPORT_FAILED,
            f"ctr images import of {layout_folder.name} on {node.name} ended with {process.returncode}",
            f"read the log of containerd-{node.name}",
            detail=said[-1500:],
        )


def _send(layout_folder: Path, present: set[str], stream: IO[bytes]) -> None:
    """Write the layout as a tar file, without the layers that the node's content store holds."""
    digest = read_digest(layout_folder)
    manifest = json.loads((layout_folder / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes())
    layers = {layer["digest"] for layer in manifest["layers"]}
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for path in sorted(layout_folder.rglob("*")):
            if path.is_file() and not (path.parent.name == "sha256" and f"sha256:{path.name}" in layers & present):
                archive.add(path, str(path.relative_to(layout_folder)), recursive=False)
