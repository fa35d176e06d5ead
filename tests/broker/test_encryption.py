"""Secrets at rest: every scheme keeps the same promises, and a sealed value says what opens it."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from chrysalis.broker import encryption, encryption_settings
from chrysalis.broker.encryption import Keyring, KeyWrapper, RootKey, RootKeyEncryption
from chrysalis.broker.encryption_settings import KeyEncryptionSettings, PluginSettings, RootKeySettings
from chrysalis.broker.hsm import Hsm, HsmSettings
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.vault import VaultSettings, VaultTransit
from chrysalis.clock import ManualClock

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")  # of Debian's libsofthsm2
SECRET = b"AGE-SECRET-KEY-1EXAMPLE"


class TransitServer:
    """The transit engine's and the Kubernetes login's HTTP API as documented, over AES-GCM in this process."""

    def __init__(self) -> None:
        self.keys: dict[int, AESGCM] = {1: AESGCM(AESGCM.generate_key(256))}
        self.tokens = {"root"}
        self.answers: list[int] = []  # statuses to answer with first
        self.asked: list[str] = []
        self.logins = 0
        self.lease = 3600

    def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        body = json.loads(request.content or b"{}")
        if self.answers:
            return httpx.Response(self.answers.pop(0), json={"errors": ["busy"]})
        if path == "/v1/auth/kubernetes/login":
            if (body.get("role"), body.get("jwt")) != ("broker", "pod-token"):
                return httpx.Response(403, json={"errors": ["permission denied"]})
            self.logins += 1
            self.tokens.add(f"login-{self.logins}")
            return httpx.Response(200, json={"auth": {"client_token": f"login-{self.logins}", "lease_duration": self.lease}})
        if request.headers.get("x-vault-token") not in self.tokens:
            return httpx.Response(403, json={"errors": ["permission denied"]})
        aad = base64.b64decode(body.get("associated_data", ""))
        if path == "/v1/transit/keys/models":
            return httpx.Response(200, json={"data": {"latest_version": max(self.keys)}})
        if path == "/v1/transit/encrypt/models":
            version, nonce = max(self.keys), secrets.token_bytes(12)
            sealed = nonce + self.keys[version].encrypt(nonce, base64.b64decode(body["plaintext"]), aad)
            return httpx.Response(200, json={"data": {"ciphertext": f"vault:v{version}:{base64.b64encode(sealed).decode()}"}})
        if path == "/v1/transit/decrypt/models":
            try:
                word, version_text, text = body["ciphertext"].split(":", 2)
                if word != "vault" or not version_text.startswith("v"):
                    raise ValueError(word)
                raw = base64.b64decode(text, validate=True)
                plain = self.keys[int(version_text[1:])].decrypt(raw[:12], raw[12:], aad)
            except (ValueError, KeyError, InvalidTag):
                return httpx.Response(400, json={"errors": ["cipher: message authentication failed"]})
            return httpx.Response(200, json={"data": {"plaintext": base64.b64encode(plain).decode()}})
        return httpx.Response(404, json={"errors": []})

    def rotate(self) -> None:
        self.keys[max(self.keys) + 1] = AESGCM(AESGCM.generate_key(256))


def vault(server: TransitServer, tmp_path: Path, clock: ManualClock, **changes: Any) -> VaultTransit:
    (tmp_path / "token").write_text("root\n")
    (tmp_path / "jwt").write_text("pod-token")
    members: dict[str, Any] = {"kind": "Vault", "url": "https://vault:8200", "key": "models", "tokenFile": tmp_path / "token"} | changes
    settings = VaultSettings.model_validate({name: value for name, value in members.items() if value is not None})
    return VaultTransit(settings, clock, httpx.MockTransport(server.handle))


@pytest.fixture(scope="session")
def hsm_settings(tmp_path_factory: pytest.TempPathFactory) -> HsmSettings:
    """A SoftHSM token with an AES key."""
    if not SOFTHSM.exists() or shutil.which("softhsm2-util") is None:
        words = "SoftHSM is not installed: .ci/setup installs Debian's softhsm2"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    import pkcs11

    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")  # read once, when the library is loaded
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "chrysalis", "--pin", "1234", "--so-pin", "5678"],
        check=True,
        capture_output=True,
    )
    token = pkcs11.lib(str(SOFTHSM)).get_token(token_label="chrysalis")
    with token.open(rw=True, user_pin="1234") as session:
        for label in ("models", "other"):
            session.generate_key(pkcs11.KeyType.AES, 256, label=label, store=True)
    (folder / "pin").write_text("1234\n")
    return HsmSettings(kind="Pkcs11", module=SOFTHSM, token="chrysalis", key="models", pin_file=folder / "pin")


class Rot13:
    """A sample plug-in; what it does to secrets is a joke."""

    scheme = "rot13"

    def __init__(self, options: Any) -> None:
        self.key_id = options["key"]

    def wrap(self, secret: bytes, associated: bytes) -> bytes:
        return associated + bytes(byte ^ 13 for byte in secret)

    def unwrap(self, body: bytes, associated: bytes) -> bytes:
        if not body.startswith(associated):
            raise encryption.not_opened(self)
        return bytes(byte ^ 13 for byte in body[len(associated) :])

    def current(self, body: bytes) -> bool:
        return True

    def close(self) -> None:
        pass


@pytest.fixture(params=["root key", "vault", "pkcs11"])
def wrapper(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> KeyWrapper:
    if request.param == "root key":
        return RootKey(secrets.token_bytes(32))
    if request.param == "vault":
        return vault(TransitServer(), tmp_path, clock)
    return Hsm(request.getfixturevalue("hsm_settings"))


def reason(action: Callable[[], Any]) -> str:
    with pytest.raises(BrokerError) as caught:
        action()
    assert caught.value.remedy
    assert SECRET.decode() not in f"{caught.value} {caught.value.detail}"
    return str(caught.value.reason)


def test_what_is_sealed_opens_and_only_so(wrapper: KeyWrapper) -> None:
    ring = Keyring(wrapper)
    sealed = ring.encrypt(SECRET, b"key a")
    assert SECRET not in sealed
    assert sealed != ring.encrypt(SECRET, b"key a")
    assert ring.decrypt(sealed, b"key a") == SECRET
    assert ring.is_current(sealed)
    value = encryption.read(sealed)
    assert (value.scheme, value.key_id) == (wrapper.scheme, wrapper.key_id)
    assert reason(lambda: ring.decrypt(sealed, b"key b")) == "StateUnusable"
    assert reason(lambda: ring.decrypt(sealed[:-1], b"key a")) == "StateUnusable"
    ring.close()


def test_every_changed_byte_is_found(wrapper: KeyWrapper) -> None:
    ring = Keyring(wrapper)
    sealed = ring.encrypt(SECRET, b"c")
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(BrokerError):
            ring.decrypt(changed, b"c")
    assert ring.decrypt(sealed, b"c") == SECRET
    ring.close()


@given(st.binary(max_size=64))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    ring = RootKeyEncryption(bytes(32))
    for sealed in (data, encryption.MAGIC + data):
        with pytest.raises(BrokerError) as caught:
            ring.decrypt(sealed, b"")
        assert caught.value.reason == "StateUnusable"


@given(st.binary(max_size=256), st.binary(max_size=64))
def test_any_secret_and_context(secret: bytes, context: bytes) -> None:
    ring = RootKeyEncryption(bytes(32))
    assert ring.decrypt(ring.encrypt(secret, context), context) == secret


def test_a_secret_has_a_largest_size() -> None:
    ring = RootKeyEncryption(bytes(32))
    ring.encrypt(bytes(encryption.MAX_SECRET_BYTES), b"")
    assert reason(lambda: ring.encrypt(bytes(encryption.MAX_SECRET_BYTES + 1), b"")) == "MessageTooLarge"


def test_previous_keys_open_and_do_not_seal(tmp_path: Path, clock: ManualClock) -> None:
    old, new = RootKey(b"o" * 32), vault(TransitServer(), tmp_path, clock)
    sealed = Keyring(old).encrypt(SECRET, b"c")
    ring = Keyring(new, [old])
    assert ring.decrypt(sealed, b"c") == SECRET
    assert not ring.is_current(sealed)
    again = ring.encrypt(SECRET, b"c")
    assert ring.is_current(again)
    assert encryption.read(again).scheme == "vault-transit"
    assert Keyring(new).decrypt(again, b"c") == SECRET
    assert reason(lambda: Keyring(new).decrypt(sealed, b"c")) == "StateUnusable"


def test_a_header_cannot_be_exchanged() -> None:
    one, two = RootKey(b"1" * 32), RootKey(b"1" * 32)
    two.key_id = "other"
    sealed = Keyring(one).encrypt(SECRET, b"c")
    forged = encryption.header(two.scheme, two.key_id) + encryption.read(sealed).body
    assert reason(lambda: Keyring(two, [one]).decrypt(forged, b"c")) == "StateUnusable"


# Vault


def test_vault_versions_ask_for_sealing_again(tmp_path: Path, clock: ManualClock) -> None:
    server = TransitServer()
    ring = Keyring(vault(server, tmp_path, clock))
    sealed = ring.encrypt(SECRET, b"c")
    assert ring.is_current(sealed)
    server.rotate()
    clock.advance(61)  # the newest version is remembered for a minute
    assert not ring.is_current(sealed)
    assert ring.decrypt(sealed, b"c") == SECRET
    assert ring.is_current(ring.encrypt(SECRET, b"c"))


def test_vault_is_asked_again_while_it_is_busy(tmp_path: Path, clock: ManualClock) -> None:
    server = TransitServer()
    transit = vault(server, tmp_path, clock)
    server.answers = [503, 472]
    transit.wrap(SECRET, b"")
    assert len(server.asked) == 3
    server.answers = [503, 503, 503]
    assert reason(lambda: transit.wrap(SECRET, b"")) == "KeyServiceUnavailable"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda r: httpx.Response(404, json={"errors": []}), id="no such key"),
        pytest.param(lambda r: httpx.Response(403, json={"errors": ["permission denied"]}), id="not allowed"),
        pytest.param(lambda r: httpx.Response(200, content=b"<html>"), id="not JSON"),
        pytest.param(lambda r: httpx.Response(200, json=[]), id="not an object"),
        pytest.param(lambda r: httpx.Response(200, json={"data": {}}), id="no ciphertext"),
        pytest.param(lambda r: httpx.Response(200, json={"data": {"ciphertext": "vault:v0:x"}}), id="no version"),
        pytest.param(lambda r: httpx.Response(200, content=b"[" * 300_000), id="too long"),
        pytest.param(lambda r: httpx.Response(307, headers={"location": "https://elsewhere/"}), id="redirected"),
        pytest.param(lambda r: (_ for _ in ()).throw(httpx.ConnectError("refused")), id="nobody there"),
    ],
)
def test_bad_answers_of_vault_have_a_reason(tmp_path: Path, clock: ManualClock, answer: Any) -> None:
    vault(TransitServer(), tmp_path, clock).wrap(SECRET, b"")  # the twin
    transit = vault(TransitServer(), tmp_path, clock, attempts=1)
    transit._http = httpx.Client(base_url="https://vault/v1/", transport=httpx.MockTransport(answer))
    assert reason(lambda: transit.wrap(SECRET, b"")) == "KeyServiceUnavailable"
    assert reason(lambda: transit.unwrap(b"vault:v1:AAAA", b"")) == "KeyServiceUnavailable"
    assert reason(lambda: transit.current(b"vault:v1:AAAA")) == "KeyServiceUnavailable"


def test_a_token_file_is_read_each_time(tmp_path: Path, clock: ManualClock) -> None:
    server = TransitServer()
    transit = vault(server, tmp_path, clock)
    transit.wrap(SECRET, b"")
    server.tokens = {"renewed"}
    assert reason(lambda: transit.wrap(SECRET, b"")) == "KeyServiceUnavailable"
    (tmp_path / "token").write_text("renewed")
    transit.wrap(SECRET, b"")
    (tmp_path / "token").unlink()
    assert reason(lambda: transit.wrap(SECRET, b"")) == "KeyServiceUnavailable"


def test_a_kubernetes_login_is_renewed(tmp_path: Path, clock: ManualClock) -> None:
    server = TransitServer()
    login = {"role": "broker", "jwtFile": tmp_path / "jwt"}
    transit = vault(server, tmp_path, clock, tokenFile=None, kubernetes=login)
    for _ in range(3):
        transit.wrap(SECRET, b"")
    assert server.logins == 1
    clock.advance(0.81 * server.lease)
    transit.wrap(SECRET, b"")
    assert server.logins == 2
    server.tokens = set()  # revoked
    transit.wrap(SECRET, b"")
    assert server.logins == 3
    other = vault(server, tmp_path, clock, tokenFile=None, kubernetes=login | {"role": "another"})
    assert reason(lambda: other.wrap(SECRET, b"")) == "KeyServiceUnavailable"


def test_vault_over_tls_needs_its_authority(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    settings = VaultSettings(kind="Vault", url="https://vault", key="k", token_file=tmp_path / "t", ca_file=tmp_path / "ca.pem")
    assert reason(lambda: VaultTransit(settings, clock)) == "SettingsInvalid"


def test_vault_that_hangs_is_given_up(tmp_path: Path, clock: ManualClock) -> None:
    release = threading.Event()

    class Hanging(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            release.wait(60)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hanging)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    (tmp_path / "token").write_text("root")
    settings = VaultSettings(
        kind="Vault",
        url=f"http://127.0.0.1:{server.server_port}",
        key="k",
        token_file=tmp_path / "token",
        timeout_seconds=0.1,
        attempts=1,
    )
    try:
        assert reason(lambda: VaultTransit(settings, clock).wrap(SECRET, b"")) == "KeyServiceUnavailable"
    finally:
        release.set()
        server.shutdown()
        server.server_close()
        thread.join(60)


# PKCS #11


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"token": "another"}, id="no such token"),
        pytest.param({"key": "another"}, id="no such key"),
        pytest.param({"module": Path("/nowhere.so")}, id="no such module"),
        pytest.param({"pin_file": Path("/nowhere")}, id="no PIN"),
    ],
)
def test_a_token_that_cannot_be_used(hsm_settings: HsmSettings, change: dict[str, Any]) -> None:
    twin = Hsm(hsm_settings)
    twin.wrap(SECRET, b"")
    twin.close()
    assert reason(lambda: Hsm(hsm_settings.model_copy(update=change)).wrap(SECRET, b"")) == "KeyServiceUnavailable"


def test_a_wrong_pin(hsm_settings: HsmSettings, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("0000")
    other = hsm_settings.model_copy(update={"pin_file": tmp_path / "pin"})
    assert reason(lambda: Hsm(other).wrap(SECRET, b"")) == "KeyServiceUnavailable"


def test_a_lost_session_is_opened_again(hsm_settings: HsmSettings) -> None:
    hsm = Hsm(hsm_settings)
    body = hsm.wrap(SECRET, b"a")
    assert hsm._session is not None
    hsm._session.close()
    assert hsm.unwrap(body, b"a") == SECRET
    hsm.close()
    assert hsm.unwrap(body, b"a") == SECRET
    hsm.close()


def test_another_key_of_the_token_does_not_open(hsm_settings: HsmSettings) -> None:
    one, other = Hsm(hsm_settings), Hsm(hsm_settings.model_copy(update={"key": "other"}))
    body = one.wrap(SECRET, b"a")
    assert reason(lambda: other.unwrap(body, b"a")) == "StateUnusable"  # two sessions of one login
    other.close()
    assert one.unwrap(body, b"a") == SECRET
    one.close()


# Settings and plug-ins


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Entry points of this name show the objects that stand in the dictionary."""
    objects: dict[str, Any] = {}

    class Point:
        def __init__(self, name: str) -> None:
            self.name = name

        def load(self) -> Any:
            return objects[self.name]

    def entry_points(group: str) -> list[Point]:
        assert group == "chrysalis.key_encryption"
        return [Point(name) for name in objects]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    return objects


def test_a_plug_in_seals(plugged: dict[str, Any], clock: ManualClock) -> None:
    plugged["rot13"] = Rot13
    settings: KeyEncryptionSettings = TypeAdapter(KeyEncryptionSettings).validate_python(
        {"kind": "Plugin", "plugin": "rot13", "options": {"key": "k1"}}
    )
    ring = encryption_settings.keyring(settings, [], root_key=lambda: bytes(32), clock=clock)
    sealed = ring.encrypt(SECRET, b"c")
    assert encryption.read(sealed).key_id == "k1"
    assert ring.decrypt(sealed, b"c") == SECRET
    assert reason(lambda: ring.decrypt(sealed, b"d")) == "StateUnusable"


@pytest.mark.parametrize(
    ("name", "made"),
    [
        pytest.param("rot13", None, id="not installed"),
        pytest.param("vault-transit", Rot13, id="a name that is taken"),
        pytest.param("rot14", Rot13, id="another scheme"),
        pytest.param("rot13", lambda options: object(), id="not a wrapper"),
        pytest.param("rot13", lambda options: 1 / 0, id="it fails"),
    ],
)
def test_plug_ins_that_cannot_be_used(plugged: dict[str, Any], clock: ManualClock, name: str, made: Any) -> None:
    if made is not None:
        plugged[name] = made
    settings = PluginSettings(kind="Plugin", plugin=name, options={"key": "k"})
    assert reason(lambda: encryption_settings.wrapper(settings, clock)) == "SettingsInvalid"


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "Vault", "url": "https://v", "key": "k"},
        {"kind": "Vault", "url": "https://v", "key": "k", "tokenFile": "/t", "kubernetes": {"role": "r"}},
        {"kind": "Vault", "url": "https://v", "key": "../sys/seal", "tokenFile": "/t"},
        {"kind": "Vault", "url": "https://v", "key": "k", "mount": "../sys", "tokenFile": "/t"},
        {"kind": "Vault", "url": "ftp://v", "key": "k", "tokenFile": "/t"},
        {"kind": "Pkcs11", "module": "/m", "token": "t"},
        {"kind": "Another"},
        {"kind": "RootKey"},
    ],
)
def test_settings_are_strict(settings: dict[str, Any]) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(KeyEncryptionSettings)
    adapter.validate_python({"kind": "Vault", "url": "https://v", "key": "k", "tokenFile": "/t"})  # the twin
    with pytest.raises(ValidationError):
        adapter.validate_python(settings)


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"00" * 31, b"\xff" * 64])
def test_root_key_files(tmp_path: Path, clock: ManualClock, content: bytes) -> None:
    file = tmp_path / "root"
    file.write_bytes(b"ab" * 32 + b"\n")
    good = encryption_settings.wrapper(RootKeySettings(kind="RootKey", file=file), clock)
    assert good.key_id == RootKey(b"\xab" * 32).key_id
    file.write_bytes(content)
    assert reason(lambda: encryption_settings.wrapper(RootKeySettings(kind="RootKey", file=file), clock)) == "StateUnusable"
