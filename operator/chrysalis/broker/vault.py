"""Sealing through the transit engine of Vault or OpenBao: the root key never leaves the key service.

HTTP API as documented for both (`/v1/MOUNT/encrypt/KEY`, `…/decrypt/KEY`, `…/keys/KEY`); the key must be of an AEAD type
(aes256-gcm96, the default, or chacha20-poly1305), for the associated data.  Logs in with a token from a file (an agent keeps it
fresh) or with the pod's ServiceAccount token at the `kubernetes` auth method.  `rewrap` is not used: it takes no associated data.
"""

from __future__ import annotations

import base64
import binascii
import json
import ssl
import threading
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import httpx
from pydantic import Field, model_validator

from chrysalis.api.base import HttpUrl, Model
from chrysalis.broker.encryption import not_opened, unavailable
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import Clock

MAX_ANSWER_BYTES = 256 * 1024
LOGIN_MARGIN = 0.8
"""A login is renewed after this part of its lease."""
VERSION_SECONDS = 60.0
"""How long the newest version's number is remembered."""
REST_SECONDS = 2.0
"""For which a service that did not answer is left alone: those who wait for it would only hold threads, one after the other."""
UPSTREAM_BUSY = frozenset({429, 472, 473, 500, 502, 503, 504})
"""Statuses after which the same request may succeed: rate limit, standby nodes, sealed or starting."""
Segment = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
MountPath = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$", max_length=128)]


class KubernetesLogin(Model):
    """Login with the pod's ServiceAccount token: mount of the auth method, role, and where the token is."""

    mount: MountPath = "kubernetes"
    role: Segment
    jwt_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class VaultSettings(Model):
    """A transit key.

    url: the service's base.  mount: of the transit engine.  key: its name.  namespace: X-Vault-Namespace.  caFile: PEM of the
    authorities of its certificate; absent: the system's.  tokenFile or kubernetes: how to log in, exactly one.  timeoutSeconds: of
    one request, its whole answer included.  attempts: how often a request is tried while the service is busy or out of reach.
    """

    kind: Literal["Vault"]
    url: HttpUrl
    mount: MountPath = "transit"
    key: Segment
    namespace: Annotated[str, Field(max_length=128)] = ""
    ca_file: Path | None = None
    token_file: Path | None = None
    kubernetes: KubernetesLogin | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 5
    attempts: Annotated[int, Field(ge=1, le=5)] = 3

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if (self.token_file is None) == (self.kubernetes is None):
            raise ValueError("give exactly one of tokenFile and kubernetes")
        return self


class VaultTransit:
    """A KeyWrapper over one transit key.  Thread-safe."""

    scheme = "vault-transit"

    def __init__(self, settings: VaultSettings, clock: Clock, transport: httpx.BaseTransport | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self.key_id = f"{settings.mount}/{settings.key}"
        self._lock = threading.Lock()
        self._login = ("", 0.0)  # token, good until (monotonic)
        self._newest = (0, 0.0)  # version, remembered until (monotonic)
        self._rests_until = 0.0  # monotonic
        self._pause = threading.Event()
        try:
            verify = ssl.create_default_context(cafile=None if settings.ca_file is None else str(settings.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise BrokerError(
                BrokerReason.SETTINGS_INVALID, f"{settings.ca_file} holds no authorities", "give their PEM file", str(error)
            ) from error
        self._http = httpx.Client(
            base_url=settings.url.rstrip("/") + "/v1/",
            timeout=settings.timeout_seconds,
            verify=verify,
            trust_env=False,
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
            transport=transport,
        )

    def wrap(self, secret: bytes, associated: bytes) -> bytes:
        body = {"plaintext": _b64(secret), "associated_data": _b64(associated)}
        answer = self._ask("POST", f"{self._settings.mount}/encrypt/{self._settings.key}", body)
        ciphertext = answer.get("ciphertext")
        if not isinstance(ciphertext, str) or _version(ciphertext) < 1:
            raise unavailable(self, "the answer holds no ciphertext")
        return ciphertext.encode()

    def unwrap(self, body: bytes, associated: bytes) -> bytes:
        try:
            text = body.decode("ascii")
            if _version(text) < 1 or _b64(base64.b64decode(text.rpartition(":")[2], validate=True)) != text.rpartition(":")[2]:
                raise ValueError("not vault:vN:base64")  # base64 has spare bits: one sealed value has one form
        except ValueError as error:
            raise not_opened(self, str(error)) from error
        question = {"ciphertext": text, "associated_data": _b64(associated)}
        answer = self._ask("POST", f"{self._settings.mount}/decrypt/{self._settings.key}", question, opens=True)
        try:
            return base64.b64decode(answer["plaintext"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise unavailable(self, "the answer holds no plaintext") from error

    def current(self, body: bytes) -> bool:
        return _version(body.decode("ascii", "replace")) >= self._newest_version()

    def close(self) -> None:
        self._http.close()

    def _newest_version(self) -> int:
        with self._lock:
            version, until = self._newest
        if self._clock.monotonic() < until:
            return version
        found = self._ask("GET", f"{self._settings.mount}/keys/{self._settings.key}").get("latest_version")
        if not isinstance(found, int):
            raise unavailable(self, "the key's description has no latest_version")
        with self._lock:
            self._newest = (found, self._clock.monotonic() + VERSION_SECONDS)
        return found

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None, *, opens: bool = False) -> dict[str, Any]:
        """`data` of the answer.  opens: a 400 means that the ciphertext does not open, and is final."""
        for fresh_login in (False, True):
            status, document = self._send(method, path, body, self._token(fresh=fresh_login))
            if status == 403 and self._settings.kubernetes is not None and not fresh_login:
                continue  # the login was revoked, or its lease was shorter than it said
            break
        if status == 400 and opens:
            raise not_opened(self, _errors(document))
        if status != 200 or not isinstance(document.get("data"), dict):
            raise unavailable(self, f"HTTP {status}: {_errors(document)}")
        data: dict[str, Any] = document["data"]
        return data

    def _token(self, *, fresh: bool) -> str:
        settings = self._settings
        try:
            if settings.token_file is not None:
                return _token_text(settings.token_file)  # each time: an agent replaces it
            if settings.kubernetes is None:
                raise AssertionError("settings without a login")
            with self._lock:
                token, until = self._login
            if token and not fresh and self._clock.monotonic() < until:
                return token
            question = {"role": settings.kubernetes.role, "jwt": _token_text(settings.kubernetes.jwt_file)}
        except (OSError, ValueError) as error:
            raise unavailable(self, f"the token file: {error}") from error
        status, document = self._send("POST", f"auth/{settings.kubernetes.mount}/login", question, "")
        login = document.get("auth")
        if status != 200 or not isinstance(login, dict) or not isinstance(login.get("client_token"), str):
            raise unavailable(self, f"login: HTTP {status}: {_errors(document)}")
        lease = login.get("lease_duration")
        seconds = float(lease) if isinstance(lease, int) and lease > 0 else 0.0
        with self._lock:
            self._login = (login["client_token"], self._clock.monotonic() + LOGIN_MARGIN * seconds)
        return str(login["client_token"])

    def _send(self, method: str, path: str, body: dict[str, str] | None, token: str) -> tuple[int, dict[str, Any]]:
        headers = {"x-vault-request": "true"}
        if token:
            headers["x-vault-token"] = token
        if self._settings.namespace:
            headers["x-vault-namespace"] = self._settings.namespace
        if self._clock.monotonic() < self._rests_until:
            raise unavailable(self, "it did not answer a moment ago")
        failure = ""
        for attempt in range(self._settings.attempts):
            if attempt:
                self._pause.wait(0.1 * 2**attempt)
            deadline = self._clock.monotonic() + self._settings.timeout_seconds
            try:
                with self._http.stream(method, path, json=body, headers=headers) as response:
                    document = _read(response, self._clock, deadline)
                if response.status_code not in UPSTREAM_BUSY:
                    return response.status_code, document
                failure = f"HTTP {response.status_code}: {_errors(document)}"
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
                failure = f"{type(error).__name__}: {error}"
        self._rests_until = self._clock.monotonic() + REST_SECONDS
        raise unavailable(self, failure)


def _read(response: httpx.Response, clock: Clock, deadline: float) -> dict[str, Any]:
    """The answer's JSON; raises ValueError, also where it drips: a client's own timeouts are for each read."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ValueError("a compressed answer, which was not asked for")
    raw = bytearray()
    for piece in response.iter_bytes():  # nothing is decoded: see above
        raw += piece
        if len(raw) > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer over {MAX_ANSWER_BYTES} bytes")
        if clock.monotonic() > deadline:
            raise ValueError("an answer that did not come in time")
    document = json.loads(raw) if raw else {}
    if not isinstance(document, dict):
        raise ValueError("the answer is not a JSON object")
    return document


def _errors(document: dict[str, Any]) -> str:
    errors = document.get("errors")
    return "; ".join(str(error)[:200] for error in errors[:4]) if isinstance(errors, list) else ""


def _token_text(path: Path) -> str:
    text = path.read_text().strip()
    if not text or not text.isascii() or not text.isprintable() or len(text) > 16384:
        raise ValueError(f"{path} holds no token")
    return text


def _version(ciphertext: str) -> int:
    """The key version of `vault:vN:…`; 0 for anything else."""
    parts = ciphertext.split(":", 2)
    number = parts[1][1:9] if len(parts) == 3 and parts[0] == "vault" and parts[1].startswith("v") else ""
    return int(number) if number.isascii() and number.isdigit() else 0


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
