"""A worker that signs receipts, a ledger, and a chain that behaves like the contract: factories for the settler's tests."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pytoniq_core import Cell, begin_cell

from chrysalis.api.account import AllowedClient
from chrysalis.chain import contract
from chrysalis.chain.proof import Account, Head
from chrysalis.chain.reasons import ChainError, ChainReason
from chrysalis.chain.signer import SeedSigner
from chrysalis.clock import ManualClock, unix
from chrysalis.receipts import chain, jws, pricing, worker_id
from chrysalis.receipts.objects import Offer, PriceList, Receipt, ReceiptKeyCertificate, Status, Ticket, Use
from chrysalis.settlement.store import Appended, Ledger

GLOBAL_ID = -3
ADDRESS = "0:" + "c0" * 32
SET = f"{GLOBAL_ID}:{ADDRESS}"
DIGEST = "sha256:" + "d1" * 32
HASH = "ab" * 32
FEE_BPS = 500
WALLET = "0:" + "aa" * 32
OTHER_WALLET = "0:" + "bb" * 32


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


class FakeWorker:
    """Signs offers and receipts like a worker; every part of a receipt can be overridden."""

    def __init__(self, now: int, wallet: str = WALLET, *, set_name: str = SET) -> None:
        self.key, self.now, self.wallet, self.set_name = Ed25519PrivateKey.generate(), now, wallet, set_name
        self.wrk = worker_id(public(self.key))
        self.head = chain.Head.start(self.wrk)
        self.prices = PriceList(prompt=2_000_000, job=5_000_000)
        self.offer = Offer(
            set=set_name, wrk=self.wrk, model="m", digest=DIGEST, prices=self.prices, address="", sni="", iat=now, exp=now + 86_400
        ).sign(self.key)

    def certificate(self, ear: Ed25519PrivateKey, reservation: bytes, **changes: object) -> str:
        members = {
            "receipt_key": public(self.key).hex(),
            "set": self.set_name,
            "wallet": self.wallet,
            "reservation_keys": [reservation.hex()],
            "result_id": "r",
            "nbf": self.now,
            "exp": self.now + 3600,
        } | changes
        return ReceiptKeyCertificate.model_validate(members).sign(ear)

    def ticket(self, client: Ed25519PrivateKey, **changes: object) -> str:
        members = {
            "set": self.set_name,
            "wrk": self.wrk,
            "offer": jws.identity(self.offer),
            "exp": self.now + 300,
            "nonce": jws.b64u(secrets.token_bytes(16)),
            "digest": DIGEST,
            "max": 1_000_000,
            "req": HASH,
        } | changes
        return Ticket.model_validate(members).sign(client)

    def receipt(
        self, client: Ed25519PrivateKey, *, prompt: int = 10, ticket: str | None = None, advance: bool = True, **changes: object
    ) -> str:
        use = Use(prompt=prompt, job=1)
        members = {
            "set": self.set_name,
            "wrk": self.wrk,
            "seq": self.head.seq + 1,
            "prev": self.head.hash,
            "offer": jws.identity(self.offer),
            "ticket": ticket if ticket is not None else self.ticket(client),
            "use": use,
            "amt": pricing.amount(use, self.prices, 1_000_000),
            "status": Status.DONE,
            "rsp": HASH,
            "t": self.now,
        } | changes
        receipt = Receipt.model_validate(members)
        token = receipt.sign(self.key)
        if advance:
            self.head = chain.Head(self.wrk, receipt.seq, jws.identity(token))
        return token


@dataclass
class Bench:
    """A ledger, its keys and one registered worker."""

    ledger: Ledger
    path: Path
    clock: ManualClock
    ear: Ed25519PrivateKey
    reservation: SeedSigner
    client: Ed25519PrivateKey
    worker: FakeWorker

    @property
    def now(self) -> int:
        return unix(self.clock.now())

    def register(self, worker: FakeWorker, name: str = "minilm") -> None:
        token = worker.certificate(self.ear, self.reservation.public_key)
        self.ledger.register(ReceiptKeyCertificate.parse(token, public(self.ear)), token, name, self.now)

    def append(self, *tokens: str, worker: FakeWorker | None = None) -> Appended:
        worker = worker or self.worker
        return self.ledger.append(worker.wrk, tokens, [worker.offer], self.now)

    def jobs(self, count: int, worker: FakeWorker | None = None) -> None:
        worker = worker or self.worker
        appended = self.append(*(worker.receipt(self.client) for _ in range(count)), worker=worker)
        assert (appended.new, appended.stopped, appended.refused) == (count, None, {})

    def worker_for(self, wallet: str) -> FakeWorker:
        worker = FakeWorker(self.now, wallet)
        self.register(worker)
        return worker

    def listed(self, cap: int = 10**9) -> list[AllowedClient]:
        return [AllowedClient(key=public(self.client).hex(), daily_cap_nanoton=str(cap))]


@pytest.fixture
def bench(tmp_path: Path, clock: ManualClock) -> Bench:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path)
    ledger.bind(SET, FEE_BPS)
    made = Bench(
        ledger=ledger,
        path=path,
        clock=clock,
        ear=Ed25519PrivateKey.generate(),
        reservation=SeedSigner(secrets.token_bytes(32)),
        client=Ed25519PrivateKey.generate(),
        worker=FakeWorker(unix(clock.now())),
    )
    ledger.set_clients(made.listed(), made.now)
    made.register(made.worker)
    return made


class FakeChain:
    """A ChainClient over one contract that applies commits by the contract's own rules (contracts/settlement_root.tolk).

    `drop` loses sent messages, `hold` keeps them for `include`; every accepted body is in `accepted`.
    """

    def __init__(self, signer: bytes, clock: ManualClock, *, delay: int = 5, cap: int = 10**12, balance: int = 10**12) -> None:
        policy = contract.Policy(
            global_id=GLOBAL_ID,
            owner="0:" + "0e" * 32,
            fee_bps=FEE_BPS,
            delay_seconds=delay,
            min_interval_seconds=delay,
            per_epoch_cap_nanoton=cap,
        )
        self.state = contract.parse_state(contract.initial_data(policy, signer))
        self.clock, self.balance = clock, balance
        self.drop = self.hold = self.unreachable = False
        self.sent: list[bytes] = []
        self.held: list[Cell] = []
        self.accepted: list[bytes] = []
        self.refused: list[int] = []

    @property
    def now(self) -> int:
        return unix(self.clock.now())

    async def head(self) -> Head:
        return Head(seqno=1, root_hash=bytes(32), file_hash=bytes(32), gen_utime=self.now, global_id=GLOBAL_ID)

    async def account(self, address: str) -> Account:
        assert address == ADDRESS
        if self.unreachable:
            raise ChainError(ChainReason.LITESERVERS_UNREACHABLE, "down", "wait")
        return Account(
            address=address,
            status="active",
            balance_nanoton=self.balance,
            code=contract.code(),
            data=data_cell(self.state),
            last_lt=1,
            head=await self.head(),
            servers=1,
        )

    async def send_external(self, address: str, body: Cell, state_init: object = None) -> int:
        assert address == ADDRESS
        self.sent.append(body.to_boc())
        if self.drop:
            return 1
        if self.hold:
            self.held.append(body)
            return 1
        code = self.apply(body)
        if code:
            self.refused.append(code)
            error = ChainError(ChainReason.MESSAGE_REFUSED, f"exit code {code}", "read the state")
            error.exit_code = code
            raise error
        return 1

    async def close(self) -> None: ...

    def include(self) -> None:
        """Apply what was held, each once, as a late block would; refusals are silent."""
        for body in self.held:
            self.apply(body)
        self.held = []

    def apply(self, body: Cell) -> int:
        """The contract's checks in its order; 0 or the exit code."""
        st = self.state
        signature, commit = contract.Commit.from_signed_body(body)
        try:
            Ed25519PublicKey.from_public_bytes(st.signer_key).verify(signature, commit.hash)
        except InvalidSignature:
            return 101
        content, policy = commit.content, st.policy
        active = st.pending if st.pending is not None and st.due(self.now) else st.active
        rise = content.earned_nanoton + content.fees_nanoton - active.earned_nanoton - active.fees_nanoton
        checks = [
            (109, st.paused),
            (104, commit.contract != contract.account_id(ADDRESS) or commit.global_id != GLOBAL_ID),
            (102, not self.now < commit.valid_until <= self.now + 600),
            (103, content.epoch != st.epoch + 1),
            (119, content.prev != st.last_hash),
            (112, st.pending is not None and not st.due(self.now)),
            (111, self.now < st.last_at + policy.min_interval_seconds),
            (116, content.earned_nanoton < active.earned_nanoton or content.fees_nanoton < active.fees_nanoton),
            (105, rise > policy.per_epoch_cap_nanoton),
            (115, content.fees_nanoton * 10_000 > (content.earned_nanoton + content.fees_nanoton) * policy.fee_bps),
            (106, self.balance < content.earned_nanoton - st.paid_nanoton + st.reserve_nanoton),
        ]
        for code, bad in checks:
            if bad:
                return code
        root = contract.Root(root=active.root, earned_nanoton=active.earned_nanoton, fees_nanoton=active.fees_nanoton)
        self.state = replace(
            st,
            epoch=content.epoch,
            last_hash=content.hash,
            last_at=self.now,
            prev_root=st.active.root if active is st.pending else st.prev_root,
            active=root,
            pending=contract.Pending(
                root=content.root, earned_nanoton=content.earned_nanoton, fees_nanoton=content.fees_nanoton, at=self.now
            ),
        )
        self.accepted.append(body.to_boc())
        return 0

    def cancel(self) -> None:
        """The owner drops the pending root; epoch and lastHash stay."""
        self.state = replace(self.state, pending=None)


def data_cell(st: contract.State) -> Cell:
    """The storage cell of a state (the TL-B of chain.contract)."""
    pending = None
    if st.pending is not None:
        p = st.pending
        pending = begin_cell().store_bytes(p.root).store_coins(p.earned_nanoton).store_coins(p.fees_nanoton).store_uint(p.at, 32).end_cell()
    roots = (
        begin_cell()
        .store_bytes(st.prev_root)
        .store_bytes(st.active.root)
        .store_coins(st.active.earned_nanoton)
        .store_coins(st.active.fees_nanoton)
        .store_maybe_ref(pending)
        .end_cell()
    )
    return (
        begin_cell()
        .store_bit_int(int(st.paused))
        .store_uint(st.epoch, 64)
        .store_bytes(st.last_hash)
        .store_bytes(st.signer_key)
        .store_uint(st.last_at, 32)
        .store_uint(st.entries, 32)
        .store_coins(st.paid_nanoton)
        .store_coins(st.fees_paid_nanoton)
        .store_maybe_ref(None)
        .store_maybe_ref(st.claims)
        .store_ref(roots)
        .store_ref(st.policy.cell())
        .end_cell()
    )


@pytest.fixture
def signer() -> SeedSigner:
    return SeedSigner(secrets.token_bytes(32))


@pytest.fixture
def make_chain(signer: SeedSigner, clock: ManualClock) -> Callable[..., FakeChain]:
    return lambda **options: FakeChain(signer.public_key, clock, **options)


@pytest.fixture
def make_worker(clock: ManualClock) -> Callable[..., FakeWorker]:
    return lambda **options: FakeWorker(unix(clock.now()), **options)
