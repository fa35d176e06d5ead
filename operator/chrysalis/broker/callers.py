"""Who may read results: listed ServiceAccounts of the cluster (TokenReview) and owners, who see those of their own keys."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from chrysalis.api.names import AUDIENCE_BROKER
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.settings import KubernetesSettings
from chrysalis.clock import Clock
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire import owner_token

MAX_TOKEN_CHARACTERS = 16 * 1024
CACHE_SECONDS = 60.0
CACHE_ENTRIES = 256
SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True)
class Caller:
    """Who asks.  owner: hex of the owner's key when it is one; then only its own results are shown."""

    name: str
    owner: str = ""


class TokenReviewer(Protocol):
    """Says whose a ServiceAccount token is."""

    def review(self, token: str) -> str | None:
        """The user name of a valid token of audience chrysalis-broker; None for any other.

        Raises BrokerError (CallerCheckUnavailable).
        """


class Callers:
    """Authenticates the bearer of a request."""

    def __init__(
        self, *, owners: Collection[bytes], service_accounts: Collection[str], reviewer: TokenReviewer | None, clock: Clock
    ) -> None:
        self._owners = owners
        self._accounts = {SERVICE_ACCOUNT_PREFIX + account for account in service_accounts}
        self._reviewer = reviewer
        self._clock = clock

    def authenticate(self, authorization: str) -> Caller:
        """The caller of a request with this header; raises BrokerError: CallerUnauthenticated, CallerNotAllowed."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
            raise _unauthenticated("no bearer token")
        if owner_token.is_one(token):
            try:
                owner = owner_token.verify(token, self._owners, self._clock.now())
            except ReceiptError as error:
                raise _unauthenticated(f"{error.reason}: {error.message}") from error
            return Caller(name=f"owner {owner.hex()}", owner=owner.hex())
        if self._reviewer is None:
            raise _unauthenticated("this broker is in no cluster; only owners may ask")
        name = self._reviewer.review(token)
        if name is None:
            raise _unauthenticated(f"not a valid ServiceAccount token of audience {AUDIENCE_BROKER}")
        if name not in self._accounts:
            raise BrokerError(
                BrokerReason.CALLER_NOT_ALLOWED, f"{name[:320]} may not read results", "list it in kubernetes.serviceAccounts of the broker"
            )
        return Caller(name=name)


class KubernetesReviewer:
    """TokenReview at the API server; valid tokens are remembered for a minute."""

    def __init__(self, settings: KubernetesSettings, clock: Clock, transport: httpx.BaseTransport | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._transport = transport
        self._http: httpx.Client | None = None
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[float, str]] = {}

    def review(self, token: str) -> str | None:
        digest, now = hashlib.sha256(token.encode()).digest(), self._clock.monotonic()
        with self._lock:
            until, name = self._known.get(digest, (now, ""))
        if now < until:
            return name
        found = self._ask(token)
        if found is not None:
            with self._lock:
                if len(self._known) >= CACHE_ENTRIES:
                    self._known.clear()
                self._known[digest] = (now + CACHE_SECONDS, found)
        return found

    def _ask(self, token: str) -> str | None:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE_BROKER]},
        }
        try:
            own = self._settings.token_file.read_text().strip()  # kubelet rotates it
            answer = self._client().post(
                f"{self._settings.url.rstrip('/')}/apis/authentication.k8s.io/v1/tokenreviews",
                json=review,
                headers={"authorization": f"Bearer {own}"},
            )
            answer.raise_for_status()
            status: dict[str, Any] = answer.json()["status"]
            if status.get("authenticated") is not True or AUDIENCE_BROKER not in status.get("audiences", []):
                return None
            return str(status["user"]["username"])
        except (OSError, httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokerError(
                BrokerReason.CALLER_CHECK_UNAVAILABLE,
                "the cluster cannot say whose token this is",
                "check that the broker may create tokenreviews and reaches the API server",
                f"{type(error).__name__}: {error}",
            ) from error

    def _client(self) -> httpx.Client:
        with self._lock:
            if self._http is None:
                verify = ssl.create_default_context(cafile=str(self._settings.ca_file))
                self._http = httpx.Client(timeout=10.0, verify=verify, trust_env=False, transport=self._transport)
            return self._http


def _unauthenticated(detail: str) -> BrokerError:
    return BrokerError(
        BrokerReason.CALLER_UNAUTHENTICATED,
        "results are shown only to listed ServiceAccounts and to owners",
        f"send a ServiceAccount token of audience {AUDIENCE_BROKER}, or a token signed by an owner's key, as bearer",
        detail,
    )
