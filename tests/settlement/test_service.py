"""Rounds over accounts, the status that they leave, and the HTTP edge."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api.status import AccountStatus
from chrysalis.chain.signer import SeedSigner
from chrysalis.receipts import jws
from chrysalis.receipts.objects import PartyToken
from chrysalis.receipts.records import Record
from chrysalis.settlement import app, cluster, settings
from chrysalis.settlement.committer import Committer
from chrysalis.settlement.lease import Lease, LeaseRecord
from chrysalis.settlement.metrics import Metrics
from chrysalis.settlement.reasons import SettlementError, SettlementReason
from chrysalis.settlement.service import Means, Service
from chrysalis.wire.broker import ClaimedIdentity, Keys, ResultView
from chrysalis.wire.worker import ReceiptPage

CONTRACT = "0:" + "c0" * 32
SET = f"-3:{CONTRACT}"


class Always:
    """A Lease object that nobody else wants."""

    async def read(self) -> LeaseRecord | None:
        return None

    async def write(self, *_: object) -> bool:
        return True


class World:
    """A service whose cluster, workers and chain are in memory."""

    def __init__(self, clock: Any, chain: Any, signer: SeedSigner, worker: Any, folder: Path) -> None:
        self.clock, self.chain, self.worker = clock, chain, worker
        self.client, self.ear = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.reservation = SeedSigner(secrets.token_bytes(32))
        self.tokens: list[str] = []
        self.statuses: list[dict[str, Any]] = []
        self.metrics = Metrics()
        self.spec: dict[str, Any] = {
            "funding": "OwnerFunded",
            "globalId": -3,
            "contract": CONTRACT,
            "liteservers": [{"host": "h", "port": 1, "key": "00" * 32}],
            "reservationKeys": [self.reservation.public_key.hex()],
            "feeBps": 500,
            "intervalSeconds": 1,
            "clients": [{"key": self.client.public_key().public_bytes_raw().hex(), "dailyCapNanoton": "100000"}],
        }
        self.conditions: list[dict[str, Any]] = []
        self.metadata = {"namespace": "pool", "name": "main"}
        lease = Lease(Always(), identity="a", duration_seconds=15, clock=clock)
        asyncio.run(lease.turn())
        self.service = Service(
            self,
            Means(
                state_dir=folder,
                signers=[signer],
                reservation=self.reservation,
                ear_key=self.ear.public_key().public_bytes_raw(),
                clock=clock,
                metrics=self.metrics,
                chain=lambda spec: chain,
                directory=lambda namespace: self,
                connect=self.connect,
                may_send=lease.held,
                valid_seconds=60,
                drain_seconds=60,
            ),
            lease,
            collect_seconds=1,
            lease_seconds=15,
        )
        self.lease = lease

    async def all(self) -> list[cluster.AccountObject]:
        item = {
            "metadata": {**self.metadata, "generation": 3},
            "spec": self.spec,
            "status": {"conditions": self.conditions},
        }
        return [cluster.account_of(item)]

    async def write_status(self, account: cluster.AccountObject, status: dict[str, Any]) -> None:
        AccountStatus.model_validate(status)
        self.conditions = status["conditions"]
        self.statuses.append(status)

    async def workers(self) -> list[Any]:
        result = ResultView(
            result_id="r",
            verdict="Accepted",
            claimed=ClaimedIdentity(pod_uid="u"),
            keys=Keys(tls_spki_sha256="5a" * 32, hpke="00" * 32, receipt=self.worker.key.public_key().public_bytes_raw().hex()),
            issued_at=self.clock.now(),
            receipt_certificate=self.worker.certificate(self.ear, self.reservation.public_key),
        )
        return cluster.match([result], {"u": ("10.0.0.7", "minilm")})

    async def connect(self, endpoint: str, *_: object) -> Any:
        assert endpoint == "https://10.0.0.7:8443"
        return self

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def receipts(self, after: int) -> ReceiptPage:
        return ReceiptPage(wrk=self.worker.wrk, receipts=self.tokens[after:], last=len(self.tokens), offers=[self.worker.offer])

    async def put_clients(self, clients: str) -> None: ...

    def jobs(self, count: int) -> None:
        self.tokens += [self.worker.receipt(self.client) for _ in range(count)]

    def rounds(self, count: int) -> dict[str, Any]:
        for _ in range(count):
            asyncio.run(self.service.round())
            self.clock.advance(3)
            asyncio.run(self.lease.turn())
        return self.statuses[-1]

    def get(self, path: str, token: str = "") -> httpx.Response:
        async def ask() -> httpx.Response:
            web = app.public_app(lambda: list(self.service.settlers.values()), self.clock)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://settler") as client:
                return await client.get(path, headers={"authorization": f"Bearer {token}"} if token else {})

        return asyncio.run(ask())

    def token(self, key: Any, aud: str = SET) -> str:
        now = int(self.clock.now().timestamp())
        return PartyToken(aud=aud, iat=now, exp=now + 60).sign(key)


@pytest.fixture
def world(clock: Any, make_chain: Any, signer: SeedSigner, make_worker: Any, tmp_path: Path) -> World:
    return World(clock, make_chain(), signer, make_worker(), tmp_path)


def condition(status: dict[str, Any], kind: str) -> tuple[str, str, str]:
    (found,) = [c for c in status["conditions"] if c["type"] == kind]
    return found["status"], found["reason"], found["message"]


def test_rounds_settle_and_the_status_tells_so(world: World) -> None:
    world.jobs(3)
    status = world.rounds(5)
    assert (status["epoch"], status["earnedNanoton"], status["feesNanoton"]) == (1, "72", "3")
    assert status["workers"] == [{"name": "minilm", "earnedNanoton": "72", "receipts": 3}]
    kind, reason, message = condition(status, "Settling")
    assert (kind, reason) == ("True", "Settled")
    assert "3 receipts" in message
    assert world.metrics.registry.get_sample_value("chrysalis_settlement_receipts_total", {"account": "pool/main"}) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reservationKeys": ["11" * 32]}, SettlementReason.ACCOUNT_INVALID),
        ({"feeBps": 499}, SettlementReason.CONTRACT_FOREIGN),
        ({"contract": None}, SettlementReason.ACCOUNT_INVALID),
        ({"unknown": 1}, SettlementReason.ACCOUNT_INVALID),
    ],
    ids=str,
)
def test_an_account_that_cannot_be_settled_says_why_and_recovers(world: World, change: dict[str, Any], reason: SettlementReason) -> None:
    good = dict(world.spec)
    world.spec = {**good, **change}
    assert condition(world.rounds(1), "Settling")[:2] == ("False", reason)
    if change != {"feeBps": 499}:  # the ledger is bound to its fee for ever
        world.spec = good
        assert condition(world.rounds(2), "Settling")[0] == "True"


def test_a_contract_is_settled_for_one_account_alone(world: World) -> None:
    """Another namespace's account that names the same contract would otherwise put its own clients on the list."""
    world.jobs(2)
    assert condition(world.rounds(2), "Settling")[0] == "True"
    mine, kid = list(world.spec["clients"]), jws.thumbprint(world.client.public_key().public_bytes_raw())
    thief = {"key": Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex(), "dailyCapNanoton": "100000"}
    for namespace, name in (("other", "main"), ("pool", "second")):
        world.spec["clients"], world.metadata = [thief], {"namespace": namespace, "name": name}
        assert condition(world.rounds(2), "Settling")[:2] == ("False", SettlementReason.LEDGER_FOREIGN)
    world.spec["clients"], world.metadata = mine, {"namespace": "pool", "name": "main"}
    assert condition(world.rounds(3), "Settling")[0] == "True"
    settler = world.service.settlers["pool", "main"]
    assert settler.ledger.kid_of_client(kid) is not None
    assert settler.ledger.kid_of_client(jws.thumbprint(bytes.fromhex(thief["key"]))) is None


def test_a_bug_at_one_account_stops_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise OverflowError("an amount out of range")

    with monkeypatch.context() as patch:
        patch.setattr(Committer, "turn", fail)
        assert condition(world.rounds(1), "Settling")[:2] == ("False", SettlementReason.INTERNAL_ERROR)
    assert condition(world.rounds(2), "Settling")[0] == "True"


def test_an_unreachable_chain_or_paused_contract_is_a_condition(world: World) -> None:
    world.chain.unreachable = True
    assert condition(world.rounds(1), "Settling")[:2] == ("False", "LiteserversUnreachable")
    world.chain.unreachable = False
    world.chain.state = replace(world.chain.state, paused=True)
    assert condition(world.rounds(1), "Ready")[:2] == ("False", "ContractPaused")


def test_without_the_lease_nothing_is_done(world: World, clock: Any) -> None:
    clock.advance(30)
    asyncio.run(world.service.round())
    assert world.statuses == []


def test_published_files_are_served_and_nothing_else(world: World) -> None:
    world.jobs(1)
    world.rounds(4)
    latest = world.get("/latest.json").json()
    assert (latest["epoch"], latest["set"]) == (1, SET)
    for prefix in ("", "/" + "c0" * 32):
        assert world.get(f"{prefix}/epochs/1/content.boc").status_code == 200
    for path in (
        "/epochs/1/ledger.sqlite",
        "/epochs/0/content.boc",
        "/epochs/2/content.boc",
        "/epochs/1/..%2F..%2Flatest.json",
        "/aa/latest.json",
    ):
        assert world.get(path).status_code == 404


def test_receipts_go_to_their_own_parties_only(world: World) -> None:
    world.jobs(2)
    world.rounds(1)
    mine = world.get("/v1/receipts?limit=1", world.token(world.client)).json()
    assert (len(mine["lines"]), mine["more"], mine["next"]) == (1, True, 1)
    Record.from_line(mine["lines"][0])
    owner = world.get("/v1/receipts", world.token(world.reservation)).json()
    assert (len(owner["lines"]), owner["more"]) == (2, False)
    stranger = Ed25519PrivateKey.generate()
    assert world.get("/v1/receipts", world.token(stranger)).status_code == 403
    assert world.get("/v1/receipts", world.token(world.client, aud="-3:0:" + "00" * 32)).status_code == 403
    assert world.get("/v1/receipts").status_code == 401
    old = world.token(world.client)
    world.clock.advance(121)
    refused = world.get("/v1/receipts", old)
    assert (refused.status_code, refused.json()["reason"], refused.headers["content-type"]) == (
        401,
        "ObjectExpired",
        "application/problem+json",
    )


def test_health_and_metrics(world: World) -> None:
    async def ask(web: Any, path: str) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://settler") as client:
            return (await client.get(path)).status_code

    health = app.health_app(lambda: False, lambda: True)
    assert (asyncio.run(ask(health, "/healthz")), asyncio.run(ask(health, "/readyz"))) == (200, 503)
    assert asyncio.run(ask(app.metrics_app(world.metrics), "/metrics")) == 200


def test_settings_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    good = {
        "stateDir": "/var/lib/chrysalis",
        "settlementKeyFiles": ["/k/settlement"],
        "reservationKeyFile": "/k/reservation",
        "broker": {"url": "https://broker:8443", "spkiSha256": "00" * 32, "earKey": "00" * 32, "tokenFile": "/t"},
    }
    file = tmp_path / "settlement.yaml"
    file.write_text(json.dumps(good))
    assert settings.load(file).port == 8444
    for bad in ({**good, "unknown": 1}, {k: v for k, v in good.items() if k != "broker"}, {**good, "validSeconds": 600}):
        file.write_text(json.dumps(bad))
        with pytest.raises(SettlementError) as caught:
            settings.load(file)
        assert caught.value.reason == SettlementReason.SETTINGS_INVALID
