"""The cluster's own certificate authority, the certificates of its parts, and their kubeconfigs."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chrysalis.clock import Clock
from e2e.cluster.layout import Layout

_BACKDATE = datetime.timedelta(hours=1)
_LIFE = datetime.timedelta(days=30)
ADMINISTRATORS = "system:masters"
NODES = "system:nodes"


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return _private_pem(self.key)


class Authority:
    """A certificate authority that lives as long as one instance."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now()
        self.identity = self._issue(_name("chrysalis-development-ca", None), (), None)

    def issue(self, common_name: str, *, group: str | None = None, names: Sequence[str] = ()) -> Identity:
        """A certificate for client and server use.  names: DNS names and addresses that a server is reached by."""
        return self._issue(_name(common_name, group), names, self.identity)

    def _issue(self, subject: x509.Name, names: Sequence[str], issuer: Identity | None) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _BACKDATE)
            .not_valid_after(self._now + _LIFE)
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        )
        if issuer is not None:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(usage, critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        return Identity(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def _name(common_name: str, group: str | None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if group is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    return x509.Name(attributes)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def kubeconfig(server: str, authority: Identity, user: Identity) -> str:
    """A kubeconfig with everything inside (JSON, which is YAML)."""

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "chrysalis",
            "contexts": [{"name": "chrysalis", "context": {"cluster": "chrysalis", "user": "user"}}],
            "clusters": [
                {"name": "chrysalis", "cluster": {"server": server, "certificate-authority-data": encoded(authority.certificate_pem)}}
            ],
            "users": [
                {
                    "name": "user",
                    "user": {"client-certificate-data": encoded(user.certificate_pem), "client-key-data": encoded(user.key_pem)},
                }
            ],
        }
    )


def write(layout: Layout, clock: Clock) -> None:
    """Make every key, certificate and kubeconfig of an instance in its folder; only root may read them."""
    authority = Authority(clock)
    layout.pki.mkdir(mode=0o700)

    def save(name: str, identity: Identity) -> None:
        _save(layout.pki / f"{name}.crt", identity.certificate_pem)
        _save(layout.pki / f"{name}.key", identity.key_pem)

    def save_config(path: Path, identity: Identity) -> None:
        _save(path, kubeconfig(layout.api, authority.identity, identity).encode())

    save("ca", authority.identity)
    addresses = ["127.0.0.1", str(layout.services[1]), *(str(node.address) for node in layout.nodes)]
    service = "kubernetes.default.svc.cluster.local"
    labels = service.split(".")
    save("apiserver", authority.issue("kube-apiserver", names=[*(".".join(labels[:n]) for n in (1, 2, 3, 5)), *addresses]))
    save("apiserver-kubelet", authority.issue("kube-apiserver-kubelet-client", group=ADMINISTRATORS))
    _save(layout.pki / "service-accounts.key", _private_pem(rsa.generate_private_key(65537, 2048)))
    save_config(layout.kubeconfig, authority.issue("admin", group=ADMINISTRATORS))
    for part in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        save_config(layout.pki / f"{part}.kubeconfig", authority.issue(f"system:{part}"))
    for node in layout.nodes:
        save(f"kubelet-{node.name}", authority.issue(node.name, names=[node.name, str(node.address)]))
        save_config(layout.pki / f"kubelet-{node.name}.kubeconfig", authority.issue(f"system:node:{node.name}", group=NODES))


def _save(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
