"""Accounts, and transactions on them by the real TVM; no blocks yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from pytoniq_core.boc.address import Address
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.tlb.account import ShardAccount, StateInit
from pytoniq_core.tlb.block import CurrencyCollection
from pytoniq_core.tlb.transaction import InternalMsgInfo, MessageAny, Transaction
from pytoniq_core.tlb.vm_stack import VmStack

from e2e.devnet.reasons import DevnetError, DevnetReason
from e2e.devnet.tvm import Tvm, text_of

LT_STEP = 1000
"""Logical time between two transactions; each message that a transaction sends takes one."""
FAUCET = Address((0, bytes(32)))
"""Whom the faucet's money comes from; an address that nobody holds."""
EMPTY_ACCOUNT = Builder().store_ref(Builder().store_bit_int(0).end_cell()).store_bytes(bytes(32)).store_uint(0, 64).end_cell()


@dataclass(frozen=True)
class Executed:
    """A transaction that happened."""

    account: bytes  # id, workchain 0
    cell: Cell
    before: Cell  # the ShardAccount
    after: Cell

    @cached_property
    def parsed(self) -> Transaction:
        """Taken apart by pytoniq-core."""
        return Transaction.deserialize(self.cell.begin_parse())

    @property
    def lt(self) -> int:
        """Its logical time."""
        return int(self.parsed.lt)

    @property
    def exit_code(self) -> int | None:
        """Of the compute phase; None where that was skipped."""
        phase = self.parsed.description.compute_ph
        return int(phase.exit_code) if hasattr(phase, "exit_code") else None

    @property
    def action_code(self) -> int | None:
        """Result of the action phase; None where there was none."""
        phase = self.parsed.description.action
        return None if phase is None else int(phase.result_code)

    @property
    def gas_used(self) -> int:
        """Gas units of the compute phase."""
        phase = self.parsed.description.compute_ph
        return int(getattr(phase, "gas_used", 0))

    @property
    def fees_nanoton(self) -> int:
        """What the account paid for it, forwarding of its messages apart."""
        return int(self.parsed.total_fees.grams)

    @property
    def sent(self) -> list[Cell]:
        """Its outgoing internal messages, in order, as the transaction holds them."""
        messages = self.cell.refs[0].begin_parse()
        messages.load_maybe_ref()
        out = messages.load_dict(15, value_deserializer=lambda value: value.load_ref()) or {}
        return [out[index] for index in sorted(out) if out[index].begin_parse().load_bit() == 0]


@dataclass
class Ledger:
    """All accounts of workchain 0.  Not safe for threads; the chain above holds a lock."""

    tvm: Tvm
    config: Cell
    lt: int = 1_000_000
    accounts: dict[bytes, Cell] = field(default_factory=dict)  # ShardAccount by id
    balances: dict[bytes, int] = field(default_factory=dict)  # nanoton

    def __post_init__(self) -> None:
        self._config_text = text_of(self.config)

    def run(self, message: Cell, now: int) -> Executed:
        """Run one message on its destination; the messages that it sends are the caller's to deliver.

        Raises DevnetError: MessageNotAccepted, or MessageMalformed for what is no message to workchain 0.
        """
        destination = _destination(message)
        before = self.accounts.get(destination, EMPTY_ACCOUNT)
        self.lt += LT_STEP
        done = self.tvm.transaction(config=self._config_text, account=before, message=message, now=now, lt=self.lt)
        executed = Executed(destination, done.transaction, before, done.account)
        self.accounts[destination] = done.account
        self.balances[destination] = _balance(done.account)
        return executed

    def drain(self, message: Cell, now: int) -> list[Executed]:
        """Run a message and all that follow from it, in order."""
        queue, done = [message], []
        while queue:
            executed = self.run(queue.pop(0), now)
            done.append(executed)
            queue += executed.sent
        return done

    def place(self, account: bytes, init: StateInit, balance: int, now: int) -> None:
        """Put an active account there out of nothing, as if it had always been (for tests at chosen addresses and sums)."""
        used = Builder().store_var_uint(0, 3).store_var_uint(0, 3).store_uint(0, 3).store_uint(now, 32).store_bit_int(0)
        state = Builder().store_uint(0, 64).store_coins(balance).store_bit_int(0).store_bit_int(1).store_cell(init.serialize())
        cell = Builder().store_bit_int(1).store_address(Address((0, account))).store_cell(used.end_cell()).store_cell(state.end_cell())
        self.accounts[account] = Builder().store_ref(cell.end_cell()).store_bytes(bytes(32)).store_uint(0, 64).end_cell()
        self.balances[account] = balance

    def balance(self, account: bytes) -> int:
        """Nanoton of an account; 0 when it does not exist."""
        return self.balances.get(account, 0)

    def state(self, account: bytes) -> StateInit | None:
        """Code and data of an active account."""
        cell = self.accounts.get(account)
        parsed = ShardAccount.deserialize(cell.begin_parse()).account if cell is not None else None
        if parsed is None or parsed.storage.state.type_ != "account_active":
            return None
        return parsed.storage.state.state_init

    def get_method(self, account: bytes, method: int, stack: bytes, now: int) -> tuple[int, bytes]:
        """(exit code, stack) of a get-method; exit code -256 where there is no code, as liteservers answer."""
        init = self.state(account)
        if init is None:
            return -256, b""
        address = Address((0, account)).to_str()
        result = self.tvm.get_method(
            config=self._config_text,
            code=init.code,
            data=init.data,
            address=address,
            now=now,
            balance=self.balance(account),
            method=method,
            stack=stack,
        )
        return result.exit_code, result.stack


def internal_message(
    *, source: Address, destination: Address, value: int, body: Cell | None = None, init: StateInit | None = None, bounce: bool = False
) -> Cell:
    """An internal message cell, as if `source` had sent it."""
    info = InternalMsgInfo(
        ihr_disabled=True,
        bounce=bounce,
        bounced=False,
        src=source,
        dest=destination,
        value=CurrencyCollection(grams=value),
        ihr_fee=0,
        fwd_fee=0,
        created_lt=0,
        created_at=0,
    )
    return MessageAny(info=info, init=init, body=body if body is not None else Cell.empty()).serialize()


def empty_stack() -> bytes:
    """The stack of a get-method without arguments."""
    return bytes(VmStack.serialize([]).to_boc())


def _destination(message: Cell) -> bytes:
    try:
        parsed = MessageAny.deserialize(message.begin_parse())
        destination = parsed.info.dest
        if destination.wc != 0:
            raise ValueError(f"workchain {destination.wc}")
        return bytes(destination.hash_part)
    except Exception as error:
        raise DevnetError(
            DevnetReason.MESSAGE_MALFORMED, "not a message to an account of workchain 0", "send a message as TL-B Message says", str(error)
        ) from error


def _balance(account: Cell) -> int:
    parsed = ShardAccount.deserialize(account.begin_parse()).account
    return 0 if parsed is None else int(parsed.storage.balance.grams)
