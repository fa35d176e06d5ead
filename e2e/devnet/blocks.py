"""Blocks and states of one shard and its masterchain, in the validators' own TL-B (block.tlb).

Simplified where no reader looks: descriptions of messages between shards are empty, random seeds are zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.hashmap import HashMap

from chrysalis.chain.dictionary import merkle_proof, partial
from e2e.devnet.cells import (
    NO_CURRENCIES,
    Leaf,
    augmented,
    augmented_or_empty,
    bag,
    currencies,
    depth_balance,
    merkle_update,
    with_pruned,
    with_ref,
)
from e2e.devnet.ledger import Executed

SHARD = -(1 << 63)
MASTERCHAIN, BASECHAIN = -1, 0
FIRST_SEQNO = 1
GLOBAL_VERSION = (0xC4, 12, 494)  # gen_software of the blocks: tag, version, capabilities


@dataclass(frozen=True)
class Block:
    """A block with its identity, its state and, in the masterchain, the shard block that it lists."""

    workchain: int
    seqno: int
    end_lt: int
    gen_utime: int
    root_hash: bytes
    file_hash: bytes
    cell: Cell
    data: bytes
    state: Cell
    key_block: bool = False
    shard: Block | None = None
    shard_hashes: Cell | None = None

    @property
    def id(self) -> dict[str, object]:
        """tonNode.blockIdExt as pytoniq's TL takes it."""
        return {
            "workchain": self.workchain,
            "shard": SHARD,
            "seqno": self.seqno,
            "root_hash": self.root_hash.hex(),
            "file_hash": self.file_hash.hex(),
        }

    def header_proof(self) -> Cell:
        """Merkle proof of the block's info and of the hashes of its state update."""
        return merkle_proof(with_pruned(self.cell, (1, 3)))

    def config_proof(self) -> Cell:
        """Merkle proof of the configuration in a key block."""
        return merkle_proof(with_pruned(self.cell, (1,)))

    def account_proof(self, account: bytes) -> Cell:
        """Merkle proof of an account, or of its absence, in the shard's state."""
        accounts = self.state.refs[1]
        if accounts.begin_parse().load_bit():
            way = partial(accounts.refs[0], account, lambda end: with_pruned(end, range(len(end.refs))))
            accounts = with_ref(accounts, 0, way)
        return merkle_proof(with_ref(with_pruned(self.state, (0,)), 1, accounts))

    def shards_proof(self) -> Cell:
        """Merkle proof of the list of shards in the masterchain's state; the configuration is pruned."""
        extra = self.state.refs[3]
        return merkle_proof(with_ref(self.state, 3, with_pruned(extra, (1,))))

    def whole_state_proof(self) -> Cell:
        """Merkle proof with nothing pruned."""
        return merkle_proof(self.state)


@dataclass(frozen=True)
class Position:
    """What a new block of a chain is numbered and dated with."""

    seqno: int
    now: int
    start_lt: int
    end_lt: int
    global_id: int


def accounts_cell(accounts: Mapping[bytes, Cell], balances: Mapping[bytes, int]) -> Cell:
    """ShardAccounts."""
    leaves = {int.from_bytes(key, "big"): Leaf(balances.get(key, 0), Builder().store_cell(account)) for key, account in accounts.items()}
    return augmented_or_empty(leaves, 256, depth_balance)


def state_cell(position: Position, workchain: int, accounts: Cell, total: int, custom: Cell | None) -> Cell:
    """ShardStateUnsplit."""
    totals = Builder().store_uint(0, 128).store_coins(total).store_bit_int(0).store_cell(NO_CURRENCIES).store_bit_int(0).store_bit_int(0)
    state = Builder().store_uint(0x9023AFE2, 32).store_int(position.global_id, 32).store_cell(_shard_ident(workchain))
    state.store_uint(position.seqno, 32).store_uint(0, 32).store_uint(position.now, 32).store_uint(position.end_lt, 64)
    state.store_uint(position.seqno, 32).store_ref(Cell.empty()).store_bit_int(0).store_ref(accounts).store_ref(totals.end_cell())
    return state.store_maybe_ref(custom).end_cell()


def shard_block(position: Position, *, previous: Block | None, master: Block | None, accounts: Cell, total: int,
                executed: Sequence[Executed]) -> Block:  # fmt: skip
    """The block of workchain 0 with these transactions and the accounts after them."""
    state = state_cell(position, BASECHAIN, accounts, total, None)
    return _block(position, BASECHAIN, previous, master, state, executed, None)


def master_block(position: Position, *, previous: Block | None, shard: Block, config: Cell) -> Block:
    """The masterchain's block that lists a shard block; the first one is the only key block and carries the configuration."""
    key_block = previous is None
    hashes = _shard_hashes(position, shard)
    params = Builder().store_bytes(b"\x55" * 32).store_ref(config).end_cell()
    info = (
        Builder().store_uint(0, 16).store_uint(0, 64).store_bit_int(0).store_bit_int(0).store_uint(0, 65).store_bit_int(0).store_bit_int(0)
    )
    extra = Builder().store_uint(0xCC26, 16).store_cell(hashes).store_cell(params).store_ref(info.end_cell()).store_cell(NO_CURRENCIES)
    no_accounts = augmented_or_empty({}, 256, depth_balance)
    state = state_cell(position, MASTERCHAIN, no_accounts, 0, extra.end_cell())
    custom = Builder().store_uint(0xCCA5, 16).store_bit_int(int(key_block)).store_cell(hashes).store_bit_int(0).store_cell(NO_CURRENCIES)
    custom.store_cell(NO_CURRENCIES).store_ref(Builder().store_bits("000").end_cell())
    if key_block:
        custom.store_cell(params)
    return _block(position, MASTERCHAIN, previous, None, state, (), custom.end_cell(), key_block, shard, hashes)


def _block(
    position: Position,
    workchain: int,
    previous: Block | None,
    master: Block | None,
    state: Cell,
    executed: Sequence[Executed],
    custom: Cell | None,
    key_block: bool = False,
    shard: Block | None = None,
    hashes: Cell | None = None,
) -> Block:
    before = previous.state if previous is not None else Cell.empty()
    cell = (
        Builder()
        .store_uint(0x11EF55AA, 32)
        .store_int(position.global_id, 32)
        .store_ref(_info(position, workchain, previous, master, key_block))
    )
    cell.store_ref(_value_flow()).store_ref(merkle_update(before, state)).store_ref(_extra(executed, custom))
    root = cell.end_cell()
    data = bag([root])
    return Block(
        workchain=workchain,
        seqno=position.seqno,
        end_lt=position.end_lt,
        gen_utime=position.now,
        root_hash=root.get_hash(0),
        file_hash=hashlib.sha256(data).digest(),
        cell=root,
        data=data,
        state=state,
        key_block=key_block,
        shard=shard,
        shard_hashes=hashes,
    )


def _shard_ident(workchain: int) -> Cell:
    return Builder().store_bits("00").store_uint(0, 6).store_int(workchain, 32).store_uint(0, 64).end_cell()


def _reference(block: Block | None) -> Cell:
    """ExtBlkRef; of zeros before the first block."""
    lt, seqno, root, file = (block.end_lt, block.seqno, block.root_hash, block.file_hash) if block else (0, 0, bytes(32), bytes(32))
    return Builder().store_uint(lt, 64).store_uint(seqno, 32).store_bytes(root).store_bytes(file).end_cell()


def _info(position: Position, workchain: int, previous: Block | None, master: Block | None, key_block: bool) -> Cell:
    not_master = workchain != MASTERCHAIN
    tag, version, capabilities = GLOBAL_VERSION
    info = Builder().store_uint(0x9BC7A987, 32).store_uint(0, 32).store_bit_int(int(not_master)).store_bits("00000")
    info.store_bit_int(int(key_block)).store_bit_int(0).store_uint(1, 8).store_uint(position.seqno, 32).store_uint(0, 32)
    info.store_cell(_shard_ident(workchain)).store_uint(position.now, 32).store_uint(position.start_lt, 64).store_uint(position.end_lt, 64)
    info.store_uint(0, 32).store_uint(0, 32).store_uint(position.seqno, 32).store_uint(0 if key_block else FIRST_SEQNO, 32)
    info.store_uint(tag, 8).store_uint(version, 32).store_uint(capabilities, 64)
    if not_master:
        info.store_ref(_reference(master))
    return info.store_ref(_reference(previous)).end_cell()


def _value_flow() -> Cell:
    four = Builder()
    for _ in range(4):
        four.store_cell(NO_CURRENCIES)
    flows = four.end_cell()
    return Builder().store_uint(0xB8E48DFB, 32).store_ref(flows).store_cell(NO_CURRENCIES).store_ref(flows).end_cell()


def _extra(executed: Sequence[Executed], custom: Cell | None) -> Cell:
    by_account: dict[bytes, list[Executed]] = {}
    for transaction in executed:
        by_account.setdefault(transaction.account, []).append(transaction)
    blocks = {int.from_bytes(account, "big"): _account_block(account, done) for account, done in by_account.items()}
    incoming = Builder().store_bit_int(0).store_coins(0).store_cell(NO_CURRENCIES).end_cell()
    outgoing = Builder().store_bit_int(0).store_cell(NO_CURRENCIES).end_cell()
    extra = Builder().store_uint(0x4A33F6FD, 32).store_ref(incoming).store_ref(outgoing)
    extra.store_ref(augmented_or_empty(blocks, 256, currencies)).store_bytes(bytes(32)).store_bytes(bytes(32))
    return extra.store_maybe_ref(custom).end_cell()


def _account_block(account: bytes, done: Sequence[Executed]) -> Leaf:
    leaves = {transaction.lt: Leaf(transaction.fees_nanoton, Builder().store_ref(transaction.cell)) for transaction in done}
    changed = Builder().store_uint(0x72, 8).store_bytes(done[0].before.refs[0].hash).store_bytes(done[-1].after.refs[0].hash).end_cell()
    transactions = augmented(leaves, 64, currencies)
    value = Builder().store_uint(5, 4).store_bytes(account).store_cell(transactions).store_ref(changed)
    return Leaf(sum(leaf.coins for leaf in leaves.values()), value)


def _shard_hashes(position: Position, shard: Block) -> Cell:
    """ShardHashes of workchain 0 with one shard (shard_descr#b)."""
    descr = Builder().store_bits("1011").store_uint(shard.seqno, 32).store_uint(position.seqno, 32).store_uint(max(0, shard.end_lt - 1), 64)
    descr.store_uint(shard.end_lt, 64).store_bytes(shard.root_hash).store_bytes(shard.file_hash).store_bits("00000000").store_uint(0, 32)
    descr.store_uint(1 << 63, 64).store_uint(position.seqno, 32).store_uint(shard.gen_utime, 32).store_bit_int(0)
    descr.store_cell(NO_CURRENCIES).store_cell(NO_CURRENCIES)
    tree = Builder().store_bit_int(0).store_cell(descr.end_cell()).end_cell()
    dictionary = HashMap(32, value_serializer=lambda cell, builder: builder.store_ref(cell))
    dictionary.set_int_key(0, tree)
    return Builder().store_maybe_ref(dictionary.serialize()).end_cell()
