"""Sealing through a real Vault: transit with associated data, key versions, policies, and the login with ServiceAccount tokens."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from chrysalis.broker import state_keys
from chrysalis.broker.encryption import Keyring
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.vault import VaultSettings, VaultTransit
from chrysalis.clock import ManualClock
from e2e.vault import server
from e2e.vault.server import Vault

pytestmark = pytest.mark.vault
SECRET = b"AGE-SECRET-KEY-1EXAMPLE"
POLICY = """
path "transit/encrypt/models" { capabilities = ["update"] }
path "transit/decrypt/models" { capabilities = ["update"] }
path "transit/keys/models" { capabilities = ["read"] }
"""
"""What docs/broker-keys.md tells administrators to allow."""


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault]:
    with server.running() as running:
        write(running, "sys/mounts/transit", {"type": "transit"})
        write(running, "transit/keys/models", {})
        write(running, "sys/policies/acl/broker", {"policy": POLICY})
        yield running


def write(vault: Vault, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{vault.url}/v1/{path}", json=body, headers={"x-vault-token": vault.root_token}, timeout=30)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json() if answer.content else {}
    return found


@pytest.fixture
def token_file(vault: Vault, tmp_path: Path) -> Path:
    made = write(vault, "auth/token/create", {"policies": ["broker"], "no_default_policy": True, "ttl": "10m"})
    (tmp_path / "token").write_text(made["auth"]["client_token"])
    return tmp_path / "token"


def transit(vault: Vault, clock: ManualClock, **members: Any) -> VaultTransit:
    return VaultTransit(VaultSettings.model_validate({"kind": "Vault", "url": vault.url, "key": "models"} | members), clock)


def reason(action: Callable[[], Any]) -> str:
    with pytest.raises(BrokerError) as caught:
        action()
    return str(caught.value.reason)


def test_a_token_with_the_documented_policy_is_enough(vault: Vault, token_file: Path, clock: ManualClock) -> None:
    ring = Keyring(transit(vault, clock, tokenFile=token_file))
    sealed = ring.encrypt(SECRET, b"a")
    assert ring.decrypt(sealed, b"a") == SECRET
    assert ring.is_current(sealed)
    for bad in (sealed[:-1], sealed[:-4] + b"AAA=", sealed + b"A"):
        assert reason(lambda bad=bad: ring.decrypt(bad, b"a")) == "StateUnusable"
    assert reason(lambda: ring.decrypt(sealed, b"b")) == "StateUnusable", "associated data"
    other = Keyring(transit(vault, clock, tokenFile=token_file, key="others"))
    assert reason(lambda: other.encrypt(SECRET, b"a")) == "KeyServiceUnavailable", "the policy names one key"
    ring.close()
    other.close()


def test_a_rotated_key_seals_again(vault: Vault, token_file: Path, clock: ManualClock) -> None:
    ring = Keyring(transit(vault, clock, tokenFile=token_file))
    before = ring.encrypt(SECRET, b"a")
    write(vault, "transit/keys/models/rotate", {})
    clock.advance(61)
    assert not ring.is_current(before)
    after = ring.encrypt(ring.decrypt(before, b"a"), b"a")
    assert ring.is_current(after)
    newest = httpx.get(f"{vault.url}/v1/transit/keys/models", headers={"x-vault-token": vault.root_token}).json()["data"]["latest_version"]
    write(vault, "transit/keys/models/config", {"min_decryption_version": newest})
    assert reason(lambda: ring.decrypt(before, b"a")) == "StateUnusable"
    assert ring.decrypt(after, b"a") == SECRET
    ring.close()


def test_a_revoked_token_is_no_reason_to_call_values_damaged(vault: Vault, token_file: Path, clock: ManualClock) -> None:
    ring = Keyring(transit(vault, clock, tokenFile=token_file))
    sealed = ring.encrypt(SECRET, b"a")
    write(vault, "auth/token/revoke", {"token": token_file.read_text()})
    assert reason(lambda: ring.decrypt(sealed, b"a")) == "KeyServiceUnavailable"
    ring.close()


@pytest.fixture
def api_server() -> Iterator[str]:
    """A Kubernetes API that knows every token's owner: the broker's ServiceAccount."""

    class Reviews(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            user = {"username": "system:serviceaccount:chrysalis-system:chrysalis-broker", "uid": "uid-1", "groups": []}
            review = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "status": {"authenticated": True, "user": user},
            }
            body = json.dumps(review).encode()
            self.send_response(201)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    reviews = ThreadingHTTPServer(("127.0.0.1", 0), Reviews)
    thread = threading.Thread(target=reviews.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{reviews.server_port}"
    reviews.shutdown()
    reviews.server_close()
    thread.join(60)


def test_a_login_with_a_service_account(vault: Vault, api_server: str, tmp_path: Path, clock: ManualClock) -> None:
    account = {"namespace": "chrysalis-system", "serviceaccount": {"name": "chrysalis-broker", "uid": "uid-1"}}
    claims = {"iss": "kubernetes", "sub": "system:serviceaccount:chrysalis-system:chrysalis-broker", "kubernetes.io": account}
    times = {"iat": 1_700_000_000, "exp": 4_000_000_000}
    pod_token = jwt.encode(claims | times, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256")
    (tmp_path / "jwt").write_text(pod_token)
    write(vault, "sys/auth/kubernetes", {"type": "kubernetes"})
    authority = state_keys.load_or_make(tmp_path / "any", clock).tls_certificate_file.read_text()  # Vault asks for one, also over HTTP
    config = {"kubernetes_host": api_server, "disable_local_ca_jwt": True, "token_reviewer_jwt": pod_token, "kubernetes_ca_cert": authority}
    write(vault, "auth/kubernetes/config", config)
    role = {
        "bound_service_account_names": ["chrysalis-broker"],
        "bound_service_account_namespaces": ["chrysalis-system"],
        "token_policies": ["broker"],
        "token_ttl": "5m",
    }
    write(vault, "auth/kubernetes/role/broker", role)
    write(vault, "auth/kubernetes/role/another", role | {"bound_service_account_names": ["another"]})
    good = Keyring(transit(vault, clock, kubernetes={"role": "broker", "jwtFile": tmp_path / "jwt"}))
    assert good.decrypt(good.encrypt(SECRET, b"a"), b"a") == SECRET
    bad = Keyring(transit(vault, clock, kubernetes={"role": "another", "jwtFile": tmp_path / "jwt"}))
    assert reason(lambda: bad.encrypt(SECRET, b"a")) == "KeyServiceUnavailable"
    good.close()
    bad.close()
