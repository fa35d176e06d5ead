"""The project's own code as an image's last and smallest layer: a change of code rebuilds this one alone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cache import REPOSITORY
from e2e.images import bytecode
from e2e.images.environments import SITE_PACKAGES
from e2e.images.oci import new_layer

CHRYSALIS = REPOSITORY / "operator" / "chrysalis"
WORKER = REPOSITORY / "worker-image" / "chrysalis_worker"
NOT_IN_A_WORKER = ("cli", "controller", "broker", "settlement", "client")
"""Packages that the agent must not import; what is not in the trust domain need not be trusted."""


@dataclass(frozen=True)
class Package:
    """One package of the project in one environment of an image."""

    source: Path
    place: str
    without: Sequence[str] = ()

    def files(self) -> list[Path]:
        """The package's files, sorted; compiled ones and excluded sub-packages left out."""
        found = [path for path in sorted(self.source.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
        return [path for path in found if path.relative_to(self.source).parts[0] not in self.without]


def write_layer(tar: Path, packages: Sequence[Package], scripts: dict[str, str], work: Path) -> None:
    """Write the layer.  scripts: path in the image to the text of an executable file."""
    with new_layer(tar) as layer:
        for name, text in scripts.items():
            layer.file(name, text.encode(), 0o755)
        for number, package in enumerate(packages):
            copied = work / f"package{number}" / package.source.name
            for path in package.files():
                target = copied / path.relative_to(package.source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            inside = f"{package.place}/{SITE_PACKAGES}/{package.source.name}"
            bytecode.compile_tree(copied, f"/{inside.strip('/')}")
            layer.tree(copied, inside)
