"""OpenID Connect tokens of administrators: verified here, with the provider's keys (JWKS, RFC 7517) fetched and kept.

What is required (RFC 9068 and OpenID Connect Core 3.1.3.7, as far as they concern a resource server): a listed algorithm that
fits the key, a signature by a key of the issuer, this issuer, this audience, a subject, iat and exp within the allowed skew
and lifetime.  What the token says about roles is the settings' business (chrysalis.broker.tenants), never the token's.
"""

from __future__ import annotations

import json
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import httpx
import jwt
from jwt.algorithms import AllowedPublicKeys
from pydantic import Field

from chrysalis.api.base import HttpUrl, Model
from chrysalis.broker.exchange import exchange
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import Clock, unix

Algorithm = Literal["RS256", "ES256", "EdDSA"]
KEY_TYPES: dict[str, tuple[str, str | None]] = {"RS256": ("RSA", None), "ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
"""The key type and curve that each algorithm needs; a key of another type is never tried."""
KINDS = frozenset({"jwt", "at+jwt"})
"""ID tokens and access tokens (RFC 9068) in `typ`; where it is absent, it is a JWT."""
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_KEYS = 64
FETCH_SECONDS = 5.0
FRESH_SECONDS = 600.0
STALE_SECONDS = 6 * 3600.0
"""For how long the last good keys serve while the provider cannot be reached."""
RETRY_SECONDS = 30.0
"""At most one fetch in this time, whatever unknown key ids strangers send."""
MAX_TOKEN_SECONDS = 24 * 3600


class OidcProvider(Model):
    """Whose tokens are believed.

    issuer: exactly as it stands in the tokens.  audience: which the tokens must name, for this broker alone.
    jwksUrl: where the keys are; absent: as ISSUER/.well-known/openid-configuration says.
    caFile: PEM of the authorities that the provider's certificate must chain to; absent: the system's.
    algorithms: those that are believed.  clockSkewSeconds: how far the provider's clock may be off.
    """

    issuer: HttpUrl
    audience: Annotated[str, Field(min_length=1, max_length=512)]
    jwks_url: HttpUrl | None = None
    ca_file: Path | None = None
    algorithms: Annotated[list[Algorithm], Field(min_length=1, max_length=3)] = ["RS256", "ES256", "EdDSA"]
    clock_skew_seconds: Annotated[int, Field(ge=0, le=300)] = 60


@dataclass
class _Keys:
    """A provider's keys as they were last fetched (monotonic seconds)."""

    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    fetched_at: float | None = None
    tried_at: float | None = None


class OidcVerifier:
    """Verifies the tokens of one provider.  Thread-safe; one fetch at a time."""

    def __init__(self, provider: OidcProvider, clock: Clock, transport: httpx.BaseTransport | None = None) -> None:
        for url in (provider.issuer, provider.jwks_url):
            if url is not None and not url.startswith("https://"):
                raise BrokerError(
                    BrokerReason.SETTINGS_INVALID,
                    f"{url} is not an https address",
                    "keys that come over plain HTTP prove nothing; use https",
                )
        self.provider = provider
        self._clock = clock
        self._transport = transport
        self._http: httpx.Client | None = None
        self._lock = threading.Lock()
        self._held = _Keys()

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a valid token.

        1. Its header names a listed algorithm and a key, and says of what kind the token is: a logout token, say, bears the same issuer,
        audience and subject, and admits nobody (RFC 8725, section 3.11; OpenID Connect Back-Channel Logout 1.0).  2. The key is one of the
        issuer's, of the type that the algorithm needs.  3. The signature holds.  4. Issuer, audience and subject.  5. Time: iat, nbf and
        exp within the skew, lifetime bounded.  Raises BrokerError: CallerUnauthenticated, CallerCheckUnavailable.
        """
        try:
            header = jwt.get_unverified_header(token)
            algorithm, kid = header.get("alg"), header.get("kid")  # 1
            if algorithm not in self.provider.algorithms or not isinstance(kid, str):
                raise _refused(f"algorithm {str(algorithm)[:16]!r} is not listed, or the header names no key")
            if str(header.get("typ", "JWT")).lower().removeprefix("application/") not in KINDS:
                raise _refused(f"a token of the kind {str(header['typ'])[:32]!r}")
            key = _public_key(str(algorithm), self._key(kid))  # 2
            claims: dict[str, Any] = jwt.decode(  # 3, 4
                token,
                key,
                algorithms=[str(algorithm)],
                audience=self.provider.audience,
                issuer=self.provider.issuer,
                options={"require": ["iss", "aud", "sub", "iat", "exp"], "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise _refused(f"{type(error).__name__}: {error}"[:512]) from error
        if "events" in claims:
            raise _refused("it tells of events (RFC 8417); it is nobody's credential")
        self._check_time(claims)  # 5
        return claims

    def _check_time(self, claims: dict[str, Any]) -> None:
        now, skew = unix(self._clock.now()), self.provider.clock_skew_seconds
        times = [claims["iat"], claims["exp"], claims.get("nbf", claims["iat"])]
        if any(isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 53 for value in times):
            raise _refused("iat, exp or nbf is not a number of seconds")
        issued, expires, not_before = times
        if not (max(issued, not_before) - skew <= now < expires + skew):
            raise _refused(f"valid from {max(issued, not_before)} to {expires}; it is {now}")
        if expires - issued > MAX_TOKEN_SECONDS:
            raise _refused(f"it lives {expires - issued} s; at most {MAX_TOKEN_SECONDS}")

    def _key(self, kid: str) -> dict[str, Any]:
        """The issuer's key of this id; fetched again where it is unknown or old, but not more often than RETRY_SECONDS."""
        with self._lock:
            held, now = self._held, self._clock.monotonic()
            fresh = held.fetched_at is not None and now - held.fetched_at < FRESH_SECONDS
            if not (fresh and kid in held.keys) and (held.tried_at is None or now - held.tried_at >= RETRY_SECONDS):
                held.tried_at = now
                try:
                    held.keys, held.fetched_at = self._fetch(), now
                except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                    if held.fetched_at is None or now - held.fetched_at >= STALE_SECONDS:
                        held.keys, held.fetched_at = {}, None
                        raise self._unavailable(f"{type(error).__name__}: {error}"[:512]) from error
            if held.fetched_at is None or now - held.fetched_at >= STALE_SECONDS:
                raise self._unavailable("the last fetch failed a moment ago")
            if kid not in held.keys:
                raise _refused("the issuer has no such key")
            return held.keys[kid]

    def _fetch(self) -> dict[str, dict[str, Any]]:
        url = self.provider.jwks_url
        if url is None:
            found = self._get(self.provider.issuer.rstrip("/") + "/.well-known/openid-configuration")
            url = found["jwks_uri"]
            if found.get("issuer") != self.provider.issuer or not isinstance(url, str) or urlsplit(url).scheme != "https":
                raise ValueError("the discovery document is another issuer's, or its keys are not served over https")
        keys = self._get(url)["keys"]
        if not isinstance(keys, list) or len(keys) > MAX_KEYS:
            raise ValueError(f"the key set is not a list of at most {MAX_KEYS} keys")
        usable = [key for key in keys if isinstance(key, dict) and isinstance(key.get("kid"), str) and key.get("use", "sig") == "sig"]
        if len({key["kid"] for key in usable}) != len(usable):
            raise ValueError("two keys have one id")
        return {key["kid"]: key for key in usable}

    def _get(self, url: str) -> dict[str, Any]:
        raw = exchange(self._client(), "GET", url, clock=self._clock, seconds=FETCH_SECONDS, max_bytes=MAX_DOCUMENT_BYTES)
        document = json.loads(raw)
        if not isinstance(document, dict):
            raise ValueError(f"{url} is not a JSON object")
        return document

    def _client(self) -> httpx.Client:
        if self._http is None:
            verify = ssl.create_default_context(cafile=str(self.provider.ca_file) if self.provider.ca_file else None)
            self._http = httpx.Client(verify=verify, trust_env=False, transport=self._transport)
        return self._http

    def _unavailable(self, detail: str) -> BrokerError:
        return BrokerError(
            BrokerReason.CALLER_CHECK_UNAVAILABLE,
            f"the keys of {self.provider.issuer} cannot be fetched",
            "check oidc.issuer or oidc.jwksUrl in the broker's settings, and the way there",
            detail,
        )


def issuer_of(token: str) -> str:
    """The issuer that an unverified token names; empty when it names none.  It only chooses who shall verify it."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return ""
    issuer = claims.get("iss", "")
    return issuer if isinstance(issuer, str) else ""


def matches(claims: dict[str, Any], required: dict[str, str]) -> bool:
    """Whether a token's claims have every required value; a list of strings has each of its members."""
    return bool(required) and all(_has(claims.get(name), value) for name, value in required.items())


def _has(found: Any, value: str) -> bool:
    if isinstance(found, list):
        return value in [member for member in found if isinstance(member, str)]
    return isinstance(found, str) and found == value


def _public_key(algorithm: str, key: dict[str, Any]) -> AllowedPublicKeys:
    kind, curve = KEY_TYPES[algorithm]
    if key.get("kty") != kind or (curve is not None and key.get("crv") != curve) or key.get("alg", algorithm) != algorithm:
        raise _refused("the key is not of the algorithm's type")
    public = {name: value for name, value in key.items() if name in ("kty", "crv", "x", "y", "n", "e", "kid")}  # never a private half
    loaded = jwt.PyJWK(public, algorithm=algorithm).key
    if kind == "RSA" and not MIN_RSA_BITS <= loaded.key_size <= MAX_RSA_BITS:
        raise _refused(f"an RSA key of {loaded.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are believed")
    result: AllowedPublicKeys = loaded
    return result


def _refused(detail: str) -> BrokerError:
    return BrokerError(
        BrokerReason.CALLER_UNAUTHENTICATED,
        "this is not a valid token of a listed OpenID Connect issuer",
        "sign in again, for the audience that the broker's settings name",
        detail,
    )
