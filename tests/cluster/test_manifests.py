"""The objects of a new instance and the configuration of its nodes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from e2e.cluster import manifests, node
from e2e.cluster.layout import Layout

DIGEST = "chrysalis.local/pause@sha256:" + "1" * 64


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout("demo", 0, tmp_path / "demo")


def test_every_object_has_a_name_of_its_own(layout: Layout) -> None:
    named = [(each["kind"], each["metadata"]["name"]) for each in manifests.base(layout, DIGEST)]
    assert len(named) == len(set(named))
    assert ("RuntimeClass", manifests.RUNTIME_CLASS) in named
    assert len([kind for kind, _ in named if kind == "PersistentVolume"]) == manifests.VOLUMES


def test_a_node_has_both_runtimes_and_keeps_everything_in_its_folder(layout: Layout) -> None:
    layout.folder.mkdir()
    node.write_launcher(layout)
    for place in layout.nodes:
        node.prepare(layout, place, DIGEST)
        config = tomllib.loads((place.folder / "containerd.toml").read_text())
        assert Path(config["root"]).is_relative_to(place.folder)
        assert Path(config["state"]).is_relative_to(place.folder)
        cri = config["plugins"]["io.containerd.grpc.v1.cri"]
        assert cri["sandbox_image"] == DIGEST
        runtimes = cri["containerd"]["runtimes"]
        assert runtimes["simtd"]["pod_annotations"] == runtimes["simtd"]["container_annotations"] == ["io.katacontainers.*"]
        assert Path(runtimes["simtd"]["options"]["BinaryName"]).stat().st_mode & 0o111
        assert "BinaryName" not in runtimes["runc"]["options"]


def test_two_nodes_share_no_control_group_and_no_address(layout: Layout) -> None:
    one, other = (node._kubelet(layout, place) for place in layout.nodes)
    for setting in ("cgroupRoot", "address", "podCIDR", "containerRuntimeEndpoint", "podLogsDir", "volumePluginDir"):
        assert one[setting] != other[setting]
