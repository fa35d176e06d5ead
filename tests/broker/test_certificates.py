"""TLS client certificates: optional, attributed to the tenant whose authority issued them, over a real TLS connection."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chrysalis.broker import main as broker_main
from chrysalis.broker.callers import Callers
from chrysalis.broker.certificates import ClientCertificates
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tenants import Tenant, Tenants
from chrysalis.clock import SystemClock
from tests.broker.test_main import Running

World = Any
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass
class Authority:
    """A tenant's certificate authority."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._make(self.name, self.key, ca=True, usage=None, days=30)
        self.file = self.folder / f"{self.name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, *, ca: bool = False, usage: x509.ObjectIdentifier | None = CLIENT, days: int = 1) -> Path:
        """A file with a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._make(name, key, ca=ca, usage=usage, days=days)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file = self.folder / f"{self.name}-{name}-{days}.pem"
        file.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
        return file

    def _make(
        self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool, usage: x509.ObjectIdentifier | None, days: int
    ) -> x509.Certificate:
        now = SystemClock().now()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=min(days, 0) - 1))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self.key, SHA256())


def tenant(name: str, owner: str, *administrators: dict[str, Any]) -> Tenant:
    return Tenant.model_validate({"name": name, "owners": [owner], "administrators": {"certificates": list(administrators)}})


@pytest.fixture
def acme(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "acme-ca")


@pytest.fixture
def rival(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "rival-ca")


@pytest.fixture
def server(world: World, acme: Authority, rival: Authority) -> Iterator[Running]:
    tenants = Tenants(
        [
            tenant(
                "acme",
                world.acme.public.hex(),
                {"caFile": acme.file, "commonName": "root", "role": "OwnerAdmin"},
                {"caFile": acme.file, "commonName": "eye"},
            ),
            tenant("rival", world.rival.public.hex(), {"caFile": rival.file, "role": "OwnerAdmin"}),
        ]
    )
    # certificates are of today; the world's clock stands elsewhere
    certificates = ClientCertificates(tenants.all, SystemClock())
    configuration = world.deps.settings.model_copy(update={"host": "127.0.0.1", "port": 0})
    for member, value in {
        "settings": configuration,
        "certificates": certificates,
        "callers": Callers(
            tenants=tenants, clock=world.clock, broker_spki_sha256=world.deps.keys.tls_spki_sha256, certificates=certificates
        ),
    }.items():
        object.__setattr__(world.deps, member, value)
    running = Running(broker_main.tls_server(world.deps))
    yield running
    running.stop()


def ask(server: Running, path: str, certificate: Path | None, method: str = "GET", **headers: str) -> httpx.Response:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate)
    with httpx.Client(verify=context) as http:
        return http.request(method, f"https://127.0.0.1:{server.port}{path}", headers=headers)


def test_roles_and_tenants(world: World, server: Running, acme: Authority, rival: Authority) -> None:
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    root, eye, unlisted, other = acme.issue("root"), acme.issue("eye"), acme.issue("unlisted"), rival.issue("anyone")
    path = f"/v1/results/{result}"
    status = {name: ask(server, path, file).status_code for name, file in {"root": root, "eye": eye, "u": unlisted, "other": other}.items()}
    assert status == {"root": 200, "eye": 200, "u": 403, "other": 404}
    assert ask(server, "/v1/audit", root).status_code == 200
    assert ask(server, "/v1/audit", eye).status_code == 403
    assert ask(server, f"{path}:revoke", eye, "POST").status_code == 403
    assert ask(server, f"{path}:revoke", other, "POST").status_code == 404
    assert ask(server, f"{path}:revoke", root, "POST").json()["revokedAt"]
    by = [link["document"]["by"] for link in ask(server, "/v1/audit", root).json()["links"] if link.get("event") == "ResultRevoked"]
    assert by == ["certificate root"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "none"}, 200),  # typed by the user
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_a_page_does_not_revoke_with_its_readers_certificate(
    world: World, server: Running, acme: Authority, headers: dict[str, str], status: int
) -> None:
    path = f"/v1/results/{world.attest(world.domain(world.acme)).json()['resultId']}"
    answer = ask(server, f"{path}:revoke", acme.issue("root"), "POST", **headers)
    assert answer.status_code == status
    assert (answer.json().get("reason") == "CallerNotAllowed") == (status == 403)
    assert ("revokedAt" in ask(server, path, acme.issue("root")).json()) == (status == 200)


def test_workers_need_none(server: Running) -> None:
    assert ask(server, "/v1/challenge", None, "POST").status_code == 200
    assert ask(server, "/v1/results", None).status_code == 401


def test_a_bearer_token_goes_before_the_certificate(server: Running, acme: Authority) -> None:
    assert ask(server, "/v1/results", acme.issue("root"), authorization="Bearer junk").status_code == 401


def test_what_the_tls_layer_refuses(server: Running, acme: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "acme-ca")  # the same name, another key
    assert ask(server, "/v1/results", acme.issue("root")).status_code == 200
    for name, file in {
        "another authority": stranger.issue("root"),
        "expired": acme.issue("root", days=-1),
        "for servers": acme.issue("root", usage=SERVER),
    }.items():
        with pytest.raises(httpx.TransportError):
            ask(server, "/v1/results", file)
        assert name


def test_an_authoritys_own_certificate_is_nobody(server: Running, acme: Authority) -> None:
    assert ask(server, "/v1/results", acme.issue("root", ca=True)).status_code == 401


def test_one_authority_belongs_to_one_tenant(acme: Authority, rival: Authority, tmp_path: Path) -> None:
    clock = SystemClock()
    first, second = tenant("a", "aa" * 32, {"caFile": acme.file}), tenant("b", "bb" * 32, {"caFile": rival.file})
    assert ClientCertificates([first, second], clock)
    assert not ClientCertificates([], clock)
    (tmp_path / "junk.pem").write_text("junk")
    for path in (acme.file, tmp_path / "junk.pem", tmp_path / "missing.pem"):
        with pytest.raises(BrokerError) as caught:
            ClientCertificates([first, tenant("b", "bb" * 32, {"caFile": path})], clock)
        assert caught.value.reason == BrokerReason.SETTINGS_INVALID


@pytest.mark.parametrize("der", [b"", b"\x30\x03\x02\x01\x01", b"\x00" * 20_000])
def test_junk_is_refused(acme: Authority, der: bytes) -> None:
    with pytest.raises(BrokerError) as caught:
        ClientCertificates([tenant("a", "aa" * 32, {"caFile": acme.file})], SystemClock()).identify(der)
    assert caught.value.reason == BrokerReason.CALLER_UNAUTHENTICATED
