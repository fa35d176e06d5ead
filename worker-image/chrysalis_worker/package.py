"""Fetch the sealed model package, check it, open it into the memory that Triton reads."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
from pathlib import Path

import httpx

from chrysalis.api.worker import ModelPackage, ModelSpec
from chrysalis.sealing import hpke
from chrysalis.sealing.package import open_package
from chrysalis.wire.broker import WrappedKey
from chrysalis_worker.keys import DomainKeys
from chrysalis_worker.reasons import WorkerError, WorkerReason

MAX_REDIRECTS = 3
TIMEOUT_SECONDS = 30.0
"""For each read; a large package may take long as a whole."""
OPENED = ".opened"


async def fetch(package: ModelPackage, path: Path) -> None:
    """Download to `path`: exactly as many bytes as measured, and exactly those that were measured.

    The server is not trusted and need not be: the digest is in the initdata.  Raises WorkerError; then `path` is not there.
    """
    try:
        digest, size = await _download(package, path)
        _check(package, digest, size)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        _remove(path)
        raise WorkerError(
            WorkerReason.PACKAGE_UNREACHABLE,
            "the model package cannot be downloaded",
            "check spec.model.package.url from inside the cluster, and the network policy",
            f"{package.url}: {type(error).__name__}: {error}",
        ) from error
    except WorkerError:
        _remove(path)
        raise


def _check(package: ModelPackage, digest: str, size: int) -> None:
    if size != package.size_bytes:
        raise WorkerError(
            WorkerReason.PACKAGE_SIZE_MISMATCH,
            "the model package has another size than spec.model.package.sizeBytes",
            "compare with what `chrysalis seal` printed; upload the package again if it is truncated",
            f"{min(size, package.size_bytes + 1)} bytes read, {package.size_bytes} expected",
        )
    if digest != package.digest:
        raise WorkerError(
            WorkerReason.PACKAGE_DIGEST_MISMATCH,
            "the model package is not the one that spec.model.package.digest names",
            "compare with what `chrysalis seal` printed; each sealing gives another digest",
            f"found {digest}",
        )


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _download(package: ModelPackage, path: Path) -> tuple[str, int]:
    sha = hashlib.sha256()
    size = 0
    async with (
        httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=True, max_redirects=MAX_REDIRECTS, trust_env=False) as http,
        http.stream("GET", package.url, headers={"accept-encoding": "identity"}) as response,
    ):
        response.raise_for_status()
        with path.open("wb") as file:
            async for chunk in response.aiter_raw(1 << 20):
                size += len(chunk)
                if size > package.size_bytes:
                    break
                sha.update(chunk)
                file.write(chunk)
    return f"sha256:{sha.hexdigest()}", size


def identity(wrapped: WrappedKey, model: ModelSpec, domain: DomainKeys) -> str:
    """The age identity of the package, out of what the broker released; raises SealingError for anything else."""
    info = hpke.model_key_info(model.key_id, model.digest, wrapped.result_id)
    return hpke.unwrap(domain.hpke, base64.b64decode(wrapped.wrapped), info).decode("ascii", "replace")


async def open_model(path: Path, identity: str, model: ModelSpec, repository: Path) -> list[str]:
    """Decrypt into `repository`, which is emptied first; returns the names of the models in it.

    The volume's own root cannot be replaced, so the opened folder's children are moved into it one by one; they are on one
    file system, and Triton starts only afterwards.  Raises SealingError or WorkerError; then the repository is empty.
    """
    return await asyncio.to_thread(_open, path, identity, model, repository)


def _open(path: Path, identity: str, model: ModelSpec, repository: Path) -> list[str]:
    empty(repository)
    opened = repository / OPENED
    open_package(path, identity, model.digest, opened)
    names = sorted(child.name for child in opened.iterdir() if child.is_dir())
    if model.name not in names:
        empty(repository)
        raise WorkerError(
            WorkerReason.MODEL_MISSING,
            f"the package holds no model named {model.name!r}",
            "name the folder in the repository as spec.model.name does, and seal it again",
            ", ".join(names)[:256],
        )
    for child in list(opened.iterdir()):
        child.rename(repository / child.name)
    opened.rmdir()
    return names


def empty(folder: Path) -> None:
    """Remove everything in a folder, but not the folder (it is a mount point)."""
    for child in list(folder.iterdir()):
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
