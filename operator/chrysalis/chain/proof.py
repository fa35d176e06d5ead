"""What a liteserver's answer proves about an account.  Pure: bytes in, a proven account out.

Steps, each of which can refuse with ChainError ProofInvalid:

1. the masterchain block's header proof hashes to the block id that the caller trusts;
2. the masterchain state in the proof is the one that this block leads to;
3. that state lists the shard block: so it is final, and there is no counting of confirmations;
4. the shard block's header proof hashes to that id, the shard covers the account, and the shard state is the block's;
5. in the state's dictionary the account's cell is the one that was sent, or the dictionary proves that there is none
   (pytoniq itself does not check absence; settlement.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.slice import Slice
from pytoniq_core.tl.block import BlockIdExt
from pytoniq_core.tlb.account import Account as AccountTlb
from pytoniq_core.tlb.block import BlockInfo, ShardStateUnsplit

from chrysalis.chain import dictionary
from chrysalis.chain.reasons import ChainError, ChainReason

BLOCK_TAG = 0x11EF55AA
STATE_TAG = 0x9023AFE2
MAX_ANSWER_BYTES = 8 * 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Head:
    """A masterchain block that was agreed on, with what its proven header says."""

    seqno: int
    root_hash: bytes
    file_hash: bytes
    gen_utime: int  # the chain's time, Unix seconds
    global_id: int

    @property
    def block_id(self) -> BlockIdExt:
        """The form that liteserver queries take."""
        return BlockIdExt(-1, None, self.seqno, self.root_hash, self.file_hash)


@dataclass(frozen=True, kw_only=True)
class Account:
    """An account's proven state at a head."""

    address: str  # raw
    status: str  # absent, uninit, frozen, active
    balance_nanoton: int
    code: Cell | None
    data: Cell | None
    last_lt: int  # of its last transaction; 0 when there was none
    head: Head
    servers: int  # how many liteservers agreed

    @property
    def active(self) -> bool:
        """Whether it has code and data."""
        return self.status == "active"


def prove_head(header_proof: bytes, block: BlockIdExt) -> Head:
    """Step 1 alone: a masterchain block's header."""

    def read() -> Head:
        (proof,) = _roots(header_proof, 1)
        return _head(proof, block)

    return _proving(read)


def prove_account(answer: dict[str, Any], block: BlockIdExt, account: bytes, servers: int = 1) -> Account:
    """The account (32-byte id, workchain 0) that a liteServer.accountState proves at a masterchain block."""
    return _proving(lambda: _account(answer, block, account, servers))


def _account(answer: dict[str, Any], block: BlockIdExt, account: bytes, servers: int) -> Account:
    header, mc_state = _roots(answer["shard_proof"], 2)
    head = _head(header, block)  # 1
    _same_hash(mc_state.refs[0], _new_state_hash(header.refs[0]), "the masterchain state is another block's")  # 2
    state = ShardStateUnsplit.deserialize(mc_state.refs[0].begin_parse())
    shard_id = BlockIdExt.from_dict(answer["shardblk"])
    tree = state.custom.shard_hashes.get(0)
    listed = [shard.root_hash for shard in tree.list if shard is not None] if tree is not None else []
    _require(shard_id.root_hash in listed, "the masterchain block does not list this shard block")  # 3
    shard_header, shard_state = _roots(answer["proof"], 2)
    _same_hash(shard_header.refs[0], shard_id.root_hash, "the shard block's header is another block's")  # 4
    _same_hash(shard_state.refs[0], _new_state_hash(shard_header.refs[0]), "the shard state is another block's")
    accounts = _accounts(shard_state.refs[0], account)
    value = dictionary.find(accounts, account)  # 5
    raw = "0:" + account.hex()
    if value is None:
        _require(not answer["state"], "a state was sent for an account that does not exist")
        return Account(address=raw, status="absent", balance_nanoton=0, code=None, data=None, last_lt=0, head=head, servers=servers)
    value.skip_bits(5)  # DepthBalanceInfo: split_depth, grams, extra currencies
    value.load_coins()
    value.load_maybe_ref()
    listed_cell = value.load_ref()
    value.skip_bits(256)
    last_lt = value.load_uint(64)
    if not answer["state"]:
        _require(bool(listed_cell.begin_parse().remaining_bits == 1 and not listed_cell.is_exotic), "the state is kept back")
        return Account(address=raw, status="absent", balance_nanoton=0, code=None, data=None, last_lt=last_lt, head=head, servers=servers)
    (sent,) = _roots(answer["state"], 1)
    _same_hash(sent, listed_cell.get_hash(0), "the state is not the one in the shard's dictionary")
    parsed = AccountTlb.deserialize(sent.begin_parse())
    if parsed is None:
        return Account(address=raw, status="absent", balance_nanoton=0, code=None, data=None, last_lt=last_lt, head=head, servers=servers)
    _require(parsed.addr.wc == 0 and parsed.addr.hash_part == account, "the state names another address")
    inner = parsed.storage.state
    active = inner.type_ == "account_active"
    return Account(
        address=raw,
        status=inner.type_.removeprefix("account_"),
        balance_nanoton=parsed.storage.balance.grams,
        code=inner.state_init.code if active else None,
        data=inner.state_init.data if active else None,
        last_lt=last_lt,
        head=head,
        servers=servers,
    )


def _head(proof: Cell, block: BlockIdExt) -> Head:
    inner = proof.refs[0]
    _same_hash(inner, block.root_hash, "the header is another block's")
    s = inner.begin_parse()
    _require(s.load_uint(32) == BLOCK_TAG, "not a block")
    global_id = s.load_int(32)
    info = BlockInfo.deserialize(inner.refs[0].begin_parse())
    _require(info is not None and not info.not_master and info.shard.workchain_id == -1, "not a masterchain block")
    _require(info.seqno == block.seqno, "the header has another number")
    return Head(seqno=block.seqno, root_hash=block.root_hash, file_hash=block.file_hash, gen_utime=info.gen_utime, global_id=global_id)


def _accounts(state: Cell, account: bytes) -> Cell | None:
    """The root of a shard state's account dictionary, after a check that the shard covers the account."""
    s = state.begin_parse()
    _require(s.load_uint(32) == STATE_TAG, "not a shard state")
    s.skip_bits(32 + 2)
    prefix_bits, workchain, prefix = s.load_uint(6), s.load_int(32), s.load_uint(64)
    covered = prefix_bits == 0 or int.from_bytes(account[:8], "big") >> (64 - prefix_bits) == prefix >> (64 - prefix_bits)
    _require(workchain == 0 and covered, "the shard does not cover the account")
    accounts: Slice = state.refs[1].begin_parse()
    root: Cell | None = accounts.load_maybe_ref()
    return root


def _new_state_hash(block: Cell) -> bytes:
    update = block.refs[2]
    _require(update.type_ == 4, "the block's state update is no Merkle update")
    return bytes(update.refs[1].get_hash(0))


def _roots(data: bytes, count: int) -> list[Cell]:
    _require(len(data) <= MAX_ANSWER_BYTES, f"an answer of {len(data)} bytes")
    roots: list[Cell] = Cell.from_boc(data)
    _require(len(roots) == count, f"{len(roots)} roots where {count} are needed")
    if count == 2 or roots[0].is_exotic:
        _require(all(root.type_ == dictionary.MERKLE_PROOF for root in roots), "not a Merkle proof")
    return roots


def _same_hash(cell: Cell, expected: bytes, why: str) -> None:
    _require(cell.get_hash(0) == expected, why)


def _require(condition: bool, why: str) -> None:
    if not condition:
        raise ChainError(
            ChainReason.PROOF_INVALID,
            f"a liteserver's proof is not valid: {why}",
            "leave this liteserver out of the configuration and tell its operator",
        )


def _proving(read: Callable[[], T]) -> T:
    """Run a check of foreign cells; whatever pytoniq-core trips over means that the proof is not valid."""
    try:
        return read()
    except ChainError as error:
        if error.reason == ChainReason.PROOF_INVALID:
            raise
        raise ChainError(
            ChainReason.PROOF_INVALID, f"a liteserver's proof is not valid: {error.message}", "ask another liteserver", error.detail
        ) from error
    except Exception as error:
        raise ChainError(
            ChainReason.PROOF_INVALID, "a liteserver's proof cannot be read", "ask another liteserver", f"{type(error).__name__}: {error}"
        ) from error
