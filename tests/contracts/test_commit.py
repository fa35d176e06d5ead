"""Commits: each refusal with its exit code and its twin that differs in that one thing and is accepted."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell

from chrysalis.amounts import LIMIT
from chrysalis.api.account import Funding
from chrysalis.chain import contract
from chrysalis.chain.signer import SeedSigner
from e2e.devnet import pool as pools
from e2e.devnet.packages import CONTRACTS, compile_contracts
from e2e.devnet.pool import GUARDIAN, OWNER, TON, Pool
from e2e.devnet.reasons import DevnetError
from e2e.devnet.tvm import Tvm

pytestmark = pytest.mark.tvm
GAS_OF_CHECKS = 9_000
GAS_PRICE = 400  # nanoton, in the configuration that the sandbox carries
WALLET = bytes([0x22]) * 32
OTHER = bytes([0x23]) * 32


def accepted(send: Callable[[], object]) -> int | None:
    """None when the contract took it, else its exit code."""
    try:
        send()
    except DevnetError as error:
        return error.exit_code
    return None


@dataclass(frozen=True)
class Row:
    """One way to be refused: a pool, and what is sent to it; `good` says whether the twin is wanted."""

    name: str
    code: int
    make: Callable[[Tvm, bool], Pool]
    send: Callable[[Pool, bool], object]
    removed: str  # a pattern of the check in the source; without it the row is accepted


def plain(tvm: Tvm, _: bool) -> Pool:
    return Pool(tvm)


def with_policy(**changes: object) -> Callable[[Tvm, bool], Pool]:
    return lambda tvm, good: Pool(tvm, policy=pools.policy(**changes))


def simple(p: Pool, **changes: object) -> object:
    """A commit of one leaf, with changes to the commit around the content."""
    return p.send_commit(p.commit_of(p.content({WALLET: TON}), **changes))


def content(p: Pool, leaves: dict[bytes, int] | None = None, **changes: object) -> object:
    return p.send_commit(p.commit_of(p.content(leaves or {WALLET: TON}, **changes)))


def paused(tvm: Tvm, good: bool) -> Pool:
    p = Pool(tvm)
    p.send(contract.set_paused_body(True), source=GUARDIAN)
    if good:
        p.send(contract.set_paused_body(False), source=OWNER)
    return p


def rich(tvm: Tvm, _: bool) -> Pool:
    p = Pool(tvm, policy=pools.policy(per_epoch_cap_nanoton=LIMIT - 1))
    p.set_balance(1 << 70)
    p.commit({WALLET: TON})
    p.activate()
    return p


def committed_once(**policy: object) -> Callable[[Tvm, bool], Pool]:
    def make(tvm: Tvm, _: bool) -> Pool:
        p = Pool(tvm, policy=pools.policy(**policy))
        p.commit({WALLET: 5 * TON}, fees=TON // 100)
        return p

    return make


def at(seconds: int) -> Callable[[Pool], None]:
    return lambda p: p.pass_time(seconds)


def after(p: Pool, seconds: int, *, earned: int = 5 * TON, fees: int = TON // 100) -> object:
    p.pass_time(seconds)
    return p.commit({WALLET: earned}, fees=fees)


def exactly_covered(p: Pool, good: bool) -> object:
    leaves = {WALLET: 10 * TON}
    usual = Pool(p.tvm).commit(leaves)
    import_fee = usual.fees_nanoton - usual.gas_used * GAS_PRICE  # taken for the external message before any code runs
    p.set_balance(10 * TON + contract.RESERVE_NANOTON + import_fee - (0 if good else 1))
    return content(p, leaves)


def another_chain(tvm: Tvm, good: bool) -> Pool:
    """A contract whose policy names another chain, where a commit for that chain is sent."""
    return Pool(tvm) if good else Pool(tvm, policy=pools.policy(global_id=-3))


def fallen(p: Pool, good: bool, *, earned: int = 0, fees: int = 0) -> object:
    """The same totals again when good, else one of them one less."""
    return after(p, 10_800, earned=5 * TON - (0 if good else earned), fees=TON // 100 - (0 if good else fees))


ROWS = [
    Row("another key signed", 101, plain, lambda p, good: p.send_commit(
        p.commit_of(p.content({WALLET: TON})), signer=None if good else SeedSigner(secrets.token_bytes(32))), r"isSignatureValid\("),
    Row("expired", 102, plain, lambda p, good: simple(p, valid_until=p.now + (1 if good else 0)), r"now < c\.validUntil"),
    Row("valid for too long", 102, plain, lambda p, good: simple(p, valid_until=p.now + (600 if good else 601)), r"c\.validUntil <= now"),
    Row("an epoch left out", 103, plain, lambda p, good: content(p, epoch=1 if good else 2), r"content\.epoch =="),
    Row("for another contract", 104, plain, lambda p, good: simple(p, contract=p.account if good else OTHER), r"c\.contract == me"),
    Row("for another chain", 104, plain, lambda p, good: simple(p, global_id=p.policy.global_id if good else -3), r"c\.globalId =="),
    Row("by a contract of another chain", 104, another_chain, lambda p, good: simple(p, global_id=-777), r"policy\.globalId\)"),
    Row("on another chain", 104, another_chain, lambda p, good: simple(p, global_id=p.policy.global_id), r"blockchain\.globalId\(\)\)"),
    Row("over the cap of an epoch", 105, with_policy(per_epoch_cap_nanoton=10 * TON),
        lambda p, good: content(p, {WALLET: 10 * TON + (0 if good else 1)}), r"rise <="),
    Row("not covered by the balance", 106, plain, exactly_covered, r"getOriginalBalance\(\) >="),
    Row("paused", 109, paused, lambda p, good: simple(p), r"!st\.paused"),
    Row("before the interval", 111, committed_once(delay_seconds=0, min_interval_seconds=100),
        lambda p, good: after(p, 100 if good else 99), r"st\.lastAt \+"),
    Row("while a root is pending", 112, committed_once(delay_seconds=100, min_interval_seconds=0),
        lambda p, good: after(p, 100 if good else 99), r"throw ERR_PENDING"),
    Row("an amount of 2^63", 114, rich, lambda p, good: content(p, earned_nanoton=LIMIT - (2 if good else 1), fees=1), r"AMOUNT_LIMIT"),
    Row("fees over the share", 115, plain, lambda p, good: content(p, {WALLET: 98}, fees=2 if good else 3), r"throw ERR_FEES"),
    Row("earned falls", 116, committed_once(), lambda p, good: fallen(p, good, earned=1), r"content\.earned >="),
    Row("fees fall", 116, committed_once(), lambda p, good: fallen(p, good, fees=1), r"content\.fees >="),
    Row("prev of another epoch", 119, committed_once(), lambda p, good: (p.pass_time(10_800), content(
        p, {WALLET: 5 * TON}, fees=TON // 100, prev=p.state.last_hash if good else bytes(32))), r"content\.prev =="),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refused_and_its_twin_accepted(tvm: Tvm, row: Row) -> None:
    refused = row.make(tvm, False)
    before = refused.state
    assert accepted(lambda: row.send(refused, False)) == row.code
    assert refused.state == before
    assert accepted(lambda: row.send(row.make(tvm, True), True)) is None


@pytest.fixture(scope="module")
def mutants() -> dict[str, Cell]:
    """By name of the row: the contract's code without the check that the row names."""
    source = (CONTRACTS / "settlement_root.tolk").read_text()
    texts = []
    for row in ROWS:
        kept = [line for line in source.splitlines() if line not in checks_of(source) or not re.search(row.removed, line)]
        assert len(kept) < len(source.splitlines())
        texts.append("\n".join(kept) + "\n")
    return {row.name: Cell.one_from_boc(built["code"]) for row, built in zip(ROWS, compile_contracts(texts), strict=True)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_without_its_check_the_row_is_accepted(tvm: Tvm, row: Row, mutants: dict[str, Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that the row names is the one that refuses it, and no other would."""
    monkeypatch.setattr(contract, "code", lambda: mutants[row.name])
    assert accepted(lambda: row.send(row.make(tvm, False), False)) is None


def checks_of(source: str) -> list[str]:
    """The checks in the function that takes commits."""
    start = source.index("fun onExternalMessage")
    return [line for line in source[start : source.index("\n}\n", start)].splitlines() if "assert (" in line]


def test_every_check_has_a_row() -> None:
    checks = checks_of((CONTRACTS / "settlement_root.tolk").read_text())
    without = [check for check in checks if not any(re.search(row.removed, check) for row in ROWS)]
    assert [check.split("throw ")[1] for check in without] == ["ERR_FUNDS;"]  # the funding mode: its own test below


def test_another_funding_mode_is_not_served(tvm: Tvm) -> None:
    assert accepted(lambda: simple(Pool(tvm, policy=pools.policy(funding=Funding.CLIENT_FUNDED)))) == 106
    assert accepted(lambda: simple(Pool(tvm))) is None


def test_a_commit_is_taken_once(tvm: Tvm) -> None:
    p = Pool(tvm, policy=pools.policy(delay_seconds=0, min_interval_seconds=0))
    commit = p.commit_of(p.content({WALLET: TON}))
    assert accepted(lambda: p.send_commit(commit)) is None
    before = p.state
    assert accepted(lambda: p.send_commit(commit)) == 103
    assert p.state == before


def test_a_new_expiry_keeps_the_hash(tvm: Tvm) -> None:
    p = Pool(tvm)
    first = p.commit_of(p.content({WALLET: TON}))
    p.send_commit(replace(first, valid_until=p.now + 600))
    assert p.state.last_hash == first.content.hash


def with_signature_of(p: Pool, signed: Cell) -> Cell:
    return Builder().store_bytes(p.signer.sign(bytes(signed.hash))).store_ref(signed).end_cell()


MALFORMED: list[tuple[str, Callable[[Pool], Cell]]] = [
    ("nothing", lambda p: Cell.empty()),
    ("a signature alone", lambda p: Builder().store_bytes(bytes(64)).end_cell()),
    ("something after the signature", lambda p: Builder().store_bytes(p.signer.sign(p.commit_of(p.content({})).hash)).store_uint(0, 8)
        .store_ref(p.commit_of(p.content({})).cell()).end_cell()),
    ("something after the commit", lambda p: with_signature_of(
        p, Builder().store_cell(p.commit_of(p.content({})).cell()).store_uint(0, 8).end_cell())),
    ("another tag", lambda p: with_signature_of(p, Builder().store_uint(1, 32).store_cell(p.content({}).cell()).end_cell())),
    ("no content", lambda p: with_signature_of(
        p, Builder().store_bits(p.commit_of(p.content({})).cell().bits).store_ref(Cell.empty()).end_cell())),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body"), MALFORMED, ids=[name for name, _ in MALFORMED])
def test_malformed_bodies_are_not_accepted(tvm: Tvm, name: str, body: Callable[[Pool], Cell]) -> None:
    p = Pool(tvm)
    before = p.state
    assert accepted(lambda: p.send_external(body(p))) not in {None, 0}
    assert p.state == before


def test_a_canonical_empty_commit_is_accepted(tvm: Tvm) -> None:
    """The twin of the malformed ones."""
    p = Pool(tvm)
    commit = p.commit_of(p.content({}))
    assert accepted(lambda: p.send_external(with_signature_of(p, commit.cell()))) is None


def test_promotion_and_what_is_owed(tvm: Tvm) -> None:
    p = Pool(tvm)
    p.commit({WALLET: 5 * TON}, fees=TON // 100)
    first = p.state.pending
    assert first is not None
    assert p.state.active.root == contract.ZERO_HASH
    assert p.state.owed_nanoton == 5 * TON
    assert not p.state.due(p.now + 10_799)
    p.activate()
    assert p.state.claimable_roots(p.now) == (first.root, contract.ZERO_HASH)
    p.commit({WALLET: 6 * TON, OTHER: TON}, fees=TON // 100)
    state = p.state
    assert (state.epoch, state.prev_root, state.active.root) == (2, contract.ZERO_HASH, first.root)
    assert state.owed_nanoton == 7 * TON


@pytest.mark.parametrize("leaves", [1, 100, 2000])
def test_gas_of_a_commit_does_not_depend_on_the_leaves(tvm: Tvm, leaves: int) -> None:
    p = Pool(tvm)
    first = p.commit({secrets.token_bytes(32): TON // 1000 for _ in range(leaves)}, fees=1000)
    assert first.gas_used == 7562
    p.activate()
    second = p.commit({secrets.token_bytes(32): TON // 500 for _ in range(leaves)}, fees=1000)
    assert second.gas_used == 8352
    assert second.gas_used < GAS_OF_CHECKS
    assert (second.exit_code, second.action_code) == (0, 0)
    assert not second.sent


def test_an_empty_body_and_an_unknown_message_bounce(tvm: Tvm) -> None:
    p = Pool(tvm)
    for body in (Cell.empty(), Builder().store_uint(0, 32).end_cell(), Builder().store_uint(1, 7).end_cell()):
        done = p.send(body)
        assert done[0].exit_code == 0xFFFF
        assert len(done) == 2  # the value went back
    assert p.send(contract.top_up_body())[0].exit_code == 0
