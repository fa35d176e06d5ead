"""The Node packages that carry the TVM and the Tolk compiler: installed from the lock, once, into the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from e2e import cache as store
from e2e.devnet.reasons import DevnetError, DevnetReason

CONTRACTS = store.REPOSITORY / "contracts"
FILES = ("package.json", "package-lock.json", ".npmrc")
INSTALL_SECONDS = 600
COMPILE_SECONDS = 120


@cache
def node_modules() -> Path:
    """The folder of the locked packages; raises DevnetError when Node is missing or the registry refuses."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise DevnetError(DevnetReason.NODE_MISSING, "node or npm is not there", "install Node 20 or newer: apt-get install nodejs npm")
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    key = store.key(version.split(".")[0], [CONTRACTS / name for name in FILES])

    def install(folder: Path) -> None:
        for name in FILES:
            shutil.copy(CONTRACTS / name, folder / name)
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        if done.returncode:
            raise DevnetError(
                DevnetReason.PACKAGES_NOT_INSTALLED,
                "the Node packages of contracts/package-lock.json could not be installed",
                "look at npm's own words, and check that the registry that npm is set up for can be reached",
                (done.stderr or done.stdout)[-2000:],
            )

    return store.entry("node", key, install) / "node_modules"


def compile_contracts(sources: Sequence[str]) -> list[dict[str, str]]:
    """What contracts/build.js makes of these texts of settlement_root.tolk: members hash, code, compiler.

    Raises DevnetError with the compiler's words.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["node", str(CONTRACTS / "build.js"), "--print"]
        for number, source in enumerate(sources):
            file = Path(folder) / f"{number}.tolk"
            file.write_text(source)
            command.append(str(file))
        environment = os.environ | {"CHRYSALIS_NODE_MODULES": str(node_modules())}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=COMPILE_SECONDS)
    if done.returncode:
        raise DevnetError(DevnetReason.NOT_COMPILED, "the contract does not compile", "read the compiler's words", done.stderr[-2000:])
    built: list[dict[str, str]] = json.loads(done.stdout)
    return built
