"""Odd input on every route, over either kind of database: an answer of ours, never a failure of the broker's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy
from chrysalis.broker import limits, openapi, watch
from chrysalis.broker.app import create_app
from chrysalis.broker.main import assemble
from chrysalis.broker.messages import OWN_AFFAIRS, problem
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.settings import Settings
from chrysalis.clock import ManualClock
from chrysalis.wire.broker import ClaimedIdentity
from e2e.simtd.pki import SimulatedPlatform
from tests.broker.conftest import READER, FakePccs, FakeReviewer, Tenant, World

pytestmark = pytest.mark.slow

Reasons = Callable[[Any], list[str]]
ODD = ["%00", "a%00b", "%ff", "%ed%a0%80", "..%2f..", "%0d%0aX:1", "%F0%9F%A6%8B", "'%22;--", "a" * 600]


@pytest.fixture
def either(database_url: str, tmp_path: Path, clock: ManualClock, platform: SimulatedPlatform) -> World:
    """The whole broker over either kind of database."""
    acme, rival = Tenant("acme"), Tenant("rival")
    pccs = FakePccs(platform, clock)
    document: dict[str, Any] = {
        "stateDir": tmp_path / "state",
        "placement": "Development",
        "tenants": [{"name": tenant.name, "owners": [tenant.public.hex()]} for tenant in (acme, rival)],
        "kubernetes": {"serviceAccounts": [READER]},
        "limits": {"requestsPerSecond": 1_000_000, "callsPerSecond": 1_000_000, "unprovenAttestations": 10_000, "unprovenCalls": 10_000},
    }
    if database_url.startswith("postgresql"):
        document["database"] = {"url": database_url}
    deps = assemble(Settings.model_validate(document), clock=clock, fetcher=pccs, reviewer=FakeReviewer())
    world = World(deps, TestClient(create_app(deps)), clock, platform, pccs, acme, rival)
    for tenant in (acme, rival):
        assert world.put_policy(tenant).status_code == 201
        assert world.put_key(tenant).status_code == 201
    return world


@pytest.mark.parametrize("operation", openapi.OPERATIONS, ids=lambda operation: operation.name)
def test_odd_names_and_queries(either: World, operation: openapi.Operation) -> None:
    either.attest(either.domain(either.acme))
    names = {"key_id": "acme", "name": "workers", "result_id": "0" * 36}
    paths = [operation.path.format(**names | {name: odd}) for name in names for odd in ODD if "{" + name + "}" in operation.path]
    fields = [name for name, _ in operation.query]
    paths += [f"{operation.path.format(**names)}?{name}={odd}" for name in [*fields, "unknown"] for odd in ODD]
    for path in paths:
        if operation.name == "results" and ("watch=" in path):
            continue
        for token in (either.token(either.acme), "operator"):
            answer = either.http.request(operation.method, path, headers={"authorization": f"Bearer {token}"}, content=b"{}")
            assert answer.status_code < 500, (path, answer.text)


MEMBERS = ["pod_uid", "pod_name", "namespace", "worker_name", "node_name"]


@pytest.mark.parametrize("member", MEMBERS)
def test_what_a_worker_claims_holds_no_control_characters(either: World, reasons: Reasons, member: str) -> None:
    good = either.domain(either.acme).evidence()
    body = good.model_dump(mode="json", by_alias=True, exclude_none=True)
    name = ClaimedIdentity.model_fields[member].alias or member
    body["claimed"] = body["claimed"] | {name: "a\x00b"}
    assert reasons(either.http.post("/v1/attest", json=body)) == ["MessageMalformed"]
    assert either.post("/v1/attest", good).status_code == 200  # the twin


def test_a_result_of_an_odd_name(either: World, reasons: Reasons) -> None:
    for odd in ("\x00", "a\x00b", "\x7f", "\U0001f98b"):
        assert reasons(either.release("acme", odd)) == ["ResultUnknown"]


class Unreachable:
    """A key service that does not answer, and says where it should be."""

    def decrypt(self, *_: object) -> bytes:
        raise BrokerError(BrokerReason.KEY_SERVICE_UNAVAILABLE, "it cannot be used now", "try again", "https://vault.internal:8200 refused")


def test_strangers_do_not_learn_where_the_brokers_services_are(world: Any, reasons: Reasons, caplog: pytest.LogCaptureFixture) -> None:
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    opens = world.deps.results._encryption
    world.deps.results._encryption = Unreachable()
    answer = world.release("acme", result)
    assert (answer.status_code, reasons(answer)) == (503, ["KeyServiceUnavailable"])
    assert "vault.internal" not in answer.text
    assert any(getattr(record, "error", "") == "https://vault.internal:8200 refused" for record in caplog.records)
    world.deps.results._encryption = opens
    # the twin: what is about the caller's own message is told
    odd = world.http.get("/v1/results?limit=x", headers={"authorization": f"Bearer {world.token(world.acme)}"})
    assert odd.json()["reasons"][0]["detail"]


def test_every_reason_about_the_brokers_own_affairs_is_withheld() -> None:
    for reason in BrokerReason:
        told = json.loads(problem(BrokerError(reason, "m", "r", "/etc/secret"), 500).body)["reasons"][0]["detail"]
        assert (told == "") == (reason in OWN_AFFAIRS)


@pytest.mark.parametrize("path", ["/v1/reference-values", f"/.well-known/attestation?nonce={'0' * 64}"])
def test_costly_answers_to_strangers_have_a_rate(world: Any, reasons: Reasons, path: str) -> None:
    def ask(host: str) -> int:
        world.http._transport.client = (host, 1)
        return int(world.http.get(path).status_code)

    usual = ask("198.51.100.1")
    assert usual in (200, 404)  # this broker is in no trust domain
    said = [ask(f"192.0.2.{number // limits.LARGE_ANSWERS}") for number in range(4 * limits.LARGE_ANSWERS)]
    assert said.count(429) == 2 * limits.LARGE_ANSWERS  # two addresses' worth for all of the /24
    assert ask("198.51.100.1") == usual  # the twin: another network
    world.clock.advance(1)
    assert ask("192.0.2.9") == usual


def test_one_results_key_is_not_asked_for_from_everywhere(world: Any, reasons: Reasons) -> None:
    first, second = (world.attest(world.domain(world.acme)).json()["resultId"] for _ in range(2))

    def ask(host: str, result: str) -> int:
        world.http._transport.client = (host, 1)
        return int(world.release("acme", result).status_code)

    said = [ask(f"2001:db8:0:{number}::1", first) for number in range(4 * limits.RELEASES)]
    assert said.count(200) == 2 * limits.RELEASES  # all of these /64s are of one /56
    assert ask("2001:db8:0:1::1", second) == 200  # another result
    assert ask("2a00:1450::1", first) == 200  # and the twin: from elsewhere


def test_one_tenants_watchers_leave_places_to_others(world: Any) -> None:
    watching = watch.Watching(world.deps.store)
    places = [watching.admit(f"sub-{number}", tenant="acme") for number in range(watch.MAX_WATCHERS_OF_A_TENANT)]
    with pytest.raises(BrokerError) as caught:
        watching.admit("another", tenant="acme")
    assert caught.value.reason == BrokerReason.TOO_MANY_WATCHERS
    watching.admit("rival", tenant="rival")
    for _ in range(2):
        places[0].give_back()
    watching.admit("another", tenant="acme")
    assert watching._tenants == {"acme": watch.MAX_WATCHERS_OF_A_TENANT, "rival": 1}


def test_one_owner_does_not_simulate_all_the_time(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = world.deps.simulation
    policy = SignedPolicy(name="workers", spec=AttestationPolicySpec.model_validate(world.policy(world.acme)))
    whole = simulation._simulate
    monkeypatch.setattr(simulation, "_simulate", lambda *given: (world.clock.advance(10), whole(*given))[1])
    acme, rival = world.acme.public.hex(), world.rival.public.hex()
    simulation.simulate(acme, policy)
    with pytest.raises(BrokerError) as caught:
        simulation.simulate(acme, policy)
    assert caught.value.reason == BrokerReason.BUSY
    simulation.simulate(rival, policy)  # the twin
    simulation.simulate(acme, policy)
    world.clock.advance(10)
    simulation.simulate(acme, policy)
