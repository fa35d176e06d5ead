"""The committed code is what the committed source compiles to, and the cells of Python and of the TVM are the same bytes."""

from __future__ import annotations

import json

import pytest

from chrysalis.chain import compiled, contract
from e2e.devnet import vectors
from e2e.devnet.packages import CONTRACTS, compile_contracts

pytestmark = pytest.mark.tvm


def test_recompiling_gives_the_committed_code() -> None:
    committed = json.loads((CONTRACTS / "build" / "settlement_root.json").read_text())
    assert compile_contracts([(CONTRACTS / "settlement_root.tolk").read_text()]) == [committed]


def test_the_package_carries_that_code() -> None:
    committed = json.loads((CONTRACTS / "build" / "settlement_root.json").read_text())
    assert (committed["hash"], committed["code"], committed["compiler"]) == (compiled.CODE_HASH, compiled.CODE_BOC, compiled.COMPILER)
    assert contract.code().hash.hex() == compiled.CODE_HASH


def test_the_tvm_reads_and_writes_the_golden_bytes() -> None:
    golden = json.loads(vectors.FILE.read_text())
    assert vectors.run_in_tvm() == golden["states"]


def test_exit_codes_are_the_sources() -> None:
    source = (CONTRACTS / "settlement_root.tolk").read_text()
    stated = {int(line.split("=")[1], 0) for line in source.splitlines() if line.startswith("const ERR_")}
    assert stated == set(contract.EXIT_CODES)


def test_limits_are_the_sources() -> None:
    source = (CONTRACTS / "settlement_root.tolk").read_text()
    assert f"MAX_ENTRIES = {contract.dictionary.MAX_ENTRIES}" in source
    assert f"MAX_VALID = {contract.MAX_VALID_SECONDS}" in source
    assert 'RESERVE = ton("0.5")' in source
    assert contract.RESERVE_NANOTON == 500_000_000
    assert 'RESERVE_PER_ENTRY = ton("0.003")' in source
    assert contract.RESERVE_PER_ENTRY_NANOTON == 3_000_000
    assert 'CLAIM_VALUE = ton("0.05")' in source
    assert contract.CLAIM_VALUE_NANOTON == 50_000_000
