"""Keys, pins and nonces on the command line."""

from __future__ import annotations

import pytest

from chrysalis.cli import hexadecimal
from chrysalis.cli.main import main

VALUE = bytes(range(32))


@pytest.mark.parametrize(
    "text", [VALUE.hex(), VALUE.hex().upper(), "0x" + VALUE.hex(), "0X" + VALUE.hex().upper(), VALUE.hex(":"), f" {VALUE.hex()}\n"]
)
def test_forms(text: str) -> None:
    assert hexadecimal.read(text) == VALUE


@pytest.mark.parametrize("text", ["", "0x", VALUE.hex()[:-1], VALUE.hex()[:-2], VALUE.hex() + "00", "zz" * 32, "é" * 64])
def test_anything_else_is_none(text: str) -> None:
    assert hexadecimal.read(text) is None


@pytest.mark.parametrize(
    "words",
    [
        ["policy", "simulate", "-f", "x", "--broker", "https://127.0.0.1:1", "--owner-key", "x", "--pin", "abc"],
        ["keys", "put", "--broker", "https://127.0.0.1:1", "--record", "x", "--owner-key", "x", "--identity", "x", "--pin", "zz" * 32],
        ["bundle", "get", "r", "--broker", "https://127.0.0.1:1", "--owner-key", "x", "--out", "x", "--pin", ""],
        ["gpu", "verify", "x", "--nonce", "00"],
        ["verify", "--bundle", "x", "--owner", "00"],
        ["keys", "recover", "x", "--identity", "x", "--out", "x", "--ear-key", "00"],
    ],
)
def test_what_is_none_is_usage_and_is_told_before_a_file_is_opened(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "64 hexadecimal digits" in capsys.readouterr().err
