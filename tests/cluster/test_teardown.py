"""What is left of an instance, looked for while others, and the instance's own programs, still remove things."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from e2e.cluster import teardown
from e2e.cluster.layout import Layout


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An instance that has files and nothing else, on a machine whose shared folders are the test's own."""
    for name in ("results", "containers"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(teardown, "_CNI_RESULTS", tmp_path / "results")
    monkeypatch.setattr(teardown, "_CONTAINER_LOGS", tmp_path / "containers")
    monkeypatch.setattr(teardown.cgroups, "members", lambda group: set())
    monkeypatch.setattr(teardown.cgroups, "hierarchies", list)
    monkeypatch.setattr(teardown.network, "leftovers", lambda layout: [])
    return Layout("left", 7, tmp_path / "run" / "left")


def _task(layout: Layout, address: str) -> Path:
    file = layout.folder / "n1/state/io.containerd.runtime.v2.task/k8s.io/0123/address"
    file.parent.mkdir(parents=True)
    file.write_text(address)
    return file


def test_a_shim_whose_socket_is_there_is_left(layout: Layout, tmp_path: Path) -> None:
    place = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as shim:
        shim.bind(str(place))
        _task(layout, f"unix://{place}\n")
        assert f"file {place}" in teardown.leftovers(layout, [])


@pytest.mark.parametrize("address", ["unix:///nowhere/at/all", "", "\n"])
def test_a_shim_without_a_socket_is_gone(layout: Layout, address: str) -> None:
    _task(layout, address)
    assert teardown.leftovers(layout, []) == [f"folder {layout.folder}"]


def test_a_task_that_goes_while_it_is_looked_at_is_gone(layout: Layout) -> None:
    """The listing finds a name, and the reading finds nothing: as a link to nowhere does."""
    file = _task(layout, "")
    file.unlink()
    file.symlink_to("gone")
    assert teardown.leftovers(layout, []) == [f"folder {layout.folder}"]


def test_links_to_the_instances_logs_are_left_and_others_are_not(layout: Layout, tmp_path: Path) -> None:
    for name, target in {"own": f"{layout.folder}/log", "other": f"{layout.folder}er/log"}.items():
        (tmp_path / "containers" / f"{name}.log").symlink_to(target)
    (tmp_path / "containers" / "plain.log").write_text(f"{layout.folder}/log")
    assert teardown.leftovers(layout, []) == [f"file {tmp_path}/containers/own.log"]


def test_a_log_link_that_goes_while_it_is_looked_at_is_gone(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "containers" / "own.log"
    link.symlink_to(f"{layout.folder}/log")
    listed = [link]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: list(listed) if pattern == "*.log" else [])
    link.unlink()
    assert teardown.leftovers(layout, []) == []


def test_results_of_libcni_that_name_the_instance_are_left(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "results/own").write_text(f'{{"netns": "{layout.nodes[0].pod_namespaces}/cni-1"}}')
    (tmp_path / "results/other").write_text('{"netns": "/run/netns/cni-1"}')
    assert teardown.leftovers(layout, []) == [f"file {tmp_path}/results/own"]
