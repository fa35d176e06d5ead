"""What the settler commits, an auditor re-derives from receipts and proven state; what was changed or left out is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chrysalis.chain import contract, dictionary
from chrysalis.chain.signer import SeedSigner
from chrysalis.cli import audit as audit_verb
from chrysalis.cli import earnings, epochs, ledger, onchain
from chrysalis.client.audit import Audit, audit, read_published
from chrysalis.client.reasons import ClientError
from chrysalis.receipts import jws
from chrysalis.receipts.objects import Receipt
from chrysalis.receipts.records import Record
from chrysalis.settlement.committer import Committer
from chrysalis.settlement.epoch_store import EpochStore
from chrysalis.settlement.publisher import Publisher
from chrysalis.wire.settler import FILE_LEAVES
from chrysalis.wire.settler_client import EpochFolder

NET = 24
WALLETS = ("0:" + "aa" * 32, "0:" + "bb" * 32)


class Settled:
    """Three jobs of one worker and two of another, committed and published; `lines` is the whole account's file."""

    def __init__(self, bench: Any, chain: Any, signer: SeedSigner) -> None:
        self.bench, self.chain = bench, chain
        self.other = bench.worker_for(WALLETS[1])
        bench.jobs(3)
        bench.jobs(2, self.other)
        store = EpochStore(bench.ledger)
        self.folder: Path = bench.path.parent / "published"
        self.committer = Committer(
            chain=chain,
            address="0:" + "c0" * 32,
            fee_bps=500,
            global_id=-3,
            epochs=store,
            publisher=Publisher(self.folder, store, bench.ledger.set_name()),
            signers=[signer],
            clock=bench.clock,
            valid_seconds=60,
        )
        self.settle()
        self.lines = [record.to_line() for _, record in bench.ledger.records()]

    def settle(self) -> None:
        for _ in range(4):
            asyncio.run(self.committer.turn())
            self.bench.clock.advance(3)

    def audit(self, lines: list[str] | None = None, **options: Any) -> Audit:
        chosen = self.lines if lines is None else lines
        numbered = [(f"receipts.jsonl:{n}", line) for n, line in enumerate(chosen, 1)]
        published = read_published(EpochFolder(self.folder), self.chain.state.epoch)
        return audit(numbered, set_name=self.bench.ledger.set_name(), state=self.chain.state, published=published, **options)


@pytest.fixture
def settled(bench: Any, make_chain: Any, signer: SeedSigner) -> Settled:
    return Settled(bench, make_chain(), signer)


def reasons(outcome: Audit) -> list[str]:
    return [f.reason for f in outcome.findings]


def changed(line: str, **claims: Any) -> str:
    """The line with claims of its receipt changed, the signature left as it was."""
    record = Record.from_line(line)
    head, payload, signature = record.receipt.split(".")
    document = json.loads(jws.from_b64u(payload)) | claims
    token = f"{head}.{jws.b64u(json.dumps(document, separators=(',', ':')).encode())}.{signature}"
    return record.model_copy(update={"receipt": token}).to_line()


def resigned(settled: Settled, line: str, **changes: Any) -> str:
    """The line with its receipt changed and signed again by the worker's own key."""
    record = Record.from_line(line)
    receipt = Receipt.parse_unverified(record.receipt).model_copy(update=changes)
    return record.model_copy(update={"receipt": receipt.sign(settled.bench.worker.key)}).to_line()


def test_all_agrees(settled: Settled) -> None:
    outcome = settled.audit(ear_key=settled.bench.ear.public_key().public_bytes_raw())
    assert (outcome.findings, outcome.epoch, outcome.receipts, outcome.not_committed) == ([], 1, 5, [])
    assert {w: (s.receipts, s.net_nanoton, s.committed_nanoton, s.claimed_nanoton) for w, s in outcome.wallets.items()} == {
        WALLETS[0]: (3, 3 * NET, 3 * NET, 0),
        WALLETS[1]: (2, 2 * NET, 2 * NET, 0),
    }


@pytest.mark.parametrize("length", [1, 31, 33])
def test_leaves_that_are_no_list_of_hashes_are_refused(settled: Settled, length: int) -> None:
    path = settled.folder / f"epochs/{settled.chain.state.epoch}/{FILE_LEAVES}"
    path.write_bytes(bytes(length))
    with pytest.raises(ClientError) as refused:
        settled.audit()
    assert (refused.value.reason, refused.value.detail) == ("AuditFailed", f"{length} bytes")


def test_a_receipt_with_a_changed_amount_is_named(settled: Settled) -> None:
    lines = list(settled.lines)
    lines[1] = changed(lines[1], amt="26")
    outcome = settled.audit(lines)
    first = outcome.findings[0]
    assert first.reason == "SignatureInvalid"
    assert first.subject == f"receipts.jsonl:2: receipt 2 of worker {settled.bench.worker.wrk[:16]}"
    assert "SumMismatch" in reasons(outcome)


def test_an_amount_that_the_worker_itself_signed_wrongly_is_named(settled: Settled) -> None:
    lines = list(settled.lines)
    lines[2] = resigned(settled, lines[2], amt=26)
    first = settled.audit(lines).findings[0]
    assert (first.reason, "26 nanoton" in first.message) == ("ReceiptAmountWrong", True)


@pytest.mark.parametrize("missing", [0, 1, 2, 4])
def test_a_missing_line_is_named_wherever_it_stood(settled: Settled, missing: int) -> None:
    outcome = settled.audit(settled.lines[:missing] + settled.lines[missing + 1 :])
    assert "ReceiptMissing" in reasons(outcome)
    assert "SumMismatch" in reasons(outcome)
    assert ("ReceiptGap" in reasons(outcome)) == (missing < 2)  # the last of a chain leaves no gap; the log shows it


def test_one_partys_own_receipts_need_not_be_all(settled: Settled) -> None:
    outcome = settled.audit([settled.lines[0], settled.lines[2]], own=True)
    assert (outcome.findings, outcome.wallets[WALLETS[0]].net_nanoton) == ([], 2 * NET)


def test_a_line_twice_or_in_two_files_counts_once(settled: Settled) -> None:
    assert settled.audit(settled.lines + settled.lines).findings == []


def test_receipts_after_the_epoch_are_not_yet_committed(settled: Settled) -> None:
    settled.bench.jobs(1)
    lines = [record.to_line() for _, record in settled.bench.ledger.records()]
    outcome = settled.audit(lines)
    assert (outcome.findings, len(outcome.not_committed)) == ([], 1)
    settled.settle()
    assert settled.audit(lines).not_committed == []


def test_a_ticket_that_pays_twice_is_named(settled: Settled) -> None:
    bench = settled.bench
    ticket = Receipt.parse_unverified(Record.from_line(settled.lines[0]).receipt).ticket
    token = bench.worker.receipt(bench.client, ticket=ticket)
    line = Record.from_line(settled.lines[0]).model_copy(update={"receipt": token}).to_line()
    assert "TicketSpentTwice" in reasons(settled.audit([*settled.lines, line]))
    bench.append(token)  # the settler takes it unpaid, and its records say so
    lines = [record.to_line() for _, record in bench.ledger.records()]
    settled.settle()
    outcome = settled.audit(lines)
    assert (outcome.findings, outcome.refused) == ([], {"TicketSpentTwice": 1})


def test_a_fork_is_named(settled: Settled) -> None:
    fork = resigned(settled, settled.lines[2], t=settled.bench.now + 1)
    assert "ReceiptForked" in reasons(settled.audit([*settled.lines, fork]))


def test_another_brokers_certificate_is_named_when_the_ear_key_is_known(settled: Settled) -> None:
    assert reasons(settled.audit(ear_key=b"e" * 32))[:5] == ["ObjectKeyUnexpected"] * 5


def test_a_line_that_is_no_receipt_is_named_by_its_place(settled: Settled) -> None:
    outcome = settled.audit([*settled.lines, "{}", "not json"])
    assert [f.subject for f in outcome.findings] == ["receipts.jsonl:6", "receipts.jsonl:7"]


@pytest.mark.parametrize(
    ("name", "edit", "reason"),
    [
        ("leaves.bin", lambda d: d[:-32], "LogForeign"),
        ("leaves.bin", lambda d: d[32:64] + d[:32] + d[64:], "LogForeign"),
        ("earned.boc", lambda d: contract.earned_boc(contract.earned_cell({bytes.fromhex("aa" * 32): 999})), "EarnedForeign"),
    ],
    ids=["a leaf left out", "leaves swapped", "another dictionary"],
)
def test_published_files_that_do_not_hash_to_the_chain_are_named(
    settled: Settled, name: str, edit: Callable[[bytes], bytes], reason: str
) -> None:
    file = settled.folder / "epochs/1" / name
    file.write_bytes(edit(file.read_bytes()))
    assert reason in reasons(settled.audit())


def test_another_content_than_the_chains_is_named(settled: Settled) -> None:
    file = settled.folder / "epochs/1/content.boc"
    content = contract.CommitContent.from_boc(file.read_bytes())
    file.write_bytes(replace(content, fees_nanoton=content.fees_nanoton + 1).to_boc())
    assert {"ContentForeign", "FeesMismatch"} <= set(reasons(settled.audit()))


def test_a_cancelled_epoch_is_named(settled: Settled) -> None:
    settled.chain.cancel()
    assert "EpochCancelled" in reasons(settled.audit())


def test_what_was_paid_out_stands_beside_what_was_committed(settled: Settled) -> None:
    def claims(amount: int) -> Any:
        return dictionary.build({bytes.fromhex("aa" * 32): amount}, lambda b, v: b.store_coins(v))

    settled.chain.state = replace(settled.chain.state, claims=claims(3 * NET), paid_nanoton=3 * NET)
    assert settled.audit().wallets[WALLETS[0]].claimed_nanoton == 3 * NET
    settled.chain.state = replace(settled.chain.state, claims=claims(3 * NET + 1))
    assert reasons(settled.audit()) == ["ClaimedTooMuch"]


class Verbs:
    """The verbs of the command line over the fake chain."""

    def __init__(self, settled: Settled, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        chain = settled.chain

        class Client:
            def __init__(self, *_: object) -> None: ...
            async def __aenter__(self) -> Any:
                return chain

            async def __aexit__(self, *_: object) -> None: ...

        monkeypatch.setattr(onchain, "LiteserverClient", Client)
        self.settled = settled
        self.chain_file = folder / "chain.json"
        self.chain_file.write_text(
            json.dumps({"liteservers": [{"host": "h", "port": 1, "key": "00" * 32}], "minServers": 1, "globalId": -3})
        )
        self.receipts = folder / "receipts.jsonl"
        self.receipts.write_text("\n".join(settled.lines) + "\n")
        self.contract = ["--contract", "0:" + "c0" * 32]

    def run(self, verb: Any, *arguments: str) -> Any:
        return CliRunner().invoke(verb, [*arguments, "--chain", str(self.chain_file), *self.contract], standalone_mode=False)

    def audit(self, *more: str) -> Any:
        return self.run(audit_verb.command, "--receipts", str(self.receipts), "--epochs", str(self.settled.folder), *more)


@pytest.fixture
def verbs(settled: Settled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Verbs:
    return Verbs(settled, monkeypatch, tmp_path)


def test_the_verb_says_yes_no_and_unreachable_by_its_exit_code(verbs: Verbs) -> None:
    good = verbs.audit()
    assert (good.return_value, "agree" in good.output) == (0, True)
    document = json.loads(verbs.audit("-o", "json").stdout)
    assert (document["holds"], [w["netNanoton"] for w in document["wallets"]]) == (True, ["72", "48"])
    lines = verbs.settled.lines
    verbs.receipts.write_text("\n".join([lines[0], changed(lines[1], amt="1"), *lines[2:]]))
    bad = verbs.audit()
    assert (bad.return_value, f"receipt 2 of worker {verbs.settled.bench.worker.wrk[:16]}" in bad.output) == (1, True)
    assert verbs.run(audit_verb.command, "--receipts", str(verbs.receipts), "--epochs", str(verbs.settled.folder / "no")).return_value == 3


def test_epochs_earnings_and_the_ledger_tell_the_same(verbs: Verbs, tmp_path: Path) -> None:
    assert (
        "72"
        in json.loads(verbs.run(earnings.command, "--epochs", str(verbs.settled.folder), "--wallet", WALLETS[0], "-o", "json").stdout)[
            "committedNanoton"
        ]
    )
    assert json.loads(verbs.run(epochs.command, "-o", "json").stdout)["epoch"] == "1"
    path = str(verbs.settled.bench.path)
    shown = CliRunner().invoke(ledger.command, ["show", "--ledger", path], standalone_mode=False)
    assert "committed" in shown.output
    out = tmp_path / "export.jsonl"
    CliRunner().invoke(ledger.command, ["export", "--ledger", path, "--out", str(out)], standalone_mode=False)
    assert out.read_text().splitlines() == verbs.settled.lines


def test_adopting_asks_first(verbs: Verbs) -> None:
    path = str(verbs.settled.bench.path)
    verbs.settled.chain.cancel()
    assert "add --yes" in verbs.run(ledger.command, "adopt", "--ledger", path).output
    done = verbs.run(ledger.command, "adopt", "--ledger", path, "--yes")
    assert (done.return_value, "taken over" in done.output) == (0, True)
