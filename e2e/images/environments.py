"""The Python environments of the images: locked wheels, put where they belong without a package installer inside.

An environment looks like a virtual environment of Debian's Python 3.11, made by hand: a link to the interpreter, pyvenv.cfg, and
site-packages filled by this machine's pip with the committed hashes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from e2e.images import bytecode
from e2e.images.oci import new_layer
from e2e.images.reasons import ImageError, Reason
from e2e.triton.install import Installation

SITE_PACKAGES = "lib/python3.11/site-packages"
_CONFIGURATION = b"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n"
_TRITON = "pytriton/tritonserver"
_TRITON_PROGRAMS = ("bin/tritonserver", "backends/python/libtriton_python.so", "python_backend_stubs/3.11/triton_python_backend_stub")
_TRITON_KEPT = ("bin", "backends", "python_backend_stubs/3.11")
_MODEL_PACKAGES = ("numpy", "numpy.libs", "onnxruntime", "tokenizers")
"""What models import.  The model itself is not here: it comes sealed, and is opened inside the trust domain."""
_UNUSED_IN_MODELS = [
    *(f"onnxruntime/{name}" for name in ("transformers", "quantization", "tools", "datasets", "backend")),
    *(f"numpy/{name}" for name in ("f2py", "core/include", "core/lib", "distutils", "doc")),
]


def write_locked_layer(tar: Path, lock: Path, place: str, work: Path, say: Callable[[str], None]) -> None:
    """Write a layer with the environment at `place` that a lock file describes.  Raises ImageError."""
    say(f"  installing the wheels of {lock.name}")
    packages = work / "site-packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    chosen = ["--only-binary=:all:", "--require-hashes", "--target", str(packages), "-r", str(lock)]
    done = subprocess.run([*pip, *chosen], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise ImageError(
            Reason.PACKAGES_FAILED,
            f"pip could not install {lock.name} for {place}",
            "if a download failed, run it again; if a hash differs, the lock or the index is wrong",
            detail=done.stderr[-2000:],
        )
    # pip's scripts name this machine's interpreter
    shutil.rmtree(packages / "bin", ignore_errors=True)
    _drop_tests(packages)
    _write(tar, packages, place)


def write_triton_layer(tar: Path, installed: Installation, place: str, work: Path, say: Callable[[str], None]) -> None:
    """Write a layer with Triton, its Python backend and what models import, out of an installation on this machine."""
    say("  taking what Triton needs out of its wheels")
    source, packages = installed.site_packages, work / "site-packages"
    for name in _MODEL_PACKAGES:
        shutil.copytree(source / name, packages / name, symlinks=True)
        for metadata in source.glob(f"{name}-*.dist-info"):
            shutil.copytree(metadata, packages / metadata.name)
    for kept in _TRITON_KEPT:
        shutil.copytree(source / _TRITON / kept, packages / _TRITON / kept, symlinks=True)
    libraries = source / "nvidia_pytriton.libs"
    (packages / libraries.name).mkdir()
    for library in _loaded([source / _TRITON / name for name in _TRITON_PROGRAMS], libraries):
        shutil.copy2(library, packages / libraries.name / library.name)
    for name in _UNUSED_IN_MODELS:
        shutil.rmtree(packages / name, ignore_errors=True)
    for library in (packages / "onnxruntime/capi").glob("libonnxruntime.so*"):
        library.unlink()  # for other languages; Python's module carries the runtime itself
    _drop_tests(packages)
    _write(tar, packages, place)


def _loaded(programs: list[Path], folder: Path) -> set[Path]:
    """The libraries of a folder that the loader takes for these programs, in any depth."""
    found: set[Path] = set()
    for program in programs:
        listing = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
        for word in listing.split():
            path = Path(word)
            if path.is_absolute() and path.parent.resolve() == folder.resolve():
                found.add(folder / path.name)
    return found


def _drop_tests(packages: Path) -> None:
    for folder in [path for path in packages.rglob("tests") if path.is_dir()]:
        shutil.rmtree(folder, ignore_errors=True)


def _write(tar: Path, packages: Path, place: str) -> None:
    for record in packages.rglob("*.dist-info/RECORD"):
        record.unlink()  # holds hashes of the scripts, which differ with the path of this machine's interpreter
    bytecode.compile_tree(packages, f"{place}/{SITE_PACKAGES}")
    with new_layer(tar) as layer:
        layer.link(f"{place}/bin/python3", "/usr/bin/python3.11")
        layer.link(f"{place}/bin/python", "python3")
        layer.file(f"{place}/pyvenv.cfg", _CONFIGURATION)
        layer.tree(packages, f"{place}/{SITE_PACKAGES}")
    shutil.rmtree(packages)
