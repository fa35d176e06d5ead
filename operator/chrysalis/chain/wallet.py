"""The cells of an ordinary wallet (v4r2): what a person pays from and is paid to.  Pure; the Signer is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from pytoniq.contract.wallets.wallet import WALLET_V4_R2_CODE
from pytoniq_core.boc.address import Address
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.tlb.account import StateInit
from pytoniq_core.tlb.block import CurrencyCollection
from pytoniq_core.tlb.transaction import InternalMsgInfo, MessageAny

from chrysalis.amounts import amount
from chrysalis.chain.reasons import malformed
from chrysalis.chain.signer import Signer

WALLET_ID = 698_983_191
"""The wallet id that wallet applications use for v3 and v4 on every network of workchain 0."""
PAY_FEES_SEPARATELY, IGNORE_ERRORS = 1, 2
VALID_SECONDS = 120
FIRST_VALID_UNTIL = 0xFFFFFFFF
MAX_MESSAGES = 4


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One message that a wallet is asked to send."""

    to: str  # raw address
    value_nanoton: int
    body: Cell | None = None
    state_init: StateInit | None = None
    bounce: bool = True

    def message(self) -> Cell:
        """The internal message; the wallet's own action phase fills in sender, fees and time."""
        info = InternalMsgInfo(
            ihr_disabled=True,
            bounce=self.bounce,
            bounced=False,
            src=None,
            dest=Address(self.to),
            value=CurrencyCollection(grams=amount(self.value_nanoton)),
            ihr_fee=0,
            fwd_fee=0,
            created_lt=0,
            created_at=0,
        )
        message: Cell = MessageAny(info=info, init=self.state_init, body=self.body if self.body is not None else Cell.empty()).serialize()
        return message


def wallet_state_init(public_key: bytes) -> StateInit:
    """Code and first data of the wallet with this key."""
    data = Builder().store_uint(0, 32).store_uint(WALLET_ID, 32).store_bytes(public_key).store_bit_int(0).end_cell()
    return StateInit(code=WALLET_V4_R2_CODE, data=data)


def wallet_address(public_key: bytes) -> str:
    """The raw address 0:<hex64> of the wallet with this key."""
    return "0:" + bytes(wallet_state_init(public_key).serialize().hash).hex()


def wallet_seqno(data: Cell | None) -> int:
    """The sequence number in an active wallet's data; 0 where there is no wallet yet (data is None).  Raises ChainError."""
    if data is None:
        return 0
    try:
        return int(data.begin_parse().load_uint(32))
    except Exception as error:
        raise malformed("the wallet's data", str(error)) from error


def wallet_body(signer: Signer, *, seqno: int, valid_until: int, transfers: list[Transfer]) -> Cell:
    """The signed body of an external message that makes the wallet send 1 to 4 messages, fees paid beside their values."""
    if not 0 < len(transfers) <= MAX_MESSAGES:
        raise ValueError(f"a wallet sends 1 to {MAX_MESSAGES} messages at once")
    order = Builder().store_uint(WALLET_ID, 32).store_uint(valid_until if seqno else FIRST_VALID_UNTIL, 32).store_uint(seqno, 32)
    order.store_uint(0, 8)
    for transfer in transfers:
        order.store_uint(PAY_FEES_SEPARATELY, 8).store_ref(transfer.message())
    unsigned = order.end_cell()
    body: Cell = Builder().store_bytes(signer.sign(bytes(unsigned.hash))).store_cell(unsigned).end_cell()
    return body
