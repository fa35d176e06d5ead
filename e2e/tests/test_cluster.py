"""The ground that everything else stands on: nodes, network, DNS, gates, images by digest, volumes, and a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import cache, images
from e2e.cluster import Cluster, ClusterError, Reason, cgroups, teardown
from e2e.cluster.build import KUBERNETES_VERSION
from e2e.cluster.layout import instance_for
from e2e.cluster.manifests import RUNTIME_CLASS, STORAGE_CLASS

pytestmark = pytest.mark.cluster
SERVE = ["python3", "-m", "http.server", "8080", "--directory", "/etc"]
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).status)"
RESOLVE = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
GATE = "chrysalis.dev/attestation"
LEAK = instance_for("leak")


def pod(name: str, image: str, command: list[str], **spec: Any) -> dict[str, Any]:
    """A pod as the restricted pod security standard wants it."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": command,
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
    }
    safe = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, "fsGroup": 65532}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "securityContext": safe, "terminationGracePeriodSeconds": 1, "enableServiceLinks": False}
        | spec,
    }


def start(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    """Create objects in the test's namespace."""
    for each in objects:
        cluster.kubectl("create", "--namespace", namespace, "-f", "-", input=json.dumps(each))


def ready(cluster: Cluster, namespace: str, *names: str) -> None:
    """Wait until the pods are ready."""
    cluster.kubectl("wait", "--namespace", namespace, "--for=condition=Ready", "--timeout=110s", *(f"pod/{name}" for name in names))


def inside(cluster: Cluster, namespace: str, name: str, program: str, argument: str) -> str:
    """What a Python program prints inside a pod."""
    return cluster.kubectl("exec", "--namespace", namespace, name, "--", "python3", "-c", program, argument).strip()


def test_both_nodes_run_this_kubernetes(cluster: Cluster) -> None:
    nodes = cluster.get("nodes")["items"]
    assert {node["metadata"]["name"] for node in nodes} == set(cluster.node_names)
    assert {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes} == {KUBERNETES_VERSION}
    assert cluster.status().state == "up"


def test_up_again_changes_nothing(cluster: Cluster) -> None:
    before = cluster.status()
    assert cluster.up() == before


def test_the_runtime_class_of_simulated_domains_exists(cluster: Cluster) -> None:
    assert cluster.get("runtimeclass", RUNTIME_CLASS)["handler"] == "simtd"


@pytest.fixture
def pair(cluster: Cluster, namespace: str, image: Callable[[str], str]) -> tuple[str, str]:
    """A web server on each node behind one service called `web`; gives the pods' names."""
    reference = image("chrysalis")
    for index, node in enumerate(cluster.node_names, 1):
        # a node selector, not nodeName: the scheduler is part of what is tested
        served = pod(f"web{index}", reference, SERVE, nodeSelector={"kubernetes.io/hostname": node})
        served["metadata"]["labels"] = {"app": "web"}
        start(cluster, namespace, served)
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    start(cluster, namespace, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": service})
    ready(cluster, namespace, "web1", "web2")
    return "web1", "web2"


def eventually(cluster: Cluster, namespace: str, name: str, program: str, argument: str, said: str) -> None:
    """Wait until a Python program inside a pod prints this: servers start, and rules and names come to each node, in their own time."""

    def says() -> bool:
        try:
            return inside(cluster, namespace, name, program, argument) == said
        except ClusterError:
            return False

    cluster.wait(f"{argument} to give {said} in {name}", says)


def test_pods_services_and_host_reach_each_other(cluster: Cluster, namespace: str, pair: tuple[str, str]) -> None:
    service = cluster.get("service", "web", "--namespace", namespace)["spec"]["clusterIP"]
    addresses = [cluster.get("pod", name, "--namespace", namespace)["status"]["podIP"] for name in pair]
    eventually(cluster, namespace, pair[0], RESOLVE, f"web.{namespace}", service)
    cluster.wait("the service's endpoints", lambda: _answers(f"http://{service}/"))
    for name in pair:
        for address in addresses:
            eventually(cluster, namespace, name, FETCH, f"http://{address}:8080/", "200")
        eventually(cluster, namespace, name, FETCH, f"http://web.{namespace}.svc.cluster.local/", "200")
        for _ in range(4):  # the service picks a pod at random: its own node's, its own, the other node's
            assert inside(cluster, namespace, name, FETCH, f"http://web.{namespace}.svc.cluster.local/") == "200"
    for address in addresses:
        assert _answers(f"http://{address}:8080/")


def test_a_pod_reaches_a_program_on_this_machine(cluster: Cluster, namespace: str, image: Callable[[str], str]) -> None:
    program = ["python3", "-m", "http.server", "18099", "--bind", cluster.host_ip, "--directory", "/var/empty"]
    process = cluster.start("test-host-server", program, environment={"PATH": os.environ["PATH"]})
    try:
        start(cluster, namespace, pod("asks", image("chrysalis"), SERVE))
        ready(cluster, namespace, "asks")
        reached = "import socket, sys; socket.create_connection((sys.argv[1], 18099), 5); print('reached')"
        eventually(cluster, namespace, "asks", reached, cluster.host_ip, "reached")
    finally:
        os.kill(process.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_gated_pod_waits_and_runs_when_its_gate_is_removed(cluster: Cluster, namespace: str, image: Callable[[str], str]) -> None:
    start(cluster, namespace, pod("gated", image("chrysalis"), SERVE, schedulingGates=[{"name": GATE}]))
    found = cluster.get("pod", "gated", "--namespace", namespace)
    cluster.wait("the gate to be reported", lambda: _scheduled(cluster, namespace) == ("False", "SchedulingGated"))
    assert "nodeName" not in found["spec"]
    cluster.kubectl("patch", "pod", "gated", "--namespace", namespace, "--patch", '{"spec":{"schedulingGates":null}}')
    ready(cluster, namespace, "gated")


def _scheduled(cluster: Cluster, namespace: str) -> tuple[str, str]:
    conditions = cluster.get("pod", "gated", "--namespace", namespace)["status"].get("conditions", [])
    return next(((each["status"], each.get("reason", "")) for each in conditions if each["type"] == "PodScheduled"), ("", ""))


def test_an_image_runs_by_digest_and_a_digest_that_is_not_there_does_not(
    cluster: Cluster, namespace: str, image: Callable[[str], str]
) -> None:
    reference = image("chrysalis")
    name, _, digest = reference.partition("@sha256:")
    other = f"{name}@sha256:{digest[::-1]}"
    start(cluster, namespace, pod("there", reference, SERVE), pod("absent", other, SERVE))
    ready(cluster, namespace, "there")
    status = cluster.get("pod", "there", "--namespace", namespace)["status"]["containerStatuses"][0]
    assert status["imageID"].endswith(reference)
    cluster.wait("the missing image to be reported", lambda: _waiting(cluster, namespace, "absent") == "ErrImageNeverPull")


def _waiting(cluster: Cluster, namespace: str, name: str) -> str:
    statuses = cluster.get("pod", name, "--namespace", namespace)["status"].get("containerStatuses", [])
    return str(statuses[0]["state"].get("waiting", {}).get("reason", "")) if statuses else ""


def test_a_claim_gets_a_local_volume_and_the_volume_is_empty_again(cluster: Cluster, namespace: str, image: Callable[[str], str]) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Mi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": spec}
    user = pod("user", image("chrysalis"), SERVE, volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}])
    user["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    start(cluster, namespace, claim, user)
    ready(cluster, namespace, "user")
    written = "import pathlib, sys; pathlib.Path('/data/x').write_text(sys.argv[1]); print('written')"
    assert inside(cluster, namespace, "user", written, "kept") == "written"
    bound = cluster.get("pvc", "data", "--namespace", namespace)["spec"]
    assert bound["storageClassName"] == STORAGE_CLASS
    volume = str(bound["volumeName"])
    folder = Path(cluster.get("pv", volume)["spec"]["local"]["path"])
    assert (folder / "x").read_text() == "kept"
    cluster.kubectl("delete", "pod/user", "pvc/data", "--namespace", namespace)
    cluster.wait("the volume to be released", lambda: cluster.get("pv", volume)["status"]["phase"] == "Released")
    cluster.refresh_volumes()
    cluster.wait("the volume to be free", lambda: cluster.get("pv", volume)["status"].get("phase") == "Available")
    assert list(folder.iterdir()) == []


def _traces() -> dict[str, set[str]]:
    """What on this machine names the instance LEAK, by kind."""

    def named(folder: str, told_by: Callable[[Path], str]) -> set[str]:
        place = Path(folder)
        return {path.name for path in place.iterdir() if LEAK in told_by(path)} if place.is_dir() else set()

    points = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    groups = {str(group) for tree in cgroups.hierarchies() for group in tree.iterdir() if group.is_dir()}
    return {
        "interfaces": named("/sys/class/net", lambda path: path.name),
        "network namespaces": named("/run/netns", lambda path: path.name),
        # other instances' pods come and go meanwhile
        "results of CNI": named("/var/lib/cni/results", lambda path: teardown.read(path).decode(errors="replace")),
        "links to logs": named("/var/log/containers", teardown.target),
        "mounts": {point for point in points if LEAK in point},
        "control groups": {group for group in groups if LEAK in group},
        "processes": {pid for pid, words in _processes() if f"/run/{LEAK}/" in words},
        "routes": {line for line in subprocess.run(["ip", "route"], capture_output=True, text=True).stdout.splitlines() if LEAK in line},
        "state": named(str(cache.root() / "run"), lambda path: "" if path.suffix == ".logs" else path.name),
    }


def _processes() -> Iterator[tuple[str, str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                yield folder.name, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue


def test_down_leaves_nothing_and_up_mends_a_half_dead_instance() -> None:
    """An instance of its own, so that its end can be watched: with a container, a volume and a program while it ends."""
    other = Cluster(LEAK, nodes=("n1",))
    other.down()
    nothing: dict[str, set[str]] = {kind: set() for kind in _traces()}
    assert _traces() == nothing
    try:
        other.up()
        _run_something(other)
        there = _traces()
        assert [kind for kind, names in there.items() if not names] == []
        sockets = teardown.shim_sockets(other.layout)
        assert sockets
        assert all(path.exists() for path in sockets)

        _kill_kubelet()
        other.wait("the loss of the kubelet to be seen", lambda: other.status().state == "broken")
        assert other.up().state == "up"
        assert other.get("pods", "--namespace", "default")["items"] == []
        _run_something(other)
    finally:
        other.down()
    assert _traces() == nothing
    assert not any(path.exists() for path in sockets)
    assert other.status().state == "down"
    with pytest.raises(ClusterError) as refused:
        other.kubectl("get", "nodes")
    assert refused.value.reason == Reason.CLUSTER_NOT_UP


def _run_something(other: Cluster) -> None:
    """A pod with a memory volume, and a program beside the cluster."""
    memory = [{"name": "memory", "emptyDir": {"medium": "Memory"}}]
    held = pod("held", images.build("pause").reference, ["/pause"], volumes=memory)
    held["spec"]["containers"][0]["volumeMounts"] = [{"name": "memory", "mountPath": "/memory"}]
    other.wait("the service account", lambda: "default" in other.kubectl("get", "serviceaccounts"))
    start(other, "default", held)
    ready(other, "default", "held")
    other.start("sleeper", ["sleep", "1000"])


def _kill_kubelet() -> None:
    found = [int(pid) for pid, words in _processes() if f"/run/{LEAK}/" in words and "/kubelet " in words]
    assert len(found) == 1
    os.kill(found[0], signal.SIGKILL)


@pytest.mark.parametrize("name", ["", "UPPER", "1digit", "much-too-long", "dash-ed", "ninechars"])
def test_a_name_that_cannot_work_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRYSALIS_INSTANCE", name or "bad/name")
    with pytest.raises(ClusterError) as refused:
        Cluster()
    assert refused.value.reason == Reason.INSTANCE_NAME_INVALID
