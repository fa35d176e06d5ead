"""OpenID Connect tokens: what is required of one, row by row, and how the provider's keys are fetched and kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from chrysalis.broker import oidc
from chrysalis.broker.callers import Callers
from chrysalis.broker.oidc import OidcProvider, OidcVerifier
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tenants import Tenant, Tenants
from chrysalis.clock import ManualClock

ISSUER = "https://login.example"
AUDIENCE = "chrysalis-broker"


class Provider:
    """An issuer that can be told to fail."""

    def __init__(self, clock: ManualClock, **settings: Any) -> None:
        self.clock = clock
        self.keys: dict[str, Any] = {
            "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }
        self.extra: list[Any] = []
        self.fetched = 0
        self.answer: Callable[[httpx.Request], httpx.Response] = self._answer
        provider = OidcProvider.model_validate({"issuer": ISSUER, "audience": AUDIENCE} | settings)
        self.verifier = OidcVerifier(provider, clock)
        self.verifier._http = httpx.Client(transport=httpx.MockTransport(self._handle))  # no TLS in a unit test

    def key_set(self) -> dict[str, Any]:
        return {"keys": [public(algorithm, key) for algorithm, key in self.keys.items()] + self.extra}

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.fetched += 1
        return self.answer(request)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/.well-known/openid-configuration":
            return httpx.Response(200, json={"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"})
        return httpx.Response(200, json=self.key_set())

    def token(self, algorithm: str = "ES256", *, header: dict[str, Any] | None = None, key: Any = None, **changes: Any) -> str:
        now = int(self.clock.now().timestamp())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300, "groups": ["staff", "admins"]} | changes
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(kept, key or self.keys[algorithm], algorithm=algorithm, headers={"kid": algorithm} | (header or {}))


def public(algorithm: str, key: Any, kid: str = "") -> dict[str, Any]:
    made: dict[str, Any] = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key()))
    return made | {"kid": kid or algorithm, "use": "sig"}


@pytest.fixture
def provider(clock: ManualClock) -> Provider:
    return Provider(clock)


def reason_of(verifier: OidcVerifier, token: str) -> BrokerReason:
    with pytest.raises(BrokerError) as caught:
        verifier.verify(token)
    return caught.value.reason


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_each_algorithm(provider: Provider, algorithm: str) -> None:
    assert provider.verifier.verify(provider.token(algorithm))["sub"] == "alice"
    only = Provider(provider.clock, algorithms=["EdDSA" if algorithm == "ES256" else "ES256"])
    assert reason_of(only.verifier, only.token(algorithm)) == BrokerReason.CALLER_UNAUTHENTICATED


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("another issuer", {"iss": "https://evil.example"}),
        ("a longer issuer", {"iss": ISSUER + "/"}),
        ("another audience", {"aud": "kubernetes"}),
        ("no audience", {"aud": None}),
        ("no subject", {"sub": None}),
        ("no exp", {"exp": None}),
        ("no iat", {"iat": None}),
        ("expired", {"iat": -400, "exp": -61}),
        ("not yet issued", {"iat": 61, "exp": 300}),
        ("not yet valid", {"nbf": 61}),
        ("lives too long", {"exp": 24 * 3600 + 1}),
        ("exp is text", {"exp": "soon"}),
        ("exp is true", {"exp": True}),
        ("exp is huge", {"exp": 1e300}),
        ("a logout token", {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
    ],
)
def test_claims(provider: Provider, name: str, changes: dict[str, Any]) -> None:
    now = int(provider.clock.now().timestamp())
    absolute = {key: value + now if key in ("iat", "exp", "nbf") and type(value) is int else value for key, value in changes.items()}
    assert provider.verifier.verify(provider.token())["sub"] == "alice"
    assert reason_of(provider.verifier, provider.token(**absolute)) == BrokerReason.CALLER_UNAUTHENTICATED


@pytest.mark.parametrize(("offsets"), [{"iat": -360, "exp": -59}, {"iat": 59, "exp": 300}, {"nbf": 59}])
def test_clocks_may_differ_a_little(provider: Provider, offsets: dict[str, int]) -> None:
    now = int(provider.clock.now().timestamp())
    assert provider.verifier.verify(provider.token(**{key: value + now for key, value in offsets.items()}))


def test_signatures_and_headers(provider: Provider) -> None:
    good = provider.token()
    head, claims, signature = good.split(".")
    stranger = ec.generate_private_key(ec.SECP256R1())
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"ES256"}').rstrip(b"=").decode()
    confused = jwt.encode({"iss": ISSUER, "aud": AUDIENCE}, "x" * 32, algorithm="HS256", headers={"kid": "RS256"})
    for token in (
        provider.token(key=stranger),
        f"{head}.{claims}.",
        f"{none}.{claims}.",
        f"{head}.{claims}.{signature[:-4]}AAAA",
        confused,
        provider.token(header={"kid": "RS256"}),  # a key of another type
        provider.token(header={"kid": "none"}),
        f"{none}..",
        "",
        "...",
        "a.b.c",
    ):
        assert reason_of(provider.verifier, token) == BrokerReason.CALLER_UNAUTHENTICATED
    assert provider.verifier.verify(good)


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        ("JWT", True),
        ("at+jwt", True),
        ("application/at+jwt", True),
        (None, True),
        ("logout+jwt", False),
        ("secevent+jwt", False),
        ("dpop+jwt", False),
        (7, False),
    ],
)
def test_kinds_of_tokens(provider: Provider, kind: Any, taken: bool) -> None:
    token = provider.token(header={"typ": kind})
    if taken:
        assert provider.verifier.verify(token)["sub"] == "alice"
    else:
        assert reason_of(provider.verifier, token) == BrokerReason.CALLER_UNAUTHENTICATED


def test_weak_and_foreign_keys_are_not_used(provider: Provider) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    p384 = ec.generate_private_key(ec.SECP384R1())
    foreign = public("ES256", provider.keys["ES256"], "foreign") | {"alg": "RS256"}
    encryption = public("ES256", provider.keys["ES256"], "encryption") | {"use": "enc"}
    provider.extra = [public("RS256", weak, "weak"), public("ES384", p384, "p384"), foreign, encryption, "junk", {"kid": 1}]
    assert reason_of(provider.verifier, provider.token("RS256", key=weak, header={"kid": "weak"})) == BrokerReason.CALLER_UNAUTHENTICATED
    for kid in ("p384", "foreign", "encryption"):
        assert reason_of(provider.verifier, provider.token(header={"kid": kid})) == BrokerReason.CALLER_UNAUTHENTICATED
    assert provider.verifier.verify(provider.token())


def test_keys_are_fetched_once_and_again_when_old(provider: Provider) -> None:
    for _ in range(3):
        provider.verifier.verify(provider.token())
    assert provider.fetched == 2  # discovery, keys
    provider.clock.advance(oidc.FRESH_SECONDS)
    provider.verifier.verify(provider.token())
    assert provider.fetched == 4


def test_a_new_key_is_found_and_unknown_ones_cost_no_fetch_each(provider: Provider) -> None:
    provider.verifier.verify(provider.token())
    provider.clock.advance(oidc.RETRY_SECONDS)
    new = ec.generate_private_key(ec.SECP256R1())
    provider.extra = [public("ES256", new, "new")]
    assert provider.verifier.verify(provider.token(key=new, header={"kid": "new"}))
    fetched = provider.fetched
    for number in range(20):
        assert reason_of(provider.verifier, provider.token(header={"kid": f"x{number}"})) == BrokerReason.CALLER_UNAUTHENTICATED
    assert provider.fetched == fetched


def failing(kind: str) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        if kind == "unreachable":
            raise httpx.ConnectError("no route")
        return {
            "500": httpx.Response(500),
            "redirect": httpx.Response(302, headers={"location": "https://evil.example"}),
            "large": httpx.Response(200, content=b" " * (oidc.MAX_DOCUMENT_BYTES + 1)),
            "not JSON": httpx.Response(200, content=b"<html>"),
            "a list": httpx.Response(200, json=[]),
            "deep": httpx.Response(200, content=b"[" * 100_000),
            "another issuer": httpx.Response(200, json={"issuer": "https://evil.example", "jwks_uri": f"{ISSUER}/keys"}),
            "plain keys": httpx.Response(200, json={"issuer": ISSUER, "jwks_uri": "http://login.example/keys"}),
            "no keys": httpx.Response(200, json={"issuer": ISSUER}),
        }[kind]

    return answer


@pytest.mark.parametrize(
    "kind", ["unreachable", "500", "redirect", "large", "not JSON", "a list", "deep", "another issuer", "plain keys", "no keys"]
)
def test_a_provider_that_fails(provider: Provider, kind: str) -> None:
    good = provider.answer
    provider.answer = failing(kind)
    assert reason_of(provider.verifier, provider.token()) == BrokerReason.CALLER_CHECK_UNAVAILABLE
    fetched = provider.fetched
    assert reason_of(provider.verifier, provider.token()) == BrokerReason.CALLER_CHECK_UNAVAILABLE
    assert provider.fetched == fetched  # not asked again at once
    provider.clock.advance(oidc.RETRY_SECONDS)
    provider.answer = good
    assert provider.verifier.verify(provider.token())
    provider.answer = failing(kind)
    provider.clock.advance(oidc.FRESH_SECONDS)
    assert provider.verifier.verify(provider.token())  # the last good keys serve on
    provider.clock.advance(oidc.STALE_SECONDS)
    assert reason_of(provider.verifier, provider.token()) == BrokerReason.CALLER_CHECK_UNAVAILABLE


@pytest.mark.parametrize("settings", [{"issuer": "http://login.example"}, {"jwks_url": "http://login.example/keys"}])
def test_plain_http_is_refused_at_the_start(clock: ManualClock, settings: dict[str, str]) -> None:
    with pytest.raises(BrokerError) as caught:
        Provider(clock, **settings)
    assert caught.value.reason == BrokerReason.SETTINGS_INVALID


def test_too_many_keys_are_refused(provider: Provider) -> None:
    provider.extra = [public("ES256", provider.keys["ES256"], f"k{number}") for number in range(oidc.MAX_KEYS)]
    assert reason_of(provider.verifier, provider.token()) == BrokerReason.CALLER_CHECK_UNAVAILABLE


@pytest.mark.parametrize(
    ("claims", "required", "expected"),
    [
        ({"sub": "a"}, {"sub": "a"}, True),
        ({"sub": "a", "groups": ["x", "y"]}, {"sub": "a", "groups": "y"}, True),
        ({"sub": "a"}, {"sub": "b"}, False),
        ({"sub": "a"}, {"sub": "a", "groups": "y"}, False),
        ({"groups": "yx"}, {"groups": "y"}, False),
        ({"groups": ["yx"]}, {"groups": "y"}, False),
        ({"n": 1}, {"n": "1"}, False),
        ({"groups": {"y": 1}}, {"groups": "y"}, False),
        ({"sub": "a"}, {}, False),
    ],
)
def test_matching(claims: dict[str, Any], required: dict[str, str], expected: bool) -> None:
    assert oidc.matches(claims, required) is expected


def test_who_a_token_makes(provider: Provider) -> None:
    """Roles and tenants come from the settings; a token without a listed claim comes in as nobody."""

    def tenant(name: str, owner: str, *grants: dict[str, Any]) -> Tenant:
        return Tenant.model_validate({"name": name, "owners": [owner], "administrators": {"oidc": list(grants)}})

    reader = {"issuer": ISSUER, "claims": {"groups": "staff"}}
    admin = {"issuer": ISSUER, "claims": {"groups": "admins", "sub": "alice"}, "role": "OwnerAdmin"}
    elsewhere = {"issuer": "https://other.example", "claims": {"sub": "alice"}, "role": "OwnerAdmin"}
    tenants = Tenants([tenant("a", "aa" * 32, reader, elsewhere), tenant("b", "bb" * 32, admin), tenant("c", "cc" * 32, elsewhere)])
    callers = Callers(tenants=tenants, clock=provider.clock, broker_spki_sha256=bytes(32), providers=[provider.verifier])
    caller = callers.authenticate("Bearer " + provider.token())
    assert (caller.readable, caller.changeable) == ({"aa" * 32, "bb" * 32}, {"bb" * 32})
    assert (caller.owner, caller.everything, caller.namespaces) == ("", False, None)
    bob = callers.authenticate("Bearer " + provider.token(sub="bob"))
    assert (bob.readable, bob.changeable) == ({"aa" * 32}, frozenset())
    with pytest.raises(BrokerError) as caught:
        callers.authenticate("Bearer " + provider.token(groups=[]))
    assert caught.value.reason == BrokerReason.CALLER_NOT_ALLOWED
