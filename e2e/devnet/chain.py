"""The chain: takes messages, makes a block each tick, keeps the last blocks.

External messages are run when they come (a liteserver tells the sender whether the contract took it), what they send is
delivered in a later block, as between real accounts.  Time is the machine's plus an offset that can be moved forward.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from pytoniq_core.boc.address import Address
from pytoniq_core.boc.cell import Cell

from chrysalis.chain.signer import SeedSigner
from chrysalis.clock import Clock, unix
from e2e.devnet import blocks
from e2e.devnet.blocks import Block, Position
from e2e.devnet.genesis import GLOBAL_ID
from e2e.devnet.ledger import FAUCET, LT_STEP, Executed, Ledger, internal_message
from e2e.devnet.reasons import DevnetError, DevnetReason

log = logging.getLogger(__name__)
KEPT_BLOCKS = 600
BLOCK_SECONDS = 0.5
MAX_BOC_BYTES = 64 * 1024


@dataclass
class Faults:
    """What the chain is told to do wrong; each counts or lasts until it is changed."""

    drop_externals: int = 0  # so many next external messages are taken and forgotten
    hold_blocks: int = 1  # an internal message is delivered so many blocks after it was sent; one on its way, too
    withhold_shard: bool = False  # new masterchain blocks list the old shard block


@dataclass
class Waiting:
    """An internal message on its way."""

    message: Cell
    sent_in: int  # seqno of the block that has the message's sending


class Chain:
    """One shard and its masterchain.  All methods run in one event loop."""

    def __init__(self, ledger: Ledger, clock: Clock, validators: list[SeedSigner], *, block_seconds: float = BLOCK_SECONDS) -> None:
        self.ledger, self.validators, self.faults = ledger, validators, Faults()
        self._clock, self._offset, self._block_seconds = clock, 0, block_seconds
        self._lock = asyncio.Lock()
        self._news = asyncio.Condition()
        self._waiting: deque[Waiting] = deque()
        self._unsealed: list[Executed] = []
        self._accounts: Cell | None = None  # ShardAccounts of the last state; None when accounts changed since
        self._master: dict[int, Block] = {}
        self._by_root: dict[bytes, Block] = {}
        self._transactions: dict[bytes, dict[int, tuple[Executed, Block]]] = {}
        self._last_shard: Block | None = None
        self.seqno = 0

    @property
    def now(self) -> int:
        """The chain's time, Unix seconds."""
        return unix(self._clock.now()) + self._offset

    @property
    def head(self) -> Block:
        """The newest masterchain block."""
        return self._master[self.seqno]

    @property
    def unlisted(self) -> int:
        """How many transactions were done that no listed shard block shows yet."""
        return len(self._unsealed)

    def master(self, seqno: int) -> Block | None:
        """A masterchain block by its number; None when it is not kept."""
        return self._master.get(seqno)

    def block(self, root_hash: bytes) -> Block | None:
        """A block of either chain by its root hash."""
        return self._by_root.get(root_hash)

    def transactions(self, account: bytes) -> dict[int, tuple[Executed, Block]]:
        """All transactions of an account with the shard blocks that hold them, by logical time."""
        return self._transactions.get(account, {})

    async def send(self, boc: bytes) -> None:
        """Take an external message; raises DevnetError when it is none or the contract does not accept it."""
        if len(boc) > MAX_BOC_BYTES:
            raise DevnetError(DevnetReason.MESSAGE_MALFORMED, f"a message of {len(boc)} bytes", "send at most 64 KiB")
        try:
            message = Cell.one_from_boc(boc)
        except Exception as error:
            raise DevnetError(DevnetReason.MESSAGE_MALFORMED, "not a bag of cells", "send a message cell", str(error)) from error
        if not message.bits[:2].to01() == "10":
            raise DevnetError(DevnetReason.MESSAGE_MALFORMED, "not an external message", "send an ext_in_msg_info")
        async with self._lock:
            if self.faults.drop_externals:
                self.faults.drop_externals -= 1
                return
            await self._run(message)

    async def fund(self, account: bytes, nanoton: int) -> None:
        """Give an account money out of nothing; Simulated, as there is no elector and no validator here."""
        message = internal_message(source=FAUCET, destination=Address((0, account)), value=nanoton)
        async with self._lock:
            await self._run(message)

    async def advance(self, seconds: int) -> None:
        """Move the chain's time forward and make a block at the new time."""
        if seconds < 0:
            raise DevnetError(DevnetReason.UNSUPPORTED, "time does not go back", "give seconds of 0 or more")
        self._offset += seconds
        await self.make_block()

    async def make_block(self) -> Block:
        """Deliver what is due and seal a shard block and the masterchain block that lists it."""
        async with self._lock:
            for waiting in [w for w in self._waiting if w.sent_in + self.faults.hold_blocks <= self.seqno + 1]:
                self._waiting.remove(waiting)
                try:
                    await self._run(waiting.message)
                except DevnetError as error:  # a message to another workchain ends here
                    log.warning("a message was not delivered: %s", error.detail or error.message)
            block = await asyncio.to_thread(self._seal)
        async with self._news:
            self._news.notify_all()
        return block

    async def wait_for(self, seqno: int, seconds: float) -> bool:
        """Wait until a block is there; False when the time ran out."""
        try:
            async with self._news:
                async with asyncio.timeout(seconds):
                    await self._news.wait_for(lambda: self.seqno >= seqno)
        except TimeoutError:
            return False
        return True

    async def tick(self) -> None:
        """Make blocks for ever."""
        while True:
            await asyncio.sleep(self._block_seconds)
            await self.make_block()

    async def _run(self, message: Cell) -> None:
        executed = await asyncio.to_thread(self.ledger.run, message, self.now)
        self._unsealed.append(executed)
        self._accounts = None
        self._waiting.extend(Waiting(sent, self.seqno + 1) for sent in executed.sent)

    def _seal(self) -> Block:
        before, seqno = self._master.get(self.seqno), self.seqno + 1
        start_lt = before.end_lt + 1 if before else 0
        self.ledger.lt += LT_STEP
        position = Position(seqno, self.now, start_lt, self.ledger.lt, GLOBAL_ID)
        shard = self._last_shard
        if shard is None or not self.faults.withhold_shard:
            if self._accounts is None:
                self._accounts = blocks.accounts_cell(self.ledger.accounts, self.ledger.balances)
            executed, self._unsealed = self._unsealed, []
            total = sum(self.ledger.balances.values())
            shard = blocks.shard_block(
                position, previous=self._last_shard, master=before, accounts=self._accounts, total=total, executed=executed
            )
            for transaction in executed:
                self._transactions.setdefault(transaction.account, {})[transaction.lt] = (transaction, shard)
        block = blocks.master_block(position, previous=before, shard=shard, config=self.ledger.config)
        self._last_shard, self._master[seqno] = shard, block
        self._by_root[shard.root_hash], self._by_root[block.root_hash] = shard, block
        self.seqno = seqno
        old = self._master.get(seqno - KEPT_BLOCKS)
        if old is not None and not old.key_block:
            del self._master[old.seqno]
            self._by_root.pop(old.root_hash, None)
            if old.shard is not None and old.shard is not shard:
                self._by_root.pop(old.shard.root_hash, None)
        return block
