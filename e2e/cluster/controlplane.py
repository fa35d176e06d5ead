"""The command lines of the control plane's four daemons.  Pure."""

from __future__ import annotations

from pathlib import Path

from e2e.cluster.layout import Layout

ETCD_CLIENT = "http://127.0.0.1:2379"
ETCD_PEER = "http://127.0.0.1:2380"
SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc"


def etcd(layout: Layout, programs: Path) -> list[str]:
    """The store.  It listens inside the control node's namespace only, and need not survive the machine: no fsync."""
    return [
        str(programs / "etcd"),
        f"--data-dir={layout.folder / 'etcd'}",
        f"--listen-client-urls={ETCD_CLIENT}",
        f"--advertise-client-urls={ETCD_CLIENT}",
        f"--listen-peer-urls={ETCD_PEER}",
        f"--initial-advertise-peer-urls={ETCD_PEER}",
        f"--initial-cluster=default={ETCD_PEER}",
        "--unsafe-no-fsync",
    ]


def api_server(layout: Layout, programs: Path) -> list[str]:
    """The API server, with Node and RBAC authorization as a real cluster has them."""
    pki = layout.pki
    return [
        str(programs / "kube-apiserver"),
        f"--etcd-servers={ETCD_CLIENT}",
        f"--service-cluster-ip-range={layout.services}",
        f"--advertise-address={layout.control_node.address}",
        "--secure-port=6443",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        # otherwise exec and logs would look a node's name up in DNS
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={pki}/service-accounts.key",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
    ]


def controller_manager(layout: Layout, programs: Path) -> list[str]:
    """The controllers, each with a service account of its own."""
    pki = layout.pki
    config = f"{pki}/kube-controller-manager.kubeconfig"
    return [
        str(programs / "kube-controller-manager"),
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        f"--service-account-private-key-file={pki}/service-accounts.key",
        f"--root-ca-file={pki}/ca.crt",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def scheduler(layout: Layout, programs: Path) -> list[str]:
    """The default scheduler."""
    config = f"{layout.pki}/kube-scheduler.kubeconfig"
    return [
        str(programs / "kube-scheduler"),
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--leader-elect=false",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]
