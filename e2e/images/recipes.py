"""What is in each image.  Every layer, and every image, is built once for its inputs and kept in the cache."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from e2e import cache
from e2e.images import code, debian, environments
from e2e.images.code import Package
from e2e.images.oci import Image, Layer, RunConfig, new_layer, read_digest, write_layout
from e2e.triton import install as triton

REGISTRY = "chrysalis.local"
"""A name that no registry answers to: these images exist only where they were imported."""
OPERATOR_ENVIRONMENT = "/opt/cv"
TRITON_ENVIRONMENT = "/opt/tv"
_LOCKS = cache.REPOSITORY / "requirements"
_BUILDER = [path for path in Path(__file__).parent.glob("*.py") if path.name not in ("__init__.py", "__main__.py", Path(__file__).name)]
_COMMAND = "#!/opt/cv/bin/python3\nfrom chrysalis.cli.main import main\n\nmain()\n"
_ENVIRONMENT = {"PATH": "/opt/cv/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
_USER = f"{debian.USER}:{debian.USER}"

Say = Callable[[str], None]
"""Where a line of progress goes."""


def build(name: str, say: Say = print) -> Image:
    """The image of this name, built if its inputs changed.

    Raises KeyError for a name without a recipe, ImageError (or ClusterError, for the cluster's own programs) when it cannot be built.
    """
    return RECIPES[name](say)


def _layer(name: str, key: str, write: Callable[[Path, Path], None]) -> Layer:
    """A layer from the cache; `write(tar, work)` makes it if it is not there."""

    def make(folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        write(folder / "layer.tar", work)
        shutil.rmtree(work)

    return Layer.of(cache.entry(f"layer-{name}", key, make) / "layer.tar")


def _image(name: str, repository: str, layers: Sequence[Layer], config: RunConfig) -> Image:
    key = cache.key(*(layer.digest for layer in layers), repr(config), _BUILDER)
    folder = cache.entry(f"images-{name}", key, lambda made: _keep(write_layout(made, layers, config)))
    return Image(folder, f"{REGISTRY}/{repository}", read_digest(folder))


def _keep(_: str) -> None:
    """The digest can be read from the layout at any time."""


def _single_program(name: str, say: Say) -> Image:
    """An image from scratch with one static program of the cluster."""
    # imported here because the cluster, which this program is a part of, imports this module
    from e2e.cluster.build import programs

    program = programs(say) / name

    def write(tar: Path, _: Path) -> None:
        with new_layer(tar) as layer:
            layer.copy(program, name)

    made = _layer(name, cache.key(program.parent.name, _BUILDER), write)
    return _image(name, name, [made], RunConfig(entrypoint=[f"/{name}"], user=_USER))


def _system(packages: Sequence[str], say: Say) -> Layer:
    key = cache.key(" ".join(packages), platform.machine(), sys.version, _BUILDER)
    return _layer("debian", key, lambda tar, work: debian.write_layer(tar, packages, work, say))


def _locked(lock: Path, say: Say) -> Layer:
    key = cache.key(lock, OPERATOR_ENVIRONMENT, platform.machine(), sys.version, _BUILDER)
    return _layer(lock.stem, key, lambda tar, work: environments.write_locked_layer(tar, lock, OPERATOR_ENVIRONMENT, work, say))


def _code(name: str, packages: Sequence[Package], scripts: dict[str, str]) -> Layer:
    files = [path for package in packages for path in package.files()]
    key = cache.key(repr(packages), repr(scripts), files, sys.version, _BUILDER)
    return _layer(f"code-{name}", key, lambda tar, work: code.write_layer(tar, packages, scripts, work))


def _chrysalis(say: Say) -> Image:
    """Operator, settler, broker and command line: one image, several entry points."""
    layers = [
        _system(debian.PYTHON_PACKAGES, say),
        _locked(_LOCKS / "chrysalis.txt", say),
        _code("chrysalis", [Package(code.CHRYSALIS, OPERATOR_ENVIRONMENT)], {f"{OPERATOR_ENVIRONMENT}/bin/chrysalis": _COMMAND}),
    ]
    return _image("chrysalis", "chrysalis", layers, RunConfig(command=["chrysalis", "--help"], user=_USER, environment=_ENVIRONMENT))


def _worker(say: Say) -> Image:
    """Agent, gateway and supervisor beside the real Triton: two environments, two containers of a pod, one image."""

    def write_triton(tar: Path, work: Path) -> None:
        environments.write_triton_layer(tar, triton.prepare(), TRITON_ENVIRONMENT, work, say)

    packages = [
        Package(code.CHRYSALIS, OPERATOR_ENVIRONMENT, code.NOT_IN_A_WORKER),
        Package(code.WORKER, OPERATOR_ENVIRONMENT),
        Package(code.WORKER, TRITON_ENVIRONMENT),
    ]
    triton_key = cache.key(triton.LOCK, TRITON_ENVIRONMENT, platform.machine(), sys.version, _BUILDER)
    layers = [
        _system(debian.TRITON_PACKAGES, say),
        _layer("triton", triton_key, write_triton),
        _locked(_LOCKS / "worker.txt", say),
        _code("worker", packages, {}),
    ]
    agent = [f"{OPERATOR_ENVIRONMENT}/bin/python3", "-I", "-m", "chrysalis_worker.agent"]
    return _image("worker", "worker", layers, RunConfig(command=agent, user=_USER, environment=_ENVIRONMENT))


RECIPES: dict[str, Callable[[Say], Image]] = {
    "pause": lambda say: _single_program("pause", say),
    "coredns": lambda say: _single_program("coredns", say),
    "chrysalis": _chrysalis,
    "chrysalis-worker": _worker,
}
"""Every image by name."""
