"""Wallet addresses: both forms, and one row for each way to be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.api.wallet import WalletAddress, WalletError, WalletReason, parse, to_raw

ACCOUNT = bytes(range(32))
FRIENDLY = WalletAddress(ACCOUNT).friendly()


def test_a_known_address_of_another_tool_is_read() -> None:
    # The elector's and the zero address, whose two forms the TON documentation states.
    assert to_raw("EQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAM9c") == "0:" + "00" * 32
    assert to_raw("UQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJKZ") == "0:" + "00" * 32


def test_raw_is_normalised() -> None:
    assert to_raw("0:" + "AB" * 32) == "0:" + "ab" * 32


@given(st.binary(min_size=32, max_size=32), st.booleans(), st.booleans())
def test_both_forms_name_the_same_account(account: bytes, bounceable: bool, testnet: bool) -> None:
    wallet = WalletAddress(account, testnet)
    assert parse(wallet.friendly(bounceable=bounceable)) == wallet
    assert to_raw(wallet.raw) == wallet.raw


@given(st.binary(min_size=32, max_size=32), st.integers(0, 47), st.characters(codec="ascii"))
def test_one_wrong_character_is_noticed(account: bytes, position: int, character: str) -> None:
    good = WalletAddress(account).friendly()
    bad = good[:position] + character + good[position + 1 :]
    if bad != good:
        with pytest.raises(WalletError):
            parse(bad)


def _masterchain() -> str:
    import base64
    import binascii

    body = bytes([0x11, 0xFF]) + ACCOUNT
    return base64.urlsafe_b64encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "big")).decode()


def _tag() -> str:
    import base64
    import binascii

    body = bytes([0x12, 0x00]) + ACCOUNT
    return base64.urlsafe_b64encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "big")).decode()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "forms"),
        ("0:abcd", "forms"),
        ("-1:" + "ab" * 32, "workchain -1"),
        ("0:" + "ab" * 33, "forms"),
        (FRIENDLY + "\n", "forms"),
        ("0:" + "ab" * 32 + "\n", "forms"),
        (FRIENDLY[:-1] + ("A" if FRIENDLY[-1] != "A" else "B"), "checksum"),
        (FRIENDLY[:-1], "forms"),
        (_masterchain(), "workchain -1"),
        (_tag(), "first byte"),
        ("x" * 5000, "too long"),
    ],
)
def test_what_is_refused(text: str, word: str) -> None:
    with pytest.raises(WalletError) as caught:
        parse(text)
    assert caught.value.reason == WalletReason.WALLET_ADDRESS_INVALID
    assert word in caught.value.message
    assert "copy the wallet's address again" in caught.value.remedy
    assert parse(FRIENDLY).account == ACCOUNT  # the twin


def test_a_testnet_address_is_not_paid_on_mainnet() -> None:
    text = WalletAddress(ACCOUNT, testnet=True).friendly()
    assert parse(text, global_id=-3).testnet
    with pytest.raises(WalletError, match="test networks"):
        parse(text, global_id=-239)
    assert parse(FRIENDLY, global_id=-239).account == ACCOUNT
