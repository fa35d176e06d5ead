"""TokenReview: audience, cache, and failures that fail closed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.broker.callers import Callers, KubernetesReviewer
from chrysalis.broker.kubernetes_settings import KubernetesSettings
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tenants import Tenant, Tenants
from chrysalis.clock import ManualClock
from chrysalis.wire import owner_token
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD
from chrysalis.wire.owner_token import OwnerToken

PIN = bytes(range(32))
NAME = "system:serviceaccount:chrysalis-system:chrysalis-operator"
GOOD: dict[str, Any] = {"authenticated": True, "audiences": ["chrysalis-broker"], "user": {"username": NAME}}


class Api:
    """An API server that answers every review with one status."""

    def __init__(self, tmp_path: Path, clock: ManualClock) -> None:
        self.status: Any = GOOD
        self.code = 201
        self.asked: list[Any] = []
        token = tmp_path / "token"
        token.write_text("own\n")
        settings = KubernetesSettings(token_file=token)
        self.reviewer = KubernetesReviewer(settings, clock, httpx.MockTransport(self._handle))
        self.reviewer._http = httpx.Client(transport=httpx.MockTransport(self._handle))  # no CA file in a unit test

    def _handle(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/apis/authentication.k8s.io/v1/tokenreviews"
        assert request.headers["authorization"] == "Bearer own"
        self.asked.append(json.loads(request.content)["spec"])
        return httpx.Response(self.code, json={"status": self.status})


@pytest.fixture
def api(tmp_path: Path, clock: ManualClock) -> Api:
    return Api(tmp_path, clock)


def test_a_valid_token_is_remembered_for_a_minute(api: Api, clock: ManualClock) -> None:
    assert api.reviewer.review("t") == NAME
    assert api.reviewer.review("t") == NAME
    assert api.asked == [{"token": "t", "audiences": ["chrysalis-broker"]}]
    clock.advance(61)
    api.status = {"authenticated": False}
    assert api.reviewer.review("t") is None
    assert api.reviewer.review("t") is None
    assert len(api.asked) == 3  # a refusal is not remembered


@pytest.mark.parametrize(
    "status",
    [
        {"authenticated": False},
        {},
        {**GOOD, "audiences": ["kubernetes"]},
        {**GOOD, "audiences": []},
        {**GOOD, "authenticated": "yes"},
    ],
)
def test_invalid_tokens(api: Api, status: Any) -> None:
    api.status = status
    assert api.reviewer.review("t") is None


@pytest.mark.parametrize(("code", "status"), [(500, GOOD), (403, GOOD), (201, None), (201, []), (201, {**GOOD, "user": None})])
def test_failures_are_not_answers(api: Api, code: int, status: Any) -> None:
    api.code, api.status = code, status
    with pytest.raises(BrokerError) as caught:
        api.reviewer.review("t")
    assert caught.value.reason == BrokerReason.CALLER_CHECK_UNAVAILABLE
    assert caught.value.status == 503


def callers(clock: ManualClock, *owners: Ed25519PrivateKey) -> Callers:
    tenants = [Tenant(name=f"t{i}", owners=[o.public_key().public_bytes_raw().hex()]) for i, o in enumerate(owners)]
    return Callers(tenants=Tenants(tenants), clock=clock, broker_spki_sha256=PIN)


def test_an_owners_token(clock: ManualClock) -> None:
    owner = Ed25519PrivateKey.generate()
    good = owner_token.make(owner, clock.now(), PIN)
    caller = callers(clock, owner).authenticate(f"Bearer {good}")
    assert caller.owner == owner.public_key().public_bytes_raw().hex()
    assert caller.token is not None
    other = callers(clock, owner).authenticate(f"Bearer {owner_token.make(owner, clock.now(), PIN)}")
    assert other.token is not None
    assert other.token.name != caller.token.name
    with pytest.raises(BrokerError):
        callers(clock).authenticate(f"Bearer {good}")
    clock.advance(owner_token.LIFE_SECONDS + owner_token.LEEWAY_SECONDS)
    with pytest.raises(BrokerError):
        callers(clock, owner).authenticate(f"Bearer {good}")


ANOTHER = BrokerReason.CREDENTIAL_FOR_ANOTHER_BROKER
INVALID = BrokerReason.CALLER_UNAUTHENTICATED


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("another broker's", {"aud": owner_token.audience(bytes(32))}, ANOTHER),
        ("one of the form before: for brokers as such", {"aud": "chrysalis-broker", "jti": ""}, ANOTHER),
        ("for the same broker in other letters", {"aud": owner_token.audience(PIN).upper()}, ANOTHER),
        ("for nobody", {"aud": ""}, ANOTHER),
        ("without an id", {"jti": ""}, INVALID),
        ("an id of another form", {"jti": "A" * 32}, INVALID),
        ("a longer id", {"jti": "a" * 33}, INVALID),
        ("one that lives too long", {"exp": 601}, INVALID),
        ("one that has expired", {"iat": -400, "exp": -100}, INVALID),
        ("one from the future", {"iat": 100, "exp": 200}, INVALID),
    ],
)
def test_other_tokens_of_an_owner(clock: ManualClock, name: str, changes: dict[str, Any], reason: BrokerReason) -> None:
    owner = Ed25519PrivateKey.generate()
    now = int(clock.now().timestamp())

    def token(changes: dict[str, Any]) -> str:
        claims = {"aud": owner_token.audience(PIN), "iat": 0, "exp": 300, "jti": "a" * 32} | changes
        return OwnerToken(**claims | {name: now + claims[name] for name in ("iat", "exp")}).sign(owner)

    assert callers(clock, owner).authenticate(f"Bearer {token({})}").owner  # the twin
    with pytest.raises(BrokerError) as caught:
        callers(clock, owner).authenticate(f"Bearer {token(changes)}")
    assert (caught.value.reason, caught.value.status) == (reason, 401)
    assert caught.value.remedy


def test_a_token_of_a_stranger_or_with_another_signature(clock: ManualClock) -> None:
    owner, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    for token in (owner_token.make(stranger, clock.now(), PIN), owner_token.make(owner, clock.now(), PIN)[:-4] + "AAAA"):
        with pytest.raises(BrokerError) as caught:
            callers(clock, owner).authenticate(f"Bearer {token}")
        assert caught.value.reason == BrokerReason.CALLER_UNAUTHENTICATED


def test_an_owners_token_changes_one_thing(world: Any, reasons: Any) -> None:
    first, second = (world.attest(world.domain(world.acme)).json()["resultId"] for _ in range(2))
    token = world.token(world.acme)

    def revoke(result: str, token: str) -> Any:
        return world.http.post(f"/v1/results/{result}:revoke", headers={"authorization": f"Bearer {token}"})

    assert revoke(first, token).status_code == 200
    answer = revoke(second, token)
    assert (answer.status_code, reasons(answer)) == (401, ["CredentialReplayed"])
    envelope = world.acme.sign(PAYLOAD_KEY_RECORD, world.acme.record(version=2)).model_dump_json(by_alias=True)
    headers = {"authorization": f"Bearer {token}"}
    assert reasons(world.http.put("/v1/keys/acme", content=envelope, headers=headers)) == ["CredentialReplayed"]
    assert world.reading(f"/v1/results/{second}", token).json()["verdict"] == "Accepted"  # it still reads
    assert "revokedAt" not in world.reading(f"/v1/results/{second}", token).json()
    assert revoke(second, world.token(world.acme)).status_code == 200  # the twin: a new one
    # remembered for as long as any replica takes it, and no longer
    world.clock.advance(owner_token.LIFE_SECONDS + owner_token.LEEWAY_SECONDS - 1)
    assert reasons(revoke(second, token)) == ["CredentialReplayed"]
    world.clock.advance(1)
    assert reasons(revoke(second, token)) == ["CallerUnauthenticated"]


def test_a_token_for_this_broker_is_worth_nothing_at_another_one(world: Any, reasons: Any) -> None:
    shown = owner_token.make(world.acme.key, world.clock.now(), bytes(32))
    for _ in range(3):
        answer = world.reading("/v1/results", shown)
        assert (answer.status_code, reasons(answer)) == (401, ["CredentialForAnotherBroker"])
    assert world.reading("/v1/results", world.token(world.acme)).status_code == 200


class Reviewer:
    """Every token is the name of its account."""

    def review(self, token: str) -> str | None:
        return f"system:serviceaccount:{token}"


def test_service_accounts_of_a_tenant_see_its_namespaces_only(clock: ManualClock) -> None:
    grants = [{"name": "pool:admin", "role": "OwnerAdmin"}, {"name": "pool:reader"}]
    tenants = [
        Tenant.model_validate({"name": "a", "owners": ["aa" * 32], "namespaces": ["pool"], "administrators": {"serviceAccounts": grants}}),
        Tenant.model_validate({"name": "b", "owners": ["bb" * 32], "administrators": {"serviceAccounts": [{"name": "b:reader"}]}}),
    ]
    found = Callers(tenants=Tenants(tenants), clock=clock, broker_spki_sha256=PIN, readers=["system:operator"], reviewer=Reviewer())
    admin, reader, elsewhere = (found.authenticate(f"Bearer {name}") for name in ("pool:admin", "pool:reader", "b:reader"))
    assert (admin.readable, admin.changeable) == ({"aa" * 32}, {"aa" * 32})
    assert (reader.readable, reader.changeable) == ({"aa" * 32}, frozenset())
    assert admin.sees("aa" * 32, "pool")
    assert not admin.sees("aa" * 32, "other")  # a claim narrows what is shown,
    assert not admin.sees("bb" * 32, "pool")  # and never widens it
    assert not elsewhere.sees("bb" * 32, "pool")  # a tenant without namespaces has none to show
    operator = found.authenticate("Bearer system:operator")
    assert operator.sees("aa" * 32, "any")
    assert operator.sees("", "any")
    assert not operator.changes("aa" * 32)
    with pytest.raises(BrokerError) as caught:
        found.authenticate("Bearer pool:stranger")
    assert caught.value.reason == BrokerReason.CALLER_NOT_ALLOWED


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer " + "a" * 17_000, "Bearer a.b.c"])
def test_other_headers(clock: ManualClock, header: str) -> None:
    with pytest.raises(BrokerError) as caught:
        callers(clock).authenticate(header)
    assert caught.value.reason == BrokerReason.CALLER_UNAUTHENTICATED
