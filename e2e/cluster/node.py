"""What one node needs: the configuration of its containerd, kubelet, kube-proxy and pod network.  Writes files, starts nothing."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import tomli_w

from e2e import cache
from e2e.cluster.layout import Layout, Node

CNI_PROGRAMS = "/usr/lib/cni"
SIMULATED_HANDLER = "simtd"
"""The runtime handler behind the RuntimeClass `chrysalis-simtd`."""
SIMULATED_RUNTIME_MODULE = "e2e.simtd.runtime"
STATE_VARIABLE = "SIMTD_STATE"
"""How the launcher tells the simulated guest's runtime where its state is."""


def prepare(layout: Layout, node: Node, sandbox_image: str) -> None:
    """Write every file that the node's daemons read.  sandbox_image: reference of the pause image, by digest."""
    for folder in ("cni", "pod-logs", "plugins", "pki", "runc"):
        (node.folder / folder).mkdir(parents=True)
    (node.folder / "cni" / "10-pods.conflist").write_text(json.dumps(_pod_network(layout, node)))
    (node.folder / "containerd.toml").write_text(tomli_w.dumps(_containerd(layout, node, sandbox_image)))
    (node.folder / "kubelet.yaml").write_text(json.dumps(_kubelet(layout, node)))


def launcher_path(layout: Layout) -> Path:
    """The executable that containerd starts as the OCI runtime of simulated trust domains."""
    return layout.folder / "simtd-runtime"


def write_launcher(layout: Layout) -> None:
    """Make that executable: this very Python, these sources, this instance's state."""
    layout.simtd.mkdir(mode=0o700)
    sources = ":".join(str(cache.REPOSITORY / part) for part in ("operator", "worker-image", "."))
    lines = [
        "#!/bin/sh",
        f"export PYTHONPATH={shlex.quote(sources)} PYTHONDONTWRITEBYTECODE=1",
        f"export {STATE_VARIABLE}={shlex.quote(str(layout.simtd))}",
        f'exec {shlex.quote(sys.executable)} -m {SIMULATED_RUNTIME_MODULE} "$@"',
    ]
    path = launcher_path(layout)
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)


def _pod_network(layout: Layout, node: Node) -> dict[str, object]:
    """Each pod gets a link of its own to the node, so all traffic is routed and kube-proxy sees it, on one node too."""
    addresses = {
        "type": "host-local",
        "dataDir": str(node.folder / "addresses"),
        "ranges": [[{"subnet": str(node.pods)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {
        "cniVersion": "0.4.0",
        "name": f"{layout.cni_network}-{node.name}",
        "plugins": [
            {"type": "ptp", "ipMasq": False, "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _containerd(layout: Layout, node: Node, sandbox_image: str) -> dict[str, object]:
    # runc keeps the state of its containers below Root; the default is one folder for the whole machine
    plain = {"runtime_type": "io.containerd.runc.v2", "options": {"Root": str(node.folder / "runc")}}
    simulated = {
        "runtime_type": "io.containerd.runc.v2",
        "pod_annotations": ["io.katacontainers.*"],
        "container_annotations": ["io.katacontainers.*"],
        "options": {"BinaryName": str(launcher_path(layout)), "Root": str(node.folder / "runc")},
    }
    cri = {
        "sandbox_image": sandbox_image,
        # without CAP_SYS_RESOURCE every sandbox would die: a negative score cannot be set
        "restrict_oom_score_adj": True,
        "netns_mounts_under_state_dir": True,
        "max_concurrent_downloads": 1,
        "containerd": {"default_runtime_name": "runc", "runtimes": {"runc": plain, SIMULATED_HANDLER: simulated}},
        "cni": {"bin_dir": CNI_PROGRAMS, "conf_dir": str(node.folder / "cni")},
    }
    unused = ("aufs", "btrfs", "devmapper", "zfs")
    return {
        "version": 2,
        "root": str(node.folder / "containerd"),
        "state": str(node.folder / "state"),
        "disabled_plugins": [f"io.containerd.snapshotter.v1.{name}" for name in unused],
        "grpc": {"address": str(node.containerd_socket)},
        "plugins": {
            "io.containerd.grpc.v1.cri": cri,
            "io.containerd.internal.v1.opt": {"path": str(node.folder / "opt")},
        },
    }


def _kubelet(layout: Layout, node: Node) -> dict[str, object]:
    pki = layout.pki
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": str(node.address),
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet-{node.name}.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet-{node.name}.key",
        "containerRuntimeEndpoint": f"unix://{node.containerd_socket}",
        # two kubelets under one root would kill each other's pods
        "cgroupRoot": f"/{node.cgroup}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        "clusterDNS": [str(layout.dns_address)],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "podCIDR": str(node.pods),
        "podLogsDir": str(node.folder / "pod-logs"),
        "volumePluginDir": str(node.folder / "plugins"),
        "shutdownGracePeriod": "0s",
    }


def containerd(node: Node) -> list[str]:
    """The container runtime's command line."""
    return ["containerd", "--config", str(node.folder / "containerd.toml")]


def kubelet(layout: Layout, node: Node, programs: Path) -> list[str]:
    """The kubelet's command line."""
    return [
        str(programs / "kubelet"),
        f"--kubeconfig={layout.pki}/kubelet-{node.name}.kubeconfig",
        f"--config={node.folder}/kubelet.yaml",
        f"--root-dir={node.folder}/kubelet",
        f"--cert-dir={node.folder}/pki",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    ]


def proxy(layout: Layout, node: Node, programs: Path) -> list[str]:
    """kube-proxy's command line; the connection-tracking limits belong to the whole machine and are left alone."""
    return [
        str(programs / "kube-proxy"),
        f"--kubeconfig={layout.pki}/kube-proxy.kubeconfig",
        f"--hostname-override={node.name}",
        f"--cluster-cidr={layout.all_pods}",
        "--proxy-mode=nftables",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]
