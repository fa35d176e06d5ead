"""A worker's world in one process: a simulated platform, a broker that signs what the agent must check, a model without Triton."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api.initdata import AllowedContainer, Initdata, MeasuredIdentity, mrconfigid, to_annotation
from chrysalis.api.policy import Placement
from chrysalis.api.worker import BrokerPin, Isolation, ModelPackage, ModelSpec, Prices
from chrysalis.clock import ManualClock, unix
from chrysalis.receipts import jws, salted
from chrysalis.receipts.objects import ClientList, ListedClient, ReceiptKeyCertificate, SettlerToken, Ticket
from chrysalis.sealing import hpke
from chrysalis.wire.broker import AttestResult, Challenge, Evidence, Problem, ResultStanding, WrappedKey
from chrysalis.wire.ear import Appraisal, Confirmation, Ear, EarResult, VerifierId
from chrysalis.wire.ear_keys import CertifiedKey
from chrysalis.wire.reasons import Refused, WireError, WireReason
from chrysalis_worker import keys
from chrysalis_worker.evidence import RawEvidence
from chrysalis_worker.gateway import Gateway
from chrysalis_worker.inference import Embedded
from chrysalis_worker.metering import Meter
from chrysalis_worker.metrics import Metrics
from chrysalis_worker.offers import OfferBook
from chrysalis_worker.paths import PodPaths
from chrysalis_worker.podinfo import PodInfo
from chrysalis_worker.podinfo import read as read_podinfo
from chrysalis_worker.reasons import WorkerError, WorkerReason
from chrysalis_worker.receiptlog import ReceiptLog
from chrysalis_worker.session import Appraisable, Attester, Session
from chrysalis_worker.state import WorkerState
from chrysalis_worker.tickets import TicketBook
from e2e.simtd.pki import SimulatedPlatform
from tests.broker.conftest import brokers_end  # noqa: F401 - a fixture
from tests.worker.gateway_bench import run

SET = "-239:0:" + "ab" * 32
WALLET = "0:" + "cd" * 32
MODEL = "minilm"
CAP = 1_000_000
PRICES = Prices(prompt=2_000_000, job=5_000_000)  # 2 nanoton a token and 5 a job


@dataclass
class Source:
    """An evidence service; what it lies about can be set."""

    platform: SimulatedPlatform
    mrconfigid: bytes
    lie: Callable[[bytes], bytes] = lambda report_data: report_data
    quotes: int = 0

    async def evidence(self, report_data: bytes) -> RawEvidence:
        self.quotes += 1
        quote = self.platform.quote(self.lie(report_data), mrconfigid=self.mrconfigid)
        return RawEvidence(quote=quote, event_log=self.platform.event_log)


@dataclass
class FakeBroker:
    """Accepts everything unless told to refuse; signs as the real one does."""

    clock: ManualClock
    identity: MeasuredIdentity
    ear_key: Ed25519PrivateKey
    secret: str = "AGE-SECRET-KEY-1TEST"
    life: int = 600
    refusals: list[Problem] = field(default_factory=list)
    edit_ear: Callable[[Ear], Ear] = lambda ear: ear
    signer: CertifiedKey | None = None  # below the EAR key
    recalls: str = ""
    edit_certificate: Callable[[ReceiptKeyCertificate], ReceiptKeyCertificate] = lambda certificate: certificate
    attested: list[Evidence] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)
    """Why results have ended, by id."""
    released: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    away: bool = False

    async def challenge(self) -> Challenge:
        return Challenge(nonce=secrets.token_hex(32), expires_at=self.clock.now() + timedelta(minutes=5))

    async def attest(self, evidence: Evidence) -> AttestResult:
        if self.refusals:
            raise Refused(self.refusals.pop(0))
        self.attested.append(evidence)
        now, result_id = unix(self.clock.now()), f"0192-{len(self.attested):08d}"
        identity = self.identity
        ear = Ear(
            jti=result_id,
            iat=now,
            exp=now + self.life,
            nonce=evidence.nonce,
            verifier=VerifierId(developer="tests", build="1"),
            submods={"tdx": Appraisal(status="warning", vector={}, policy_ids=["p"])},
            cnf=Confirmation(spki_sha256=evidence.keys.tls_spki_sha256),
            keys=evidence.keys,
            result=EarResult(
                evidence_class="Simulated",
                placement=Placement.DEVELOPMENT,
                isolation=Isolation.POD_TD,
                tcb_status="UpToDate",
                measurement="m",
                limited_by="policy",
                policy_owner="11" * 32,
                policy_name="p",
                policy_version=1,
                key_id=identity.model.key_id,
                model_digest=identity.model.digest,
            ),
        )
        certificate = ReceiptKeyCertificate(
            receipt_key=evidence.keys.receipt,
            set=identity.set,
            wallet=identity.wallet,
            reservation_keys=identity.reservation_keys,
            result_id=result_id,
            nbf=now,
            exp=now + self.life,
        )
        return AttestResult(
            result_id=result_id,
            ear=self.edit_ear(ear).sign(self.signer or self.ear_key),
            receipt_certificate=self.edit_certificate(certificate).sign(self.ear_key),
            evidence_class="Simulated",
            tcb_status="UpToDate",
            expires_at=datetime.fromtimestamp(now + self.life, UTC),
            limited_by="policy",
            policy_name="p",
            policy_version=1,
            placement=Placement.DEVELOPMENT,
            collateral="{}",
            recalls=self.recalls,
        )

    async def release(self, key_id: str, result_id: str) -> WrappedKey:
        if self.refusals:
            raise Refused(self.refusals.pop(0))
        self.released.append(result_id)
        info = hpke.model_key_info(key_id, self.identity.model.digest, result_id)
        wrapped = hpke.wrap(bytes.fromhex(self.attested[-1].keys.hpke), self.secret.encode(), info)
        return WrappedKey(key_id=key_id, wrapped=base64.b64encode(wrapped).decode(), result_id=result_id)

    async def standing(self, result_id: str) -> ResultStanding:
        self.asked.append(result_id)
        if self.away:
            raise WireError(WireReason.SERVICE_UNREACHABLE, "no answer", "wait")
        reason = self.ended.get(result_id, "")
        # No broker wishes for 0; here it leaves the pace to the agent's own bound.
        return ResultStanding.model_construct(living=not reason, reason=reason, ask_again_seconds=0)


@dataclass
class FakeEngine:
    """Three tokens a text, and vectors that tell texts apart; fails on demand."""

    dimension: int = 4
    failure: WorkerError | None = None
    tokens_each: int = 3
    calls: int = 0
    gate: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    """A job has come."""

    async def load(self) -> None:
        if self.failure is not None:
            raise WorkerError(WorkerReason.TRITON_NOT_READY, "not ready")

    async def embed(self, texts: Sequence[str], seconds: float) -> Embedded:
        self.calls += 1
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        rows = [[float(b) / 255 for b in hashlib.sha256(t.encode()).digest()[: self.dimension]] for t in texts]
        return Embedded(np.array(rows, np.float32), self.tokens_each * len(texts))

    async def canary(self) -> None:
        if self.failure is not None:
            raise WorkerError(WorkerReason.CANARY_FAILED, "sick")


@dataclass
class World:
    """Everything of one worker; `gateway()` builds the application on it."""

    clock: ManualClock
    paths: PodPaths
    platform: SimulatedPlatform
    identity: MeasuredIdentity
    toml: bytes
    source: Source
    broker: FakeBroker
    reservation: Ed25519PrivateKey
    client: Ed25519PrivateKey
    engine: FakeEngine
    pod: PodInfo
    domain: keys.DomainKeys
    metrics: Metrics
    state: WorkerState
    suspicions: int = 0

    @property
    def attester(self) -> Attester:
        return Attester(pod=self.pod, domain=self.domain, broker=self.broker, source=self.source, clock=self.clock)

    async def attested(self) -> Session:
        """Attest and let the worker be ready."""
        session = await self.attester.attest()
        self.state.session = session
        self.state.canary_passes = True
        return session

    def build(self) -> Gateway:
        """The gateway with its books, as the agent wires it."""
        receipts = ReceiptLog(self.paths.receipts, self.domain.receipt, self.identity.set)
        offers = OfferBook(self.paths.receipts, self.domain, self.identity, self.clock)
        tickets = None
        if self.identity.set != "none":
            tickets = TicketBook(
                self.paths.receipts,
                set_name=self.identity.set,
                wrk=self.domain.wrk,
                model_digest=self.identity.model.digest,
                reservation_keys=[bytes.fromhex(k) for k in self.identity.reservation_keys],
                offers=offers,
                clock=self.clock,
            )
            tickets.restore(receipts.restored)

        async def fresh(session: Session, nonce: bytes) -> Appraisable:
            return await self.attester.appraisable(nonce, session.tls)

        def suspect() -> None:
            self.suspicions += 1

        return Gateway(
            identity=self.identity,
            wrk=self.domain.wrk,
            state=self.state,
            engine=self.engine,
            meter=Meter(offers=offers, receipts=receipts, tickets=tickets, clock=self.clock, metrics=self.metrics),
            offers=offers,
            receipts=receipts,
            tickets=tickets,
            fresh=fresh,
            suspect=suspect,
            clock=self.clock,
            metrics=self.metrics,
        )

    def ticket(self, gateway: Gateway, body: bytes, salt: bytes, *, key: Ed25519PrivateKey | None = None, **changes: Any) -> str:
        """A good ticket for this body, with changes."""
        good: dict[str, Any] = {
            "set": self.identity.set,
            "wrk": self.domain.wrk,
            "offer": jws.identity(gateway.offers.current()),
            "exp": unix(self.clock.now()) + 300,
            "nonce": jws.b64u(secrets.token_bytes(16)),
            "digest": self.identity.model.digest,
            "max": 1000,
            "req": salted.request_hash(salt, body),
        }
        return Ticket(**(good | changes)).sign(key or self.client)

    def clients(self, *, key: Ed25519PrivateKey | None = None, **changes: Any) -> str:
        """A good list of clients, with changes."""
        now = unix(self.clock.now())
        listed = [ListedClient(key=self.client.public_key().public_bytes_raw().hex(), cap=CAP)]
        good: dict[str, Any] = {"set": self.identity.set, "keys": listed, "iat": now, "exp": now + 86_400}
        return ClientList(**(good | changes)).sign(key or self.reservation)

    def settler(self, *, key: Ed25519PrivateKey | None = None, **changes: Any) -> dict[str, str]:
        """The headers of a settler's request."""
        now = unix(self.clock.now())
        good: dict[str, Any] = {"aud": self.domain.wrk, "iat": now, "exp": now + 60}
        return {"authorization": "Bearer " + SettlerToken(**(good | changes)).sign(key or self.reservation)}


@pytest.fixture(scope="session")
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create()


@pytest.fixture
def make_world(tmp_path: Path, clock: ManualClock, platform: SimulatedPlatform) -> Callable[..., World]:
    """A factory of worlds; package is (url, sealed digest, size, model digest)."""

    def make(set_name: str = SET, package: tuple[str, str, int, str] | None = None, secret: str = "AGE-SECRET-KEY-1TEST") -> World:
        folder = tmp_path / secrets.token_hex(3)
        names = ("model", "triton", "receipts", "podinfo", "scratch")
        paths = PodPaths(**{name: folder / name for name in names})
        for name in names:
            (folder / name).mkdir(parents=True)
        ear_key, reservation = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        url, sealed, size, plain = package or ("http://127.0.0.1:9/p.age", "sha256:" + "22" * 32, 1, "sha256:" + "33" * 32)
        paid = set_name != "none"
        identity = MeasuredIdentity(
            template_version=1,
            isolation=Isolation.POD_TD,
            image_digest="sha256:" + "11" * 32,
            model=ModelSpec(name=MODEL, package=ModelPackage(url=url, digest=sealed, size_bytes=size), digest=plain, key_id="key"),
            policy_name="p",
            broker=BrokerPin(url="https://127.0.0.1:9", spki_sha256="44" * 32, ear_key=ear_key.public_key().public_bytes_raw().hex()),
            set=set_name,
            wallet=WALLET if paid else "",
            reservation_keys=[reservation.public_key().public_bytes_raw().hex()] if paid else [],
            prices=PRICES,
        )
        toml = Initdata(containers=[AllowedContainer(name="triton", image="i", args=[])], identity=identity).to_toml()
        (paths.podinfo / "initdata").write_text(to_annotation(toml))
        for name, value in {"uid": "u-1", "name": "pod-1", "namespace": "pool", "worker": "w"}.items():
            (paths.podinfo / name).write_text(value)
        metrics = Metrics()
        return World(
            clock=clock,
            paths=paths,
            platform=platform,
            identity=identity,
            toml=toml,
            source=Source(platform, mrconfigid(toml)),
            broker=FakeBroker(clock, identity, ear_key, secret),
            reservation=reservation,
            client=Ed25519PrivateKey.generate(),
            engine=FakeEngine(),
            pod=read_podinfo(paths.podinfo),
            domain=keys.domain_keys(paths.receipts),
            metrics=metrics,
            state=WorkerState(clock),
        )

    return make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


def connect(gateway: Gateway) -> httpx.AsyncClient:
    """A client of the application, without a socket between."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(gateway.app()), base_url="https://worker")


@pytest.fixture
def client_of() -> Callable[[Gateway], httpx.AsyncClient]:
    return connect


def request_body(**changes: Any) -> bytes:
    return json.dumps({"model": MODEL, "input": ["one", "two"]} | changes).encode()


@pytest.fixture
def body_of() -> Callable[..., bytes]:
    return request_body


@pytest.fixture
def paid(make_world: Any, client_of: Any) -> Any:
    """Plays a scenario with a Bench whose worker takes paid jobs alone."""
    return run(make_world, client_of)


@pytest.fixture
def free(make_world: Any, client_of: Any) -> Any:
    """Plays a scenario with a Bench whose worker has no settlement."""
    return run(make_world, client_of, "none")
