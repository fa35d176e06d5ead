"""`pip install .`: what it asks for, what it brings, and that its programs run outside of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from e2e.simtd import eventlog as boot

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "operator", "requirements")
PIP = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it, without what it depends on: that is the environment's."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "sources").mkdir()
    for name in SOURCES:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / "sources" / name)
    done = subprocess.run(
        [sys.executable, *PIP, "--target", folder / "site", folder / "sources"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_it_asks_for_what_it_runs_on(installed: Path) -> None:
    (metadata,) = installed.glob("chrysalis-*.dist-info")
    asked = {re.split(r"[^a-z0-9-]", name, maxsplit=1)[0] for name in PathDistribution(metadata).requires or []}
    listed = (ROOT / "requirements" / "chrysalis.in").read_text().splitlines()
    assert asked == {re.split(r"[^a-z0-9-]", line, maxsplit=1)[0] for line in listed if line and not line.startswith("#")}


def test_it_brings_every_file_of_the_package(installed: Path) -> None:
    def files(top: Path) -> set[str]:
        return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    assert files(installed / "chrysalis") == files(ROOT / "operator" / "chrysalis")


@pytest.mark.parametrize("program", ["chrysalis", "kubectl-chrysalis"])
def test_its_programs_run_elsewhere(installed: Path, tmp_path: Path, program: str) -> None:
    (tmp_path / "log").write_bytes(boot.EVENT_LOG)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [installed / "bin" / program, "eventlog", "replay", "log"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert boot.RTMR0.hex() in done.stdout
