"""The cells of the settlement contract, exactly as contracts/settlement_root.tolk reads and writes them.  Pure.

TL-B (settlement.md; golden bytes in docs/wire/settlement-cells.json, which the contract's tests check in the TVM too):

    commit#43524330 global_id:int32 contract:bits256 valid_until:uint32 content:^CommitContent = Commit;
    commit_content#43524331 epoch:uint64 prev:bits256 root:bits256 earned:Coins fees:Coins
      log:^[log_root:bits256 log_size:uint64] = CommitContent;
    signed_commit$_ signature:bits512 commit:^Commit = SignedCommit;                        // body of the external message

    claim#4352434c query_id:uint64 wallet:bits256 proof:^Cell = InMsg;                      // proof: Merkle proof cell
    top_up#43525455 query_id:uint64 = InMsg;
    set_paused#43525041 query_id:uint64 paused:Bool = InMsg;
    rotate#4352524f query_id:uint64 signer_key:bits256 = InMsg;
    cancel#4352434e query_id:uint64 = InMsg;
    withdraw_fees#43525746 query_id:uint64 amount:Coins = InMsg;
    request_surplus#43525251 query_id:uint64 amount:Coins = InMsg;                          // 0 drops a request
    withdraw_surplus#43525753 query_id:uint64 = InMsg;
    payout#43525059 query_id:uint64 epoch:uint64 = Payout;                                  // body of what a wallet receives

    policy$_ global_id:int32 owner:MsgAddressInt guardian:MsgAddress fee_bps:uint16 delay:uint32 min_interval:uint32
      per_epoch_cap:Coins funding:uint8 = Policy;
    root$_ root:bits256 earned:Coins fees:Coins = Root;
    pending$_ root:bits256 earned:Coins fees:Coins at:uint32 = Pending;
    roots$_ prev:bits256 active:Root pending:(Maybe ^Pending) = Roots;
    surplus$_ amount:Coins at:uint32 = Surplus;
    storage$_ paused:Bool epoch:uint64 last_hash:bits256 signer_key:bits256 last_at:uint32 entries:uint32 paid:Coins
      fees_paid:Coins surplus:(Maybe ^Surplus) claims:(HashmapE 256 Coins) roots:^Roots policy:^Policy = Storage;
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pytoniq_core.boc.address import Address
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.slice import Slice
from pytoniq_core.tlb.account import StateInit

from chrysalis.amounts import AmountError, amount
from chrysalis.api.account import Funding
from chrysalis.chain import compiled, dictionary
from chrysalis.chain.reasons import ChainError, ChainReason, malformed

OP_COMMIT = 0x43524330
OP_COMMIT_CONTENT = 0x43524331
OP_CLAIM = 0x4352434C
OP_TOP_UP = 0x43525455
OP_SET_PAUSED = 0x43525041
OP_ROTATE = 0x4352524F
OP_CANCEL = 0x4352434E
OP_WITHDRAW_FEES = 0x43525746
OP_REQUEST_SURPLUS = 0x43525251
OP_WITHDRAW_SURPLUS = 0x43525753
OP_PAYOUT = 0x43525059

RESERVE_NANOTON = 500_000_000
RESERVE_PER_ENTRY_NANOTON = 3_000_000
"""Solvency: balance >= owed + RESERVE + RESERVE_PER_ENTRY x entries, at each commit and withdrawal."""
CLAIM_VALUE_NANOTON = 50_000_000
"""What a claim's message must carry; what its gas and messages do not use comes back to the sender."""
MAX_VALID_SECONDS = 600
"""A commit's valid_until is at most this far ahead of the chain's time."""
SURPLUS_DELAY_SECONDS = 7 * 86400
ZERO_HASH = bytes(32)
MAX_BOC_BYTES = 4 * 1024 * 1024

EXIT_CODES: dict[int, str] = {
    101: "the signature is not by the signer key in the contract's state",
    102: "the commit has expired or is valid for more than 600 seconds",
    103: "the epoch is not the stored one plus one",
    104: "the commit is for another contract or chain",
    105: "the epoch's rise is over the cap of an epoch",
    106: "the balance does not cover what would be owed and the reserve",
    107: "the proof is not of the active or the previous root, or does not hold the wallet",
    108: "there is nothing to do: all is claimed, nothing is pending, or no withdrawal was requested",
    109: "the contract is paused",
    110: "the sender may not do that",
    111: "the minimum interval since the last commit has not passed",
    112: "the previous root is still pending",
    113: "the message carries too little value",
    114: "an amount is 2^63 or more",
    115: "the fees are over the pool's share",
    116: "earned or fees fell below the active root's",
    117: "the table of claims is full",
    118: "the timelock of the withdrawal has not passed",
    119: "prev is not the hash of the last commit's content",
    120: "more would be paid than the active root says was earned",
    0xFFFF: "the contract does not know this message",
}
"""What the contract's exit codes mean; the same list stands in the contract."""


def explain(exit_code: int | None) -> str:
    """What an exit code of the settlement contract means, for people."""
    if exit_code is None:
        return "no exit code was told"
    return EXIT_CODES.get(exit_code, f"exit code {exit_code}")


_FUNDING = {Funding.OWNER_FUNDED: 1, Funding.CLIENT_FUNDED: 2}
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a contract is bound to for its life; addresses are raw (0:<hex64>)."""

    global_id: int
    owner: str
    guardian: str | None = None
    fee_bps: int = 0
    delay_seconds: int = 10_800
    min_interval_seconds: int = 10_800
    per_epoch_cap_nanoton: int
    funding: Funding = Funding.OWNER_FUNDED

    def cell(self) -> Cell:
        """The Policy cell."""
        return (
            Builder()
            .store_int(self.global_id, 32)
            .store_address(Address(self.owner))
            .store_address(Address(self.guardian) if self.guardian else None)
            .store_uint(self.fee_bps, 16)
            .store_uint(self.delay_seconds, 32)
            .store_uint(self.min_interval_seconds, 32)
            .store_coins(amount(self.per_epoch_cap_nanoton))
            .store_uint(_FUNDING[self.funding], 8)
            .end_cell()
        )


@dataclass(frozen=True, kw_only=True)
class Root:
    """The root of an earned dictionary with its totals."""

    root: bytes = ZERO_HASH
    earned_nanoton: int = 0
    fees_nanoton: int = 0


@dataclass(frozen=True, kw_only=True)
class Pending(Root):
    """A committed root that is not active yet; at: the chain's time of its commit."""

    at: int


@dataclass(frozen=True, kw_only=True)
class CommitContent:
    """What an epoch says; its hash is the contract's lastHash, whatever the expiry of the commit around it."""

    epoch: int
    prev: bytes
    root: bytes
    earned_nanoton: int
    fees_nanoton: int
    log_root: bytes
    log_size: int

    def cell(self) -> Cell:
        """The CommitContent cell."""
        log = Builder().store_bytes(_hash(self.log_root)).store_uint(self.log_size, 64).end_cell()
        return (
            Builder()
            .store_uint(OP_COMMIT_CONTENT, 32)
            .store_uint(self.epoch, 64)
            .store_bytes(_hash(self.prev))
            .store_bytes(_hash(self.root))
            .store_coins(amount(self.earned_nanoton))
            .store_coins(amount(self.fees_nanoton))
            .store_ref(log)
            .end_cell()
        )

    @property
    def hash(self) -> bytes:
        """The contract's lastHash once this is committed."""
        return bytes(self.cell().hash)

    def to_boc(self) -> bytes:
        """The bytes of /epochs/N/content.boc."""
        return bytes(self.cell().to_boc())

    @classmethod
    def from_boc(cls, data: bytes) -> CommitContent:
        """Read content.boc; raises ChainError."""
        return cls.from_cell(read_boc(data, "the epoch's content"))

    @classmethod
    def from_cell(cls, cell: Cell) -> CommitContent:
        """Read a CommitContent cell; raises ChainError."""

        def read() -> CommitContent:
            s = cell.begin_parse()
            if s.load_uint(32) != OP_COMMIT_CONTENT:
                raise ValueError("another tag")
            epoch, prev, root = s.load_uint(64), s.load_bytes(32), s.load_bytes(32)
            earned, fees, log = amount(s.load_coins()), amount(s.load_coins()), s.load_ref().begin_parse()
            content = cls(
                epoch=epoch,
                prev=prev,
                root=root,
                earned_nanoton=earned,
                fees_nanoton=fees,
                log_root=log.load_bytes(32),
                log_size=log.load_uint(64),
            )
            _end(s)
            _end(log)
            return content

        return _reading("the epoch's content", read)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit for one contract on one chain, until valid_until (Unix seconds of the chain's time)."""

    global_id: int
    contract: bytes  # account id, 32 bytes
    valid_until: int
    content: CommitContent

    def cell(self) -> Cell:
        """The Commit cell; the settlement key signs its hash."""
        return (
            Builder()
            .store_uint(OP_COMMIT, 32)
            .store_int(self.global_id, 32)
            .store_bytes(_hash(self.contract))
            .store_uint(self.valid_until, 32)
            .store_ref(self.content.cell())
            .end_cell()
        )

    @property
    def hash(self) -> bytes:
        """What is signed."""
        return bytes(self.cell().hash)

    def signed_body(self, signature: bytes) -> Cell:
        """The body of the external message; signature: Ed25519, 64 bytes, over `hash`."""
        if len(signature) != 64:
            raise ValueError("a signature has 64 bytes")
        return Builder().store_bytes(signature).store_ref(self.cell()).end_cell()

    @classmethod
    def from_signed_body(cls, body: Cell) -> tuple[bytes, Commit]:
        """The signature and the commit of a body; raises ChainError.  Verifies nothing."""

        def read() -> tuple[bytes, Commit]:
            outer = body.begin_parse()
            signature, s = outer.load_bytes(64), outer.load_ref().begin_parse()
            _end(outer)
            if s.load_uint(32) != OP_COMMIT:
                raise ValueError("another tag")
            commit = cls(
                global_id=s.load_int(32),
                contract=s.load_bytes(32),
                valid_until=s.load_uint(32),
                content=CommitContent.from_cell(s.load_ref()),
            )
            _end(s)
            return signature, commit

        return _reading("the signed commit", read)


@dataclass(frozen=True, kw_only=True)
class State:
    """The contract's storage, as its data cell says.  All amounts in nanoton, all times in the chain's Unix seconds."""

    paused: bool
    epoch: int
    last_hash: bytes
    signer_key: bytes
    last_at: int
    entries: int
    paid_nanoton: int
    fees_paid_nanoton: int
    surplus_request: tuple[int, int] | None  # amount, and when it was requested
    claims: Cell | None  # dictionary: account id -> paid so far
    prev_root: bytes
    active: Root
    pending: Pending | None
    policy: Policy

    @property
    def owed_nanoton(self) -> int:
        """What wallets may still claim, the pending root counted (OwnerFunded)."""
        return max(self.active.earned_nanoton, self.pending.earned_nanoton if self.pending else 0) - self.paid_nanoton

    @property
    def reserve_nanoton(self) -> int:
        """What must stay for storage and gas beside what is owed."""
        return RESERVE_NANOTON + RESERVE_PER_ENTRY_NANOTON * self.entries

    def due(self, now: int) -> bool:
        """Whether the pending root becomes active with the next commit or claim at the chain's time `now`."""
        return self.pending is not None and self.pending.at + self.policy.delay_seconds <= now

    def claimable_roots(self, now: int) -> tuple[bytes, bytes]:
        """(active, prev) as a claim at the chain's time `now` would see them: a due pending root counts as active."""
        if self.pending is not None and self.due(now):
            return self.pending.root, self.active.root
        return self.active.root, self.prev_root

    def claimed_nanoton(self, wallet: bytes) -> int:
        """What a wallet (account id) has been paid so far."""
        value = dictionary.find(self.claims, wallet)
        return 0 if value is None else _coins(value, "the table of claims")


def initial_data(policy: Policy, signer_key: bytes) -> Cell:
    """The data cell of a new contract: epoch 0, nothing earned."""
    empty = Builder().store_bytes(ZERO_HASH).store_bytes(ZERO_HASH).store_coins(0).store_coins(0).store_maybe_ref(None).end_cell()
    return (
        Builder()
        .store_bit_int(0)
        .store_uint(0, 64)
        .store_bytes(ZERO_HASH)
        .store_bytes(_hash(signer_key))
        .store_uint(0, 32)
        .store_uint(0, 32)
        .store_coins(0)
        .store_coins(0)
        .store_maybe_ref(None)
        .store_maybe_ref(None)
        .store_ref(empty)
        .store_ref(policy.cell())
        .end_cell()
    )


def code() -> Cell:
    """The compiled contract that this version deploys and knows."""
    return Cell.one_from_boc(compiled.CODE_BOC)


def state_init(policy: Policy, signer_key: bytes) -> StateInit:
    """What a deployment message carries."""
    return StateInit(code=code(), data=initial_data(policy, signer_key))


def contract_address(policy: Policy, signer_key: bytes) -> str:
    """The raw address 0:<hex64> of the contract with this policy and first signer key."""
    return "0:" + bytes(state_init(policy, signer_key).serialize().hash).hex()


def parse_state(data: Cell) -> State:
    """The storage of a contract of this code; raises ChainError for cells of any other form."""

    def read() -> State:
        s = data.begin_parse()
        paused, epoch, last_hash, signer_key = bool(s.load_bit()), s.load_uint(64), s.load_bytes(32), s.load_bytes(32)
        last_at, entries, paid, fees_paid = s.load_uint(32), s.load_uint(32), amount(s.load_coins()), amount(s.load_coins())
        surplus, claims, roots, policy = s.load_maybe_ref(), s.load_maybe_ref(), s.load_ref().begin_parse(), s.load_ref()
        _end(s)
        prev, active = roots.load_bytes(32), _root(roots)
        pending_cell = roots.load_maybe_ref()
        _end(roots)
        pending = None
        if pending_cell is not None:
            p = pending_cell.begin_parse()
            waiting = _root(p)
            pending = Pending(
                root=waiting.root, earned_nanoton=waiting.earned_nanoton, fees_nanoton=waiting.fees_nanoton, at=p.load_uint(32)
            )
            _end(p)
        request = None
        if surplus is not None:
            w = surplus.begin_parse()
            request = (w.load_coins(), w.load_uint(32))
        return State(
            paused=paused,
            epoch=epoch,
            last_hash=last_hash,
            signer_key=signer_key,
            last_at=last_at,
            entries=entries,
            paid_nanoton=paid,
            fees_paid_nanoton=fees_paid,
            surplus_request=request,
            claims=claims,
            prev_root=prev,
            active=active,
            pending=pending,
            policy=_policy(policy.begin_parse()),
        )

    return _reading("the contract's state", read)


def earned_cell(leaves: Mapping[bytes, int]) -> Cell | None:
    """The earned dictionary: account id of a wallet (workchain 0, 32 bytes) -> cumulative net nanoton; no zero leaves.

    Raises AmountError for an amount that is none, or for 0.
    """
    if any(amount(value) == 0 for value in leaves.values()):
        raise AmountError("a leaf of the earned dictionary is never 0; leave the wallet out")
    return dictionary.build(leaves, lambda builder, value: builder.store_coins(value))


def earned_root(leaves: Mapping[bytes, int]) -> bytes:
    """The root hash that a commit carries; 32 zero bytes for no leaves."""
    return root_hash(earned_cell(leaves))


def root_hash(cell: Cell | None) -> bytes:
    """The hash of a dictionary's root cell; 32 zero bytes for the empty dictionary."""
    return ZERO_HASH if cell is None else bytes(cell.get_hash(0))


def earned_boc(cell: Cell | None) -> bytes:
    """The bytes of /epochs/N/earned.boc: a cell that holds the HashmapE."""
    return bytes(Builder().store_maybe_ref(cell).end_cell().to_boc())


def read_earned(data: bytes) -> Cell | None:
    """The root cell in earned.boc; raises ChainError.  Compare root_hash() with the root on chain before believing it."""

    def read() -> Cell | None:
        s = read_boc(data, "earned.boc").begin_parse()
        root: Cell | None = s.load_maybe_ref()
        _end(s)
        return root

    return _reading("earned.boc", read)


def earned_leaves(cell: Cell | None) -> dict[bytes, int]:
    """All leaves of an earned dictionary; raises ChainError for more than 15,000, a zero, or a malformed one."""
    leaves = {key: _coins(value, "a leaf") for key, value in dictionary.items(cell)}
    if any(value == 0 for value in leaves.values()):
        raise malformed("a leaf", "a leaf of 0 nanoton")
    return leaves


def earned_of(cell: Cell | None, wallet: bytes) -> int:
    """A wallet's cumulative net nanoton; 0 when it has no leaf; raises ChainError for a malformed dictionary."""
    value = dictionary.find(cell, wallet)
    return 0 if value is None else _coins(value, "a leaf")


def claim_body(wallet: bytes, earned: Cell | None, query_id: int = 0) -> Cell:
    """The body of a claim for a wallet (account id) from an earned dictionary; ChainError WalletNotInRoot without a leaf."""
    proof = dictionary.prove(earned, wallet)
    return Builder().store_uint(OP_CLAIM, 32).store_uint(query_id, 64).store_bytes(_hash(wallet)).store_ref(proof).end_cell()


def top_up_body(query_id: int = 0) -> Cell:
    """Feeds the surplus; anyone may."""
    return _message(OP_TOP_UP, query_id).end_cell()


def set_paused_body(paused: bool, query_id: int = 0) -> Cell:
    """Stops or resumes commits (owner or guardian; claims go on).  Only the owner may resume."""
    return _message(OP_SET_PAUSED, query_id).store_bit_int(int(paused)).end_cell()


def rotate_body(signer_key: bytes, query_id: int = 0) -> Cell:
    """Replaces the settlement key at once (owner)."""
    return _message(OP_ROTATE, query_id).store_bytes(_hash(signer_key)).end_cell()


def cancel_body(query_id: int = 0) -> Cell:
    """Drops the pending root (owner or guardian); epoch and lastHash stay."""
    return _message(OP_CANCEL, query_id).end_cell()


def withdraw_fees_body(amount_nanoton: int, query_id: int = 0) -> Cell:
    """Pays fees of the active root to the owner (owner)."""
    return _message(OP_WITHDRAW_FEES, query_id).store_coins(amount(amount_nanoton)).end_cell()


def request_surplus_body(amount_nanoton: int, query_id: int = 0) -> Cell:
    """Announces a withdrawal of surplus (owner); 0 drops the announced one."""
    return _message(OP_REQUEST_SURPLUS, query_id).store_coins(amount(amount_nanoton)).end_cell()


def withdraw_surplus_body(query_id: int = 0) -> Cell:
    """Carries the announced withdrawal out, seven days later (owner); the amount is checked again."""
    return _message(OP_WITHDRAW_SURPLUS, query_id).end_cell()


def account_id(address: str) -> bytes:
    """The 32 bytes of a raw address 0:<hex64>; raises ChainError AddressInvalid for another form or workchain."""
    head, _, tail = address.partition(":")
    if head != "0" or len(tail) != 64 or not all(c in "0123456789abcdef" for c in tail.lower()):
        raise ChainError(
            ChainReason.ADDRESS_INVALID, f"{address[:80]!r} is not a raw address of workchain 0", "write it as 0:<64 hex digits>"
        )
    return bytes.fromhex(tail)


def read_boc(data: bytes, what: str) -> Cell:
    """One root cell of a bag of cells of at most 4 MiB; raises ChainError (`what` names it)."""
    if len(data) > MAX_BOC_BYTES:
        raise malformed(what, f"{len(data)} bytes; at most {MAX_BOC_BYTES} are read")
    return _reading(what, lambda: Cell.one_from_boc(data))


def _message(op: int, query_id: int) -> Builder:
    return Builder().store_uint(op, 32).store_uint(query_id, 64)


def _root(s: Slice) -> Root:
    return Root(root=s.load_bytes(32), earned_nanoton=amount(s.load_coins()), fees_nanoton=amount(s.load_coins()))


def _policy(s: Slice) -> Policy:
    global_id, owner, guardian = s.load_int(32), s.load_address(), s.load_address()
    policy = Policy(
        global_id=global_id,
        owner=owner.to_str(is_user_friendly=False),
        guardian=guardian.to_str(is_user_friendly=False) if guardian is not None else None,
        fee_bps=s.load_uint(16),
        delay_seconds=s.load_uint(32),
        min_interval_seconds=s.load_uint(32),
        per_epoch_cap_nanoton=amount(s.load_coins()),
        funding={number: mode for mode, number in _FUNDING.items()}[s.load_uint(8)],
    )
    _end(s)
    return policy


def _coins(value: Slice, what: str) -> int:
    def read() -> int:
        s = value.copy()
        coins = amount(s.load_coins())
        _end(s)
        return coins

    return _reading(what, read)


def _end(s: Slice) -> None:
    if s.remaining_bits or s.remaining_refs:
        raise ValueError("something follows")


def _hash(value: bytes) -> bytes:
    if len(value) != 32:
        raise ValueError(f"{len(value)} bytes where 32 are needed")
    return value


def _reading(what: str, read: Callable[[], T]) -> T:
    """Run a reader of foreign cells; whatever it trips over becomes one ChainError (pytoniq-core raises many kinds)."""
    try:
        return read()
    except ChainError:
        raise
    except Exception as error:
        raise malformed(what, f"{type(error).__name__}: {error}") from error
