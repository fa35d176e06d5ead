"""Pinned TLS: one key, one certificate, nothing sent before."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from chrysalis.wire.pinning import pinned_context, spki_sha256
from chrysalis.wire.reasons import WireError, WireReason


class TlsServer:
    """Shakes hands and echoes; remembers what it was sent."""

    def __init__(self, folder: Path, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.folder = folder
        self.received: list[bytes] = []
        self.maximum = maximum
        self.certificate = self.certify()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def certify(self) -> bytes:
        name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]), datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(self.key, SHA256())
        )
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "pem").write_bytes(private + certificate.public_bytes(Encoding.PEM))
        self.certificate = certificate.public_bytes(Encoding.DER)
        return self.certificate

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                return
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.maximum_version = self.maximum
            context.load_cert_chain(self.folder / "pem")
            try:
                with context.wrap_socket(raw, server_side=True) as tls:
                    data = tls.recv(100)
                    if data:
                        self.received.append(data)
                        tls.sendall(data)
            except OSError:
                raw.close()

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path)
    yield server
    server.close()


def talk(server: TlsServer, context: ssl.SSLContext) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), 5) as raw, context.wrap_socket(raw, server_hostname="any") as tls:
        tls.sendall(b"hello")
        return tls.recv(10)


def test_the_pinned_key_is_trusted_whatever_its_name(server: TlsServer) -> None:
    pin = spki_sha256(server.certificate)
    found = pinned_context("127.0.0.1", server.port, "sni.example", spki_sha256=pin)
    assert (found.spki_sha256, found.certificate_der) == (pin, server.certificate)
    assert server.received == []
    assert talk(server, found.context) == b"hello"


def test_without_a_pin_the_certificate_is_shown(server: TlsServer) -> None:
    assert pinned_context("127.0.0.1", server.port).certificate_der == server.certificate


def test_another_key_is_refused_before_anything_is_sent(server: TlsServer) -> None:
    with pytest.raises(WireError) as caught:
        pinned_context("127.0.0.1", server.port, spki_sha256=bytes(32))
    assert caught.value.reason == WireReason.PIN_MISMATCH
    assert server.received == []


def test_the_context_trusts_this_certificate_alone(server: TlsServer, tmp_path: Path) -> None:
    context = pinned_context("127.0.0.1", server.port).context
    (tmp_path / "other").mkdir()
    other = TlsServer(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(other, context)
    other.close()
    server.certify()  # a new certificate of the same key is another certificate
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server, context)
    assert talk(server, pinned_context("127.0.0.1", server.port, spki_sha256=spki_sha256(server.certificate)).context) == b"hello"


def test_older_tls_and_nobody_are_unreachable(tmp_path: Path) -> None:
    old = TlsServer(tmp_path, ssl.TLSVersion.TLSv1_2)
    for host, port in (("127.0.0.1", old.port), ("127.0.0.1", 1), ("a" * 64 + ".invalid", 443)):
        with pytest.raises(WireError) as caught:
            pinned_context(host, port, timeout=2)
        assert caught.value.reason == WireReason.SERVICE_UNREACHABLE
    old.close()


@pytest.mark.parametrize("der", [b"", b"junk"])
def test_certificates_that_are_none(der: bytes) -> None:
    with pytest.raises(WireError) as caught:
        spki_sha256(der)
    assert caught.value.reason == WireReason.ANSWER_MALFORMED
