"""Files that `chrysalis gpu …` names: what cannot be read is said with a reason of GPUs."""

from __future__ import annotations

from pathlib import Path

from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.cli import files


def read(path: Path, limit: int) -> bytes:
    """A file's bytes; raises GpuError (GpuFileUnreadable)."""
    return files.read(path, limit, _unreadable)


def root(path: Path) -> bytes:
    """A root's DER, from DER or PEM; raises GpuError (GpuFileUnreadable, GpuRootUnreadable)."""
    return files.root(path, _unreadable, lambda message, detail: GpuError(GpuReason.GPU_ROOT_UNREADABLE, message, detail))


def _unreadable(message: str) -> GpuError:
    return GpuError(GpuReason.GPU_FILE_UNREADABLE, message)
