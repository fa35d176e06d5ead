"""The objects that every instance starts with: DNS, the runtime class of simulated trust domains, and local volumes.  Pure."""

from __future__ import annotations

from typing import Any

from e2e.cluster.layout import CONTROL_NODE, Layout
from e2e.cluster.node import SIMULATED_HANDLER

RUNTIME_CLASS = "chrysalis-simtd"
STORAGE_CLASS = "chrysalis-local"
VOLUMES = 6
"""How many claims the local volumes can satisfy at once."""
VOLUME_SIZE = "1Gi"
_COREFILE = """.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa
    cache 5
}
"""
Manifest = dict[str, Any]


def base(layout: Layout, coredns_image: str) -> list[Manifest]:
    """What `up` applies before the nodes are there; the image by digest."""
    return [*_dns(layout, coredns_image), _runtime_class(), _storage_class(), *volumes(layout)]


def _runtime_class() -> Manifest:
    return {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": RUNTIME_CLASS},
        "handler": SIMULATED_HANDLER,
    }


def _storage_class() -> Manifest:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def volume_name(number: int) -> str:
    """The name of a local volume; its folder has the same."""
    return f"chrysalis-{number}"


def volumes(layout: Layout) -> list[Manifest]:
    """Folders of the control node as volumes, for the databases of broker and settler."""
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [CONTROL_NODE]}]}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume_name(number)},
            "spec": {
                "capacity": {"storage": VOLUME_SIZE},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": STORAGE_CLASS,
                "local": {"path": str(layout.folder / "volumes" / volume_name(number))},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
            },
        }
        for number in range(1, VOLUMES + 1)
    ]


def _dns(layout: Layout, image: str) -> list[Manifest]:
    named = {"name": "coredns", "namespace": "kube-system"}
    labels = {"k8s-app": "kube-dns"}
    watch = ["list", "watch"]
    container = {
        "name": "coredns",
        "image": image,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        # it serves port 53 without being root or having a capability
        "securityContext": {"runAsNonRoot": True, "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "53"}]},
        "priorityClassName": "system-cluster-critical",
        # the rest of the cluster depends on it: it may start while the node is still being reported ready
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": watch},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **named}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": {"Corefile": _COREFILE}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": named,
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {
                "clusterIP": str(layout.dns_address),
                "selector": labels,
                "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
            },
        },
    ]
