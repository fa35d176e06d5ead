"""Who calls, and what they may see and do: owners, administrators of tenants, the cluster's own readers.

- Owners: a token signed by an owner's key (chrysalis.wire.owner_token); they see and change what is their own key's.
- Administrators of a tenant: an OpenID Connect token, a ServiceAccount token (TokenReview) or a TLS client certificate; they
  see what is any of the tenant's owners', in the role that the settings give.  They store nothing without an owner's signature.
- The cluster's readers (the operator): listed ServiceAccounts that see every tenant's results, and change nothing.

Nobody is ever given a model key's plaintext; it leaves only wrapped to an attested worker (chrysalis.broker.release).
"""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from chrysalis.api.names import AUDIENCE_BROKER
from chrysalis.broker import oidc
from chrysalis.broker.certificates import ClientCertificates
from chrysalis.broker.exchange import exchange
from chrysalis.broker.kubernetes_settings import KubernetesSettings
from chrysalis.broker.oidc import OidcVerifier
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tenants import Role, Tenant, Tenants
from chrysalis.clock import Clock
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire import owner_token
from chrysalis.wire.reasons import WireError

MAX_TOKEN_CHARACTERS = 16 * 1024
CACHE_SECONDS = 60.0
CACHE_ENTRIES = 256
REVIEW_SECONDS = 5.0
MAX_REVIEW_BYTES = 1024 * 1024
SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True)
class Once:
    """Something that counts once: its name (64 hex digits), and until when it is to be remembered (Unix seconds)."""

    name: str
    until: int


@dataclass(frozen=True)
class Caller:
    """Who asks, and whose objects it may read and change.  The default sees nothing.

    name: for logs and the audit.  owner: hex of the owner's key when it is one.  token: of an owner, good for one change.
    everything: reads all tenants' results.  readable, changeable: owners (hex) whose objects it may read; whose results it may
    revoke, whose envelopes it may carry and whose audit records it may read.
    tenant: whose it is, by name; several are joined by commas.
    namespaces: where not None, only results that claim one of these are shown.
    """

    name: str
    owner: str = ""
    everything: bool = False
    readable: frozenset[str] = field(default_factory=frozenset)
    changeable: frozenset[str] = field(default_factory=frozenset)
    namespaces: frozenset[str] | None = None
    token: Once | None = None
    tenant: str = ""

    def sees(self, owner: str, namespace: str | None = None) -> bool:
        """Whether it may read an object of this owner (that claims this namespace)."""
        inside = namespace is None or self.namespaces is None or namespace in self.namespaces
        return inside and (self.everything or owner in self.readable)

    def changes(self, owner: str) -> bool:
        """Whether it may revoke this owner's results, carry its envelopes and read its audit records."""
        return owner in self.changeable

    @property
    def owners(self) -> frozenset[str] | None:
        """The owners whose results it sees; None: every result, those without an owner included."""
        return None if self.everything else self.readable


class TokenReviewer(Protocol):
    """Says whose a ServiceAccount token is."""

    def review(self, token: str) -> str | None:
        """The user name of a valid token of audience chrysalis-broker; None for any other.

        Raises BrokerError (CallerCheckUnavailable).
        """


class Callers:
    """Authenticates the bearer of a request.  Thread-safe."""

    def __init__(
        self,
        *,
        tenants: Tenants,
        clock: Clock,
        broker_spki_sha256: bytes,
        readers: Collection[str] = (),
        reviewer: TokenReviewer | None = None,
        providers: Iterable[OidcVerifier] = (),
        certificates: ClientCertificates | None = None,
    ) -> None:
        """broker_spki_sha256: of this broker's TLS key, which owners' tokens name.

        readers: ServiceAccounts (NAMESPACE:NAME) that read every tenant's results."""
        self._tenants = tenants
        self._owners = tenants.owner_keys
        self._readers = {SERVICE_ACCOUNT_PREFIX + account for account in readers}
        self._reviewer = reviewer
        self._providers = {verifier.provider.issuer: verifier for verifier in providers}
        self._certificates = certificates
        self._clock = clock
        self._spki_sha256 = broker_spki_sha256

    def authenticate(self, authorization: str, certificate: bytes | None = None) -> Caller:
        """The caller of a request with this header, or with this TLS client certificate (DER) where there is no header.

        Raises BrokerError: CallerUnauthenticated, CredentialForAnotherBroker, CallerNotAllowed, CallerCheckUnavailable.
        """
        if not authorization and certificate is not None:
            return self._certified(certificate)
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
            raise _unauthenticated("no bearer token")
        if owner_token.is_one(token):
            return self._owner(token)
        verifier = self._providers.get(oidc.issuer_of(token))
        if verifier is not None:
            return self._signed_in(verifier, token)
        if self._reviewer is None:
            raise _unauthenticated("this broker is in no cluster and knows no such issuer")
        name = self._reviewer.review(token)
        if name is None:
            raise _unauthenticated(f"not a valid ServiceAccount token of audience {AUDIENCE_BROKER}")
        return self._service_account(name)

    def _owner(self, token: str) -> Caller:
        try:
            shown = owner_token.verify(token, self._owners, self._clock.now(), self._spki_sha256)
        except ReceiptError as error:
            raise _unauthenticated(f"{error.reason}: {error.message}") from error
        except WireError as error:
            raise BrokerError(
                BrokerReason.CREDENTIAL_FOR_ANOTHER_BROKER,
                "the owner's token is for another broker, or names none",
                "make it for this broker, by the pin that `chrysalis keys pin` prints; older versions' tools name no broker: update them",
                error.message,
            ) from error
        owner = shown.owner.hex()
        once = Once(hashlib.sha256(b"chrysalis/v1/owner-token\0" + shown.owner + shown.jti.encode()).hexdigest(), shown.until)
        tenant = self._tenants.of(owner)
        return Caller(
            name=f"owner {owner}",
            owner=owner,
            readable=frozenset({owner}),
            changeable=frozenset({owner}),
            token=once,
            tenant="" if tenant is None else tenant.name,
        )

    def _signed_in(self, verifier: OidcVerifier, token: str) -> Caller:
        claims = verifier.verify(token)
        issuer = verifier.provider.issuer
        grants = [
            (tenant, administrator.role)
            for tenant in self._tenants.all
            for administrator in tenant.administrators.oidc
            if administrator.issuer == issuer and oidc.matches(claims, administrator.claims)
        ]
        return _administrator(f"{str(claims['sub'])[:200]} of {issuer[:200]}", grants)

    def _certified(self, certificate: bytes) -> Caller:
        if self._certificates is None:
            raise _unauthenticated("this broker takes no client certificates")
        name, fitting = self._certificates.identify(certificate)
        return _administrator(name, [(tenant, administrator.role) for tenant, administrator in fitting])

    def _service_account(self, name: str) -> Caller:
        if name in self._readers:
            return Caller(name=name, everything=True)
        grants = [
            (tenant, administrator.role)
            for tenant in self._tenants.all
            for administrator in tenant.administrators.service_accounts
            if SERVICE_ACCOUNT_PREFIX + administrator.name == name
        ]
        namespaces = frozenset(namespace for tenant, _ in grants for namespace in tenant.namespaces)
        return _administrator(name[:320], grants, namespaces)


def _administrator(name: str, grants: list[tuple[Tenant, Role]], namespaces: frozenset[str] | None = None) -> Caller:
    if not grants:
        raise BrokerError(
            BrokerReason.CALLER_NOT_ALLOWED,
            f"{name[:320]} may not ask this broker",
            "list it among a tenant's administrators in the broker's settings",
        )
    return Caller(
        name=name,
        readable=frozenset(owner for tenant, _ in grants for owner in tenant.owner_keys),
        changeable=frozenset(owner for tenant, role in grants if role is Role.OWNER_ADMIN for owner in tenant.owner_keys),
        namespaces=namespaces,
        tenant=",".join(sorted({tenant.name for tenant, _ in grants})),
    )


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
            answer = exchange(
                self._client(),
                "POST",
                f"{self._settings.url.rstrip('/')}/apis/authentication.k8s.io/v1/tokenreviews",
                clock=self._clock,
                seconds=REVIEW_SECONDS,
                max_bytes=MAX_REVIEW_BYTES,
                json=review,
                headers={"authorization": f"Bearer {own}"},
            )
            status: dict[str, Any] = json.loads(answer)["status"]
            if status.get("authenticated") is not True or AUDIENCE_BROKER not in status.get("audiences", []):
                return None
            return str(status["user"]["username"])
        except (OSError, httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
                self._http = httpx.Client(verify=verify, trust_env=False, transport=self._transport)
            return self._http


def _unauthenticated(detail: str) -> BrokerError:
    return BrokerError(
        BrokerReason.CALLER_UNAUTHENTICATED,
        "only owners, administrators of a tenant and listed ServiceAccounts may ask",
        f"send as bearer a token signed by an owner's key, one of a listed OpenID Connect issuer or a ServiceAccount's of audience"
        f" {AUDIENCE_BROKER}; or come with a client certificate",
        detail,
    )
