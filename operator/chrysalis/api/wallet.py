"""TON wallets: the raw and the user-friendly form, checked to the last bit.

User-friendly: 48 characters of base64url over tag (1 byte), workchain (1 byte, signed), account id (32 bytes) and
CRC-16/XMODEM (2 bytes, big-endian) of what stands before.  Tag 0x11 is bounceable, 0x51 is not; 0x80 is added for
addresses of test networks (TEP-2).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from enum import StrEnum

from chrysalis.errors import ChrysalisError

MAINNET_GLOBAL_ID = -239
MAX_CHARACTERS = 80
_RAW = re.compile(r"(-?[0-9]{1,10}):([0-9a-fA-F]{64})")
_FRIENDLY = re.compile(r"[A-Za-z0-9_-]{48}")
_TAGS = {0x11: (True, False), 0x51: (False, False), 0x91: (True, True), 0xD1: (False, True)}
_REMEDY = (
    "copy the wallet's address again from the wallet's own application; it is 0:<64 hex digits> or 48 characters that begin with UQ or EQ"
)


class WalletReason(StrEnum):
    """Why a wallet is refused."""

    WALLET_ADDRESS_INVALID = "WalletAddressInvalid"


class WalletError(ChrysalisError):
    """Not the address of a wallet that can be paid."""


@dataclass(frozen=True)
class WalletAddress:
    """A wallet of workchain 0."""

    account: bytes  # 32 bytes
    testnet: bool = False  # the address says that it is for test networks only

    @property
    def raw(self) -> str:
        """0:<64 lower-case hex digits>, the only form that is measured, compared and paid."""
        return f"0:{self.account.hex()}"

    def friendly(self, *, bounceable: bool = False) -> str:
        """The 48-character form that people and wallet applications use."""
        tag = (0x11 if bounceable else 0x51) | (0x80 if self.testnet else 0)
        body = bytes([tag, 0]) + self.account
        return base64.urlsafe_b64encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "big")).decode()


def parse(text: str, *, global_id: int | None = None) -> WalletAddress:
    """Read either form; raises WalletError for a wrong shape, checksum, tag, workchain or network.

    global_id: of the chain that will pay; a test-network address is refused where that is mainnet.
    """
    if len(text) > MAX_CHARACTERS:
        raise _invalid("it is too long", f"{len(text)} characters")
    if raw := _RAW.fullmatch(text):
        if int(raw[1]) != 0:
            raise _invalid(f"workchain {raw[1]} is not paid, only workchain 0", text)
        return WalletAddress(bytes.fromhex(raw[2]))
    if not _FRIENDLY.fullmatch(text):
        raise _invalid("it has neither of the two forms", text)
    data = base64.urlsafe_b64decode(text)
    if binascii.crc_hqx(data[:34], 0) != int.from_bytes(data[34:], "big"):
        raise _invalid("its checksum is wrong, so at least one character is", text)
    if data[0] not in _TAGS:
        raise _invalid(f"its first byte is {data[0]:#04x}, which no wallet has", text)
    if data[1] != 0:
        raise _invalid(f"workchain {int.from_bytes(data[1:2], 'big', signed=True)} is not paid, only workchain 0", text)
    _, testnet = _TAGS[data[0]]
    if testnet and global_id == MAINNET_GLOBAL_ID:
        raise _invalid("it is marked for test networks, and the account settles on mainnet", text)
    return WalletAddress(data[2:34], testnet)


def to_raw(text: str, *, global_id: int | None = None) -> str:
    """The raw form 0:<hex> of either form; raises WalletError."""
    return parse(text, global_id=global_id).raw


def _invalid(why: str, detail: str) -> WalletError:
    return WalletError(WalletReason.WALLET_ADDRESS_INVALID, f"the wallet's address is not valid: {why}", _REMEDY, detail)
