"""What is in each image.  Each is built once for its inputs and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from e2e import cache
from e2e.images.oci import EPOCH, Image, Layer, RunConfig, new_layer, read_digest, write_layout

REGISTRY = "chrysalis.local"
"""A name that no registry answers to: these images exist only where they were imported."""
Say = Callable[[str], None]
_WRITER = [Path(__file__), Path(__file__).with_name("oci.py")]


def build(name: str, say: Say = print) -> Image:
    """The image of this name; built if its inputs changed.  Raises KeyError for a name that is no recipe's."""
    return RECIPES[name](say)


def _single_program(name: str, say: Say, config: RunConfig) -> Image:
    """An image from scratch with one static program."""
    # imported here because the cluster, which this program is a part of, imports this module
    from e2e.cluster.build import programs

    program = programs(say) / name

    def make(folder: Path) -> None:
        tar = folder / "layer.tar"
        with new_layer(tar) as layer:
            layer.copy(program, name)
        write_layout(folder, [Layer.of(tar)], config)
        tar.unlink()

    key = cache.key(program.parent.name, name, repr(config), str(EPOCH), _WRITER)
    folder = cache.entry(f"images-{name}", key, make)
    return Image(folder, f"{REGISTRY}/{name}", read_digest(folder))


def _pause(say: Say) -> Image:
    return _single_program("pause", say, RunConfig(entrypoint=["/pause"], user="65532:65532"))


def _coredns(say: Say) -> Image:
    return _single_program("coredns", say, RunConfig(entrypoint=["/coredns"], user="65532:65532"))


RECIPES: dict[str, Callable[[Say], Image]] = {"pause": _pause, "coredns": _coredns}
"""Every image by name."""
