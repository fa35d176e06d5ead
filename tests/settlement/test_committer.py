"""Epochs on a chain that keeps the contract's rules: each receipt is committed exactly once, whatever is killed, lost or late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chrysalis.chain import contract
from chrysalis.chain.reasons import ChainError
from chrysalis.chain.signer import SeedSigner
from chrysalis.errors import ChrysalisError
from chrysalis.receipts import merkle
from chrysalis.settlement.committer import Committer
from chrysalis.settlement.epoch_store import EpochStore
from chrysalis.settlement.publisher import Publisher
from chrysalis.settlement.reasons import SettlementError, SettlementReason
from chrysalis.settlement.recovery import Action
from chrysalis.settlement.store import Ledger

NET = 24  # of one job of 25 nanoton at 500 basis points
STEPS = ("freeze", "publish", "persist", "send", "sent", "book", "announce")


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Process:
    """One life of the settler's committer over the files that outlive it."""

    def __init__(self, bench: Any, chain: Any, signers: list[SeedSigner], *, kill_at: str | None = None) -> None:
        self.ledger = Ledger.open(bench.path)
        self.epochs = EpochStore(self.ledger)
        self.folder: Path = bench.path.parent / "published"
        self.kill_at = kill_at
        self.committer = Committer(
            chain=chain,
            address="0:" + "c0" * 32,
            fee_bps=500,
            global_id=-3,
            epochs=self.epochs,
            publisher=Publisher(self.folder, self.epochs, self.ledger.set_name()),
            signers=signers,
            clock=bench.clock,
            valid_seconds=60,
            checkpoint=self._checkpoint,
        )
        self.committer.republish()

    def _checkpoint(self, name: str) -> None:
        if name == self.kill_at:
            raise Killed(name)

    def turn(self) -> Any:
        return asyncio.run(self.committer.turn())


def settle(process: Process, bench: Any, chain: Any, turns: int = 6) -> None:
    """Turns until all is committed and booked, with time passing between them."""
    for _ in range(turns):
        process.turn()
        bench.clock.advance(3)


def committed(chain: Any) -> contract.Root:
    return chain.state.pending or chain.state.active


def test_jobs_become_one_epoch_whose_files_follow_from_the_proven_state(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    other = bench.worker_for("0:" + "bb" * 32)
    bench.jobs(3)
    bench.jobs(2, other)
    chain = make_chain()
    process = Process(bench, chain, [signer])
    settle(process, bench, chain)
    newest = committed(chain)
    assert (chain.state.epoch, newest.earned_nanoton, newest.fees_nanoton) == (1, 5 * NET, 5)
    folder = process.folder / "epochs/1"
    content = contract.CommitContent.from_boc((folder / "content.boc").read_bytes())
    assert content.hash == chain.state.last_hash
    earned = contract.read_earned((folder / "earned.boc").read_bytes())
    assert contract.root_hash(earned) == newest.root
    assert contract.earned_leaves(earned) == {bytes.fromhex("aa" * 32): 3 * NET, bytes.fromhex("bb" * 32): 2 * NET}
    leaves = (folder / "leaves.bin").read_bytes()
    assert merkle.root([leaves[i : i + 32] for i in range(0, len(leaves), 32)]) == content.log_root
    assert (process.folder / "latest.json").is_file()


def test_a_second_epoch_is_cumulative_and_nothing_new_makes_none(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    chain = make_chain()
    process = Process(bench, chain, [signer])
    assert process.turn().decision.reason == SettlementReason.SETTLED
    bench.jobs(1)
    settle(process, bench, chain)
    settle(process, bench, chain)
    assert chain.state.epoch == 1
    bench.jobs(2)
    settle(process, bench, chain)
    assert (chain.state.epoch, committed(chain).earned_nanoton) == (2, 3 * NET)
    assert len(chain.accepted) == 2


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_each_step_changes_nothing_in_the_end(bench: Any, make_chain: Any, signer: SeedSigner, step: str) -> None:
    bench.jobs(4)
    chain = make_chain()
    with pytest.raises(Killed):
        settle(Process(bench, chain, [signer], kill_at=step), bench, chain)
    settle(Process(bench, chain, [signer]), bench, chain)
    bench.jobs(1)
    with pytest.raises(Killed):
        settle(Process(bench, chain, [signer], kill_at=step), bench, chain)
    process = Process(bench, chain, [signer])
    settle(process, bench, chain)
    assert (chain.state.epoch, committed(chain).earned_nanoton, len(chain.accepted)) == (2, 5 * NET, 2)
    assert [row.state for row in process.epochs.all()] == ["committed", "committed"]
    assert '"epoch":2' in (process.folder / "latest.json").read_text()


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_kills_losses_and_late_blocks_settles_each_receipt_once(
    bench: Any, make_chain: Any, signer: SeedSigner, seed: int
) -> None:
    dice = random.Random(seed)
    chain, jobs = make_chain(), 0
    for _ in range(12):
        if dice.random() < 0.5:
            count = dice.randint(1, 3)
            bench.jobs(count)
            jobs += count
        chain.drop, chain.hold = dice.random() < 0.3, dice.random() < 0.3
        process = Process(bench, chain, [signer], kill_at=dice.choice([None, *STEPS]))
        try:
            process.turn()
        except Killed:
            pass
        bench.clock.advance(dice.choice([1, 4, 30, 90]))
        chain.include()
    chain.drop = chain.hold = False
    settle(Process(bench, chain, [signer]), bench, chain, turns=12)
    assert committed(chain).earned_nanoton == jobs * NET
    states = [contract.Commit.from_signed_body(contract.read_boc(b, "body"))[1].content.epoch for b in chain.accepted]
    assert states == list(range(1, chain.state.epoch + 1))


def test_the_same_bytes_are_sent_until_they_expire_and_only_then_others(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    bench.jobs(1)
    chain = make_chain()
    chain.drop = True
    process = Process(bench, chain, [signer])
    for _ in range(3):
        process.turn()
        bench.clock.advance(20)
    assert len(chain.sent) == 3
    assert len(set(chain.sent)) == 1
    bench.clock.advance(1)
    process.turn()
    assert len(set(chain.sent)) == 2
    first, second = (contract.Commit.from_signed_body(contract.read_boc(b, "body"))[1] for b in (chain.sent[0], chain.sent[-1]))
    assert first.content == second.content
    assert second.valid_until > first.valid_until


def test_a_body_that_was_included_late_is_booked_and_the_resent_one_refused(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    bench.jobs(1)
    chain = make_chain()
    chain.hold = True
    process = Process(bench, chain, [signer])
    process.turn()
    process.turn()
    chain.include()
    assert (chain.state.epoch, len(chain.accepted)) == (1, 1)
    settle(process, bench, chain)
    assert [row.state for row in process.epochs.all()] == ["committed"]


def test_nothing_is_sent_without_the_lease(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    bench.jobs(1)
    chain = make_chain()
    process = Process(bench, chain, [signer])
    process.committer._may_send = lambda: False
    outcome = process.turn()
    assert chain.sent == []
    assert "Lease" in outcome.detail


def test_an_unreachable_chain_is_an_error_and_the_ledger_waits(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    bench.jobs(1)
    chain = make_chain()
    chain.unreachable = True
    process = Process(bench, chain, [signer])
    with pytest.raises(ChainError):
        process.turn()
    chain.unreachable = False
    settle(process, bench, chain)
    assert chain.state.epoch == 1


def test_an_underfunded_contract_is_not_promised_from_and_a_top_up_cures_it(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    bench.jobs(1)
    chain = make_chain(balance=contract.RESERVE_NANOTON + NET - 1)
    process = Process(bench, chain, [signer])
    with pytest.raises(SettlementError, match="nanoton") as caught:
        process.turn()
    assert (caught.value.reason, process.epochs.view().frozen) == (SettlementReason.UNDERFUNDED, None)
    chain.balance += 1
    settle(process, bench, chain)
    assert chain.state.epoch == 1


def test_the_cap_of_an_epoch_splits_the_receipts_over_several(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    bench.jobs(5)
    chain = make_chain(cap=50)
    process = Process(bench, chain, [signer])
    settle(process, bench, chain, turns=20)
    assert (chain.state.epoch, committed(chain).earned_nanoton, chain.refused) == (3, 5 * NET, [])


def test_a_receipt_over_the_cap_stops_settlement_with_a_reason(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    bench.jobs(1)
    process = Process(bench, make_chain(cap=24), [signer])
    with pytest.raises(SettlementError) as caught:
        process.turn()
    assert caught.value.reason == SettlementReason.EPOCH_OVER_CAP


def test_a_rotated_key_signs_from_the_next_body_on(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    new = SeedSigner(bytes(range(32)))
    bench.jobs(1)
    chain = make_chain()
    chain.drop = True
    process = Process(bench, chain, [signer, new])
    process.turn()
    chain.drop, chain.state = False, replace(chain.state, signer_key=new.public_key)
    process.turn()
    assert chain.refused == [101]
    bench.clock.advance(61)
    settle(process, bench, chain)
    assert chain.state.epoch == 1


def test_a_foreign_commit_stops_until_a_person_adopts_it(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    bench.jobs(2)
    chain = make_chain()
    settle(Process(bench, chain, [signer]), bench, chain)
    root = replace(chain.state.pending or chain.state.active, earned_nanoton=1000, root=b"f" * 32)
    root = contract.Root(root=b"f" * 32, earned_nanoton=1000, fees_nanoton=root.fees_nanoton)
    chain.state = replace(chain.state, epoch=7, last_hash=b"h" * 32, active=root, pending=None)
    process = Process(bench, chain, [signer])
    outcome = process.turn()
    assert (outcome.decision.action, outcome.decision.reason) == (Action.STOP, SettlementReason.STATE_FOREIGN)
    assert process.epochs.adopt(chain.state, bench.now) == (1000 - 2 * NET, 0)
    assert process.turn().decision.reason == SettlementReason.SETTLED
    bench.jobs(1)
    settle(process, bench, chain)
    newest = committed(chain)
    assert (chain.state.epoch, newest.earned_nanoton) == (8, 1000 + NET)
    assert contract.earned_leaves(contract.read_earned((process.folder / "epochs/8/earned.boc").read_bytes())) == {
        bytes.fromhex("aa" * 32): 3 * NET
    }


def test_a_cancelled_epoch_stops_and_after_adoption_its_receipts_are_committed_again(
    bench: Any, make_chain: Any, signer: SeedSigner
) -> None:
    bench.jobs(2)
    chain = make_chain()
    process = Process(bench, chain, [signer])
    process.turn()
    chain.cancel()
    process.turn()
    outcome = process.turn()
    assert (outcome.decision.action, outcome.decision.reason) == (Action.STOP, SettlementReason.EPOCH_CANCELLED)
    assert process.epochs.adopt(chain.state, bench.now) == (0, 0)
    bench.clock.advance(10)
    settle(process, bench, chain)
    assert (chain.state.epoch, committed(chain).earned_nanoton) == (2, 2 * NET)


def test_another_code_or_other_terms_are_refused(bench: Any, make_chain: Any, signer: SeedSigner) -> None:
    bench.jobs(1)
    chain = make_chain()
    process = Process(bench, chain, [signer])
    account = asyncio.run(chain.account("0:" + "c0" * 32))
    for strange in (replace(account, code=account.data), replace(account, data=contract_data(chain, fee_bps=499))):

        async def answer(_address: str, strange: Any = strange) -> Any:
            return strange

        chain.account = answer
        with pytest.raises(ChrysalisError) as caught:
            process.turn()
        assert caught.value.reason == SettlementReason.CONTRACT_FOREIGN


def contract_data(chain: Any, **changes: Any) -> Any:
    return contract.initial_data(replace(chain.state.policy, **changes), chain.state.signer_key)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """fsync is not what is tested here, and there are hundreds of them."""
    monkeypatch.setattr("chrysalis.settlement.publisher.os.fsync", lambda _fd: None)
    return lambda: None
