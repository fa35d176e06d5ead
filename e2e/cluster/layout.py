"""Names, addresses and paths of one instance of the cluster.  Pure: derives, and touches nothing.

An instance is one cluster on this machine; several can run side by side because everything with a name on the machine carries
the instance's, and because each gets a slot of the address plan of its own.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from e2e import cache
from e2e.cluster.reasons import ClusterError, Reason

DEFAULT_INSTANCE = "demo"
INSTANCE_VARIABLE = "CHRYSALIS_INSTANCE"
NODE_NAMES = ("n1", "n2")
CONTROL_NODE = "n1"
SLOTS = 32
"""How many instances the address plan holds."""
_INSTANCE = re.compile(r"[a-z][a-z0-9]{0,7}")
_LONGEST_FOLDER = 60
"""A unix socket's path holds 107 bytes, and kubelet and containerd put theirs up to 45 bytes below the instance's folder."""


@dataclass(frozen=True)
class Node:
    """One node: a network namespace with a kubelet, a containerd and a kube-proxy of its own."""

    name: str
    address: IPv4Address
    pods: IPv4Network
    namespace: str
    veth: str
    folder: Path
    cgroup: str

    @property
    def containerd_socket(self) -> Path:
        """Where the node's containerd listens."""
        return self.folder / "containerd.sock"

    @property
    def namespace_path(self) -> Path:
        """The file that holds the node's network namespace."""
        return Path("/run/netns") / self.namespace

    @property
    def pod_namespaces(self) -> Path:
        """The folder with the network namespaces of the node's pods, which containerd makes with the first of them."""
        return self.folder / "state/io.containerd.grpc.v1.cri/netns"


@dataclass(frozen=True)
class Layout:
    """One instance at one slot of the address plan."""

    instance: str
    slot: int
    folder: Path
    node_names: tuple[str, ...] = NODE_NAMES

    @property
    def bridge(self) -> str:
        """The bridge that joins the nodes and the host; at most 13 characters (the kernel's limit is 15)."""
        return f"chry-{self.instance}"

    @property
    def network(self) -> IPv4Network:
        """The nodes' own network."""
        return IPv4Network(f"10.77.{self.slot}.0/24")

    @property
    def host_address(self) -> IPv4Address:
        """The host's address on the bridge: what pods reach the host by."""
        return self.network[1]

    @property
    def services(self) -> IPv4Network:
        """The range that cluster addresses of services come from."""
        return IPv4Network(f"10.96.{self.slot * 8}.0/21")

    @property
    def all_pods(self) -> IPv4Network:
        """The range that holds every node's pods."""
        return IPv4Network(f"10.78.{self.slot * 8}.0/21")

    @property
    def dns_address(self) -> IPv4Address:
        """The cluster address of the DNS service."""
        return self.services[10]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes; the first runs the control plane."""
        return tuple(
            Node(
                name=name,
                address=self.network[2 + index],
                pods=IPv4Network(f"10.78.{self.slot * 8 + 1 + index}.0/24"),
                namespace=f"chrysalis-{self.instance}-{name}",
                veth=f"chv-{self.instance}-{index + 1}",
                folder=self.folder / name,
                cgroup=f"{self.cgroup}/{name}",
            )
            for index, name in enumerate(self.node_names)
        )

    @property
    def control_node(self) -> Node:
        """The node in whose network namespace the control plane runs."""
        return self.nodes[0]

    @property
    def api(self) -> str:
        """The API server's URL, from the host and from the nodes."""
        return f"https://{self.control_node.address}:6443"

    @property
    def cgroup(self) -> str:
        """The control group, in every hierarchy, that holds every process of the instance."""
        return f"chrysalis-{self.instance}"

    @property
    def daemons_cgroup(self) -> str:
        """The part of it for what is not a pod."""
        return f"{self.cgroup}/daemons"

    @property
    def logs(self) -> Path:
        """What the daemons write; kept after `down`, so that a failure can be read."""
        return self.folder.parent / f"{self.instance}.logs"

    def log(self, process: str) -> Path:
        """The log of one daemon."""
        return self.logs / f"{process}.log"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.folder / "pki"

    @property
    def simtd(self) -> Path:
        """The state of the simulated trust domains."""
        return self.folder / "simtd"

    @property
    def cni_network(self) -> str:
        """The CNI network's name starts with this; libcni keeps its results under it in a place of its own choice."""
        return f"chrysalis-{self.instance}"


def instance_for(purpose: str) -> str:
    """The name of the instance that tests of one purpose (a word of at most seven letters) have to themselves.

    Where CHRYSALIS_INSTANCE is set, its name and the purpose's first letter: runs under two names do not meet.
    """
    chosen = os.environ.get(INSTANCE_VARIABLE)
    return f"{chosen}{purpose[0]}" if chosen else purpose


def instance_folder(instance: str) -> Path:
    """Where an instance keeps its state.  Raises ClusterError for a name or a cache folder that cannot work."""
    if not _INSTANCE.fullmatch(instance):
        raise ClusterError(
            Reason.INSTANCE_NAME_INVALID,
            f"{instance!r} cannot name an instance",
            "take one to eight lower-case letters and digits, a letter first: the name becomes part of interface names",
        )
    folder = cache.root() / "run" / instance
    if len(str(folder)) > _LONGEST_FOLDER:
        raise ClusterError(
            Reason.STATE_PATH_TOO_LONG,
            f"{folder} is {len(str(folder))} bytes long; sockets below it would pass the kernel's limit",
            f"set CACHE to a folder whose path is shorter by {len(str(folder)) - _LONGEST_FOLDER} bytes",
        )
    return folder
