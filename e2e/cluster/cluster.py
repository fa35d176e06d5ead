"""One instance of the cluster: up, down, status, and what tests and the demo do with it while it runs."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chrysalis.clock import Clock, SystemClock
from e2e import cache
from e2e.cluster import cgroups, controlplane, image_store, manifests, network, node, pki, processes, record, teardown
from e2e.cluster.build import KUBERNETES_VERSION, programs
from e2e.cluster.commands import run
from e2e.cluster.layout import DEFAULT_INSTANCE, INSTANCE_VARIABLE, NODE_NAMES, Layout, Node, instance_folder
from e2e.cluster.processes import Process
from e2e.cluster.reasons import ClusterError, Reason
from e2e.images import Image
from e2e.images import build as build_image

READY_WITHIN_SECONDS = 180
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Status:
    """What runs.  state: `up`, `broken` (some of it), or `down`."""

    instance: str
    state: str
    processes: dict[str, bool] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    api: str = ""
    host_ip: str = ""
    kubeconfig: str = ""


class Cluster:
    """A two-node Kubernetes of this machine, named by its instance; the object holds no state, everything is on the machine.

    instance: one to eight lower-case letters and digits; by default $CHRYSALIS_INSTANCE, else `demo`.
    nodes: the names of the nodes to start, the control plane's first.  progress: where lines of progress go.
    """

    def __init__(
        self,
        instance: str | None = None,
        *,
        nodes: Sequence[str] = NODE_NAMES,
        progress: Callable[[str], None] = print,
        clock: Clock | None = None,
    ) -> None:
        self.instance = instance or os.environ.get(INSTANCE_VARIABLE) or DEFAULT_INSTANCE
        instance_folder(self.instance)  # refuses a bad name before anything is done
        self._node_names = tuple(nodes)
        self._say = progress
        self._clock = clock or SystemClock()

    # ---- where it is

    @property
    def layout(self) -> Layout:
        """Names, addresses and paths.  Raises ClusterError (ClusterNotUp) when the instance does not exist."""
        known = record.read(self.instance)
        if known is None:
            raise ClusterError(
                Reason.CLUSTER_NOT_UP,
                f"there is no cluster called {self.instance}",
                f"start it with `make cluster-up` ({INSTANCE_VARIABLE}={self.instance})",
            )
        return known.layout

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.layout.kubeconfig

    @property
    def api(self) -> str:
        """The API server's URL."""
        return self.layout.api

    @property
    def host_ip(self) -> str:
        """The address at which pods reach programs on this machine."""
        return str(self.layout.host_address)

    @property
    def node_names(self) -> tuple[str, ...]:
        """The nodes of the running instance."""
        return self.layout.node_names

    # ---- up and down

    def up(self) -> Status:
        """Start the instance; when it already runs whole, do nothing; when it is half dead, clear it first.

        Raises ClusterError with the step that failed and the log to read.
        """
        _need_root()
        built = programs(self._say)
        images = {name: build_image(name, self._say) for name in ("pause", "coredns")}
        with cache.locked(f"cluster-{self.instance}"):
            status = self.status()
            if status.state == "up":
                self._say(f"cluster {self.instance} is already up")
                return status
            self._clear()
            started = self._clock.monotonic()
            known = record.Record(
                self.instance, network.free_slot({other.slot for other in record.others(self.instance)}), self._node_names
            )
            known.save()
            _Start(known, built, images["pause"], images["coredns"], self._say, self._clock).run()
            known.complete = True
            known.save()
            self._say(f"cluster {self.instance} is up in {self._clock.monotonic() - started:.1f} s: {known.layout.api}")
            return self.status()

    def down(self) -> None:
        """End the instance and verify that nothing of it is left; raises ClusterError (Leftovers) with a list if something is."""
        _need_root()
        with cache.locked(f"cluster-{self.instance}"):
            self._clear()

    def own(self) -> None:
        """Note that this process ends the running instance: when it is killed before it has, the instance is `abandoned`."""
        with cache.locked(f"cluster-{self.instance}"):
            known = record.read(self.instance)
            if known is not None:
                known.owner = processes.this("owner")
                known.save()

    @property
    def abandoned(self) -> bool:
        """Whether the instance is what a killed process has left behind, in whatever state it was."""
        known = record.read(self.instance)
        return known is not None and known.owner is not None and not known.owner.alive()

    def _clear(self) -> None:
        known = record.read(self.instance)
        if known is None:
            return
        teardown.clear(known.layout)
        left = teardown.leftovers(known.layout, known.processes)
        if left:
            raise ClusterError(
                Reason.LEFTOVERS,
                f"cluster {self.instance} is not gone: {'; '.join(left[:20])}",
                "run `make cluster-down` once more; what is still named then has to be ended by hand",
            )
        known.remove()

    def status(self) -> Status:
        """What of the instance runs now."""
        known = record.read(self.instance)
        if known is None:
            return Status(self.instance, "down")
        layout = known.layout
        alive = {process.name: process.alive() for process in known.processes}
        nodes = self._node_conditions() if known.complete and all(alive.values()) else {}
        whole = set(nodes) == set(layout.node_names) and all(state == "Ready" for state in nodes.values())
        return Status(
            self.instance,
            "up" if whole else "broken",
            alive,
            nodes,
            layout.api,
            str(layout.host_address),
            str(layout.kubeconfig),
        )

    def _node_conditions(self) -> dict[str, str]:
        try:
            items = self.get("nodes")["items"]
        except ClusterError:
            return {}
        return {item["metadata"]["name"]: _readiness(item) for item in items}

    # ---- using it

    def kubectl(self, *arguments: str, input: str | None = None, timeout: float = 120) -> str:
        """Run kubectl as administrator and return what it printed.  Raises ClusterError (CommandFailed) with its own words."""
        layout = self.layout
        command = [str(programs(self._say) / "kubectl"), f"--kubeconfig={layout.kubeconfig}", f"--cache-dir={layout.folder / 'kubectl'}"]
        return run([*command, *arguments], text=input, timeout=timeout)

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get … -o json`, parsed."""
        answer: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return answer

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Server-side apply of objects."""
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=items)

    def helm(self, *arguments: str, timeout: float = 300) -> str:
        """Run helm as administrator; its own files stay in the instance's folder."""
        home = self.layout.folder / "helm"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HELM_")}
        environment |= {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        command = [str(programs(self._say) / "helm"), "--kubeconfig", str(self.kubeconfig), *arguments]
        return run(command, environment=environment, timeout=timeout)

    def import_image(self, archive: Path, name: str) -> str:
        """Bring a built image (the folder of its OCI layout) onto every node; returns `NAME@sha256:…` for pods to name it by.

        name: the repository; a digest that is already part of it is dropped, the image's own is appended.
        """
        nodes = self.layout.nodes
        repository = name.partition("@")[0]
        with ThreadPoolExecutor(len(nodes)) as pool:
            references = list(pool.map(lambda place: image_store.load(place, archive, repository, self._clock), nodes))
        return references[0]

    def start(
        self, name: str, arguments: Sequence[str], *, node: str | None = None, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program that belongs to the instance: it writes to the instance's logs and ends with it at the latest.

        node: in this node's network namespace; by default in the machine's own.
        """
        layout = self.layout
        place = next(each.namespace_path for each in layout.nodes if each.name == node) if node else None
        process = processes.start(
            name,
            arguments,
            group=cgroups.membership_file(layout.daemons_cgroup),
            log=layout.log(name),
            namespace=place,
            environment=environment,
        )
        return process

    def refresh_volumes(self) -> None:
        """Make local volumes whose claim is gone empty and free again."""
        layout = self.layout
        items = self.get("persistentvolumes")["items"]
        released = {item["metadata"]["name"] for item in items if item["status"].get("phase") in ("Released", "Failed")}
        if released:
            self.kubectl("delete", "persistentvolume", *sorted(released))
            _make_volumes(layout, released)
            self.apply(*(item for item in manifests.volumes(layout) if item["metadata"]["name"] in released))

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Ask until the condition holds; raises ClusterError (NotReadyInTime) naming what was waited for."""
        _wait(self._clock, what, condition, seconds, "see `kubectl get events -A` and the logs of the cluster")


class _Start:
    """The steps of starting an instance.  What can run at once does: nodes load images while the API server comes up."""

    def __init__(self, known: record.Record, built: Path, pause: Image, coredns: Image, say: Callable[[str], None], clock: Clock) -> None:
        self._record = known
        self._recording = threading.Lock()
        self._layout = known.layout
        self._programs = built
        self._pause = pause
        self._coredns = coredns
        self._say = say
        self._clock = clock
        self._cluster = Cluster(known.instance, nodes=known.nodes, progress=say, clock=clock)

    def run(self) -> None:
        """Everything, in order."""
        layout = self._layout
        self._prepare()
        with ThreadPoolExecutor(len(layout.nodes)) as pool:
            runtimes = [pool.submit(self._runtime, place) for place in layout.nodes]
            self._control_plane()
            for runtime in runtimes:
                runtime.result()
        self._say("  control plane and container runtimes answer")
        for place in layout.nodes:
            self._spawn(f"kubelet-{place.name}", node.kubelet(layout, place, self._programs), place)
        self._cluster.apply(*manifests.base(layout, self._coredns.reference))
        self._wait_for("nodes to register", lambda: len(self._cluster._node_conditions()) == len(layout.nodes), "kubelet-n1")
        for place in layout.nodes:
            self._spawn(f"kube-proxy-{place.name}", node.proxy(layout, place, self._programs), place)
        self._wait_for("nodes to be ready", self._nodes_ready, "kubelet-n1")
        self._say("  nodes are ready")
        self._wait_for("DNS to be ready", self._dns_ready, "kubelet-n1")

    def _prepare(self) -> None:
        layout = self._layout
        shutil.rmtree(layout.logs, ignore_errors=True)
        layout.logs.mkdir(parents=True)
        layout.folder.mkdir(mode=0o711)
        pki.write(layout, self._clock)
        network.create(layout)
        cgroups.create(layout.daemons_cgroup)
        node.write_launcher(layout)
        for place in layout.nodes:
            cgroups.create(place.cgroup)
            node.prepare(layout, place, self._pause.reference)
        _make_volumes(layout, {manifests.volume_name(number) for number in range(1, manifests.VOLUMES + 1)})

    def _control_plane(self) -> None:
        layout, programs = self._layout, self._programs
        place = layout.control_node
        self._spawn("etcd", controlplane.etcd(layout, programs), place)
        self._spawn("kube-apiserver", controlplane.api_server(layout, programs), place)
        # the controller-manager exits when RBAC is not there yet, and only a whole `ok` says that it is
        self._wait_for("the API server", self._api_ready, "kube-apiserver")
        self._spawn("kube-controller-manager", controlplane.controller_manager(layout, programs), place)
        self._spawn("kube-scheduler", controlplane.scheduler(layout, programs), place)

    def _runtime(self, place: Node) -> None:
        name = f"containerd-{place.name}"
        self._spawn(name, node.containerd(place), place)
        self._wait_for(f"{name}'s socket", place.containerd_socket.exists, name)
        for image in (self._pause, self._coredns):
            image_store.load(place, image.archive, image.repository, self._clock)

    def _spawn(self, name: str, arguments: Sequence[str], place: Node) -> None:
        process = processes.start(
            name,
            arguments,
            group=cgroups.membership_file(self._layout.daemons_cgroup),
            log=self._layout.log(name),
            namespace=place.namespace_path,
        )
        with self._recording:
            self._record.processes.append(process)
            self._record.save()

    def _wait_for(self, what: str, condition: Callable[[], bool], process: str) -> None:
        def holds() -> bool:
            for started in list(self._record.processes):
                if not started.alive():
                    raise processes.ended(started.name, self._layout.log(started.name))
            return condition()

        log = self._layout.log(process)
        _wait(self._clock, what, holds, READY_WITHIN_SECONDS, f"read {log}", lambda: processes.last_lines(log))

    def _api_ready(self) -> bool:
        try:
            return self._cluster.kubectl("get", "--raw", "/readyz", timeout=30).strip() == "ok"
        except ClusterError:
            return False

    def _nodes_ready(self) -> bool:
        return all(state == "Ready" for state in self._cluster._node_conditions().values())

    def _dns_ready(self) -> bool:
        return bool(self._cluster.get("deployment", "coredns", "-n", "kube-system")["status"].get("readyReplicas"))


def _readiness(item: Mapping[str, Any]) -> str:
    for condition in item["status"].get("conditions", []):
        if condition["type"] == "Ready":
            return "Ready" if condition["status"] == "True" else f"NotReady: {condition.get('message', '')}"
    return "NotReady: no condition yet"


def _make_volumes(layout: Layout, names: set[str]) -> None:
    """Empty folders for local volumes; the sticky bit as on /tmp, because a pod's user is not known here."""
    for name in names:
        folder = layout.folder / "volumes" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folder.chmod(0o1777)


def _wait(
    clock: Clock, what: str, condition: Callable[[], bool], seconds: float, remedy: str, detail: Callable[[], str] = lambda: ""
) -> None:
    deadline = clock.monotonic() + seconds
    while not condition():
        if clock.monotonic() > deadline:
            raise ClusterError(Reason.NOT_READY_IN_TIME, f"waited {seconds:.0f} s for {what}", remedy, detail())
        time.sleep(_POLL_SECONDS)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError(Reason.NOT_ROOT, "network namespaces and control groups need root", "run it as root, for instance with sudo")


def describe() -> str:
    """One line for the demo's summary."""
    return f"Kubernetes {KUBERNETES_VERSION} on {len(NODE_NAMES)} nodes"
