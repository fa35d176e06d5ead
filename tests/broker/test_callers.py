"""TokenReview: audience, cache, and failures that fail closed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.broker.callers import Callers, KubernetesReviewer
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.settings import KubernetesSettings
from chrysalis.broker.tenants import Tenant, Tenants
from chrysalis.clock import ManualClock
from chrysalis.wire import owner_token
from chrysalis.wire.owner_token import OwnerToken

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
    return Callers(tenants=Tenants(tenants), clock=clock)


def test_owners(clock: ManualClock) -> None:
    owner, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    now = int(clock.now().timestamp())
    good = owner_token.make(owner, clock.now())
    assert callers(clock, owner).authenticate(f"Bearer {good}").owner == owner.public_key().public_bytes_raw().hex()
    for token in (
        owner_token.make(stranger, clock.now()),
        OwnerToken(iat=now, exp=now + 3601).sign(owner),
        OwnerToken(iat=now - 400, exp=now - 100).sign(owner),
        OwnerToken(iat=now + 100, exp=now + 200).sign(owner),
        good[:-4] + "AAAA",
    ):
        with pytest.raises(BrokerError) as caught:
            callers(clock, owner).authenticate(f"Bearer {token}")
        assert caught.value.reason == BrokerReason.CALLER_UNAUTHENTICATED
    with pytest.raises(BrokerError):
        callers(clock).authenticate(f"Bearer {good}")


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
    found = Callers(tenants=Tenants(tenants), clock=clock, readers=["system:operator"], reviewer=Reviewer())
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
