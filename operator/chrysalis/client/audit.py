"""The audit: who must be paid what, from receipts alone, against what the chain proves.  Pure but for reading published files.

What is trusted: the contract's proven state, and the signatures on receipts and tickets.  The settler's files are believed only
where they hash to that state.  Steps, marked in `audit`:

1. Each receipt by itself: signatures, ties to offer, ticket and certificate, price (receipts.records.check).
2. Each worker's chain: no receipt missing, none twice (with `own`, only what one's own receipts can show).
3. No ticket pays twice.
4. The epoch's content is the one whose hash is in the contract's state, and its root is in force there.
5. Each receipt stands in the committed log, and (unless `own`) each entry of the log is a receipt in the files.
6. For each wallet: the sum of net amounts is the committed leaf (with `own`: is at most the leaf).
7. Fees and totals are the content's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytoniq_core import Cell

from chrysalis.chain import contract
from chrysalis.chain.reasons import ChainError
from chrysalis.client.reasons import ClientError, ClientReason
from chrysalis.receipts import chain, jws, merkle, pricing
from chrysalis.receipts.objects import Receipt
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason
from chrysalis.receipts.records import Checked, Record, check
from chrysalis.wire.settler import FILE_CONTENT, FILE_EARNED, FILE_LEAVES
from chrysalis.wire.settler_client import EpochSource

ENTRY_BYTES = 32
SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be: a stable reason, what it is about, and a sentence."""

    reason: str
    subject: str
    message: str


@dataclass(frozen=True)
class Published:
    """An epoch's files, as read; `audit` compares them with the proven state."""

    content: contract.CommitContent
    earned: Cell | None
    entries: Sequence[bytes]


@dataclass
class WalletSum:
    """One wallet: what receipts give, what is committed, what was paid out; in nanoton."""

    receipts: int = 0
    amount_nanoton: int = 0
    fee_nanoton: int = 0
    net_nanoton: int = 0
    committed_nanoton: int = 0
    claimed_nanoton: int = 0


@dataclass
class Audit:
    """The outcome; it holds when `findings` is empty."""

    epoch: int
    receipts: int
    findings: list[Finding] = field(default_factory=list)
    wallets: dict[str, WalletSum] = field(default_factory=dict)
    not_committed: list[str] = field(default_factory=list)
    """Receipts that no epoch covers yet; not a fault by itself."""
    refused: dict[str, int] = field(default_factory=dict)
    """Receipts that the settler recorded as unpaid, by its reason; their amounts are not in the sums."""
    loss_nanoton: int = 0
    """Earned by the content's word, but in nobody's leaf (`ledger adopt`)."""

    @property
    def holds(self) -> bool:
        """Whether everything is as it must be."""
        return not self.findings

    def to_json_dict(self) -> dict[str, Any]:
        """For `-o json`; amounts are decimal strings."""
        return {
            "schemaVersion": "chrysalis/v1",
            "holds": self.holds,
            "epoch": self.epoch,
            "receipts": self.receipts,
            "findings": [{"reason": f.reason, "subject": f.subject, "message": f.message} for f in self.findings],
            "wallets": [
                {
                    "wallet": wallet,
                    "receipts": s.receipts,
                    "amountNanoton": str(s.amount_nanoton),
                    "feeNanoton": str(s.fee_nanoton),
                    "netNanoton": str(s.net_nanoton),
                    "committedNanoton": str(s.committed_nanoton),
                    "claimedNanoton": str(s.claimed_nanoton),
                }
                for wallet, s in sorted(self.wallets.items())
            ],
            "notCommitted": self.not_committed,
            "refused": self.refused,
            "lossNanoton": str(self.loss_nanoton),
        }


def read_published(source: EpochSource, epoch: int) -> Published | None:
    """The files of an epoch (None for epoch 0: nothing was committed); raises WireError, ChainError, ClientError."""
    if epoch == 0:
        return None
    content = contract.CommitContent.from_boc(source.read(f"epochs/{epoch}/{FILE_CONTENT}"))
    earned = contract.read_earned(source.read(f"epochs/{epoch}/{FILE_EARNED}"))
    leaves = source.read(f"epochs/{epoch}/{FILE_LEAVES}")
    if len(leaves) % ENTRY_BYTES:
        raise ClientError(
            ClientReason.AUDIT_FAILED,
            f"{FILE_LEAVES} of epoch {epoch} is not a list of hashes",
            "get the file again",
            f"{len(leaves)} bytes",
        )
    return Published(content, earned, [leaves[i : i + ENTRY_BYTES] for i in range(0, len(leaves), ENTRY_BYTES)])


def audit(
    lines: Iterable[tuple[str, str]],
    *,
    set_name: str,
    state: contract.State,
    published: Published | None,
    ear_key: bytes | None = None,
    own: bool = False,
) -> Audit:
    """Judge receipt files against proven state.

    lines: (where it stands, the JSON line).  set_name: the contract's.  ear_key: of the broker that certified receipt keys; without
    one the certificates are taken as they are, and only the log and the leaves bind them.
    own: the files hold one party's receipts only, not the whole account's.
    """
    found = Audit(epoch=state.epoch, receipts=0)
    checked = _each(lines, set_name, ear_key, found)  # 1
    found.receipts = len(checked)
    _chains([c for c, _ in checked], own, found)  # 2
    _tickets([c for c, refusal in checked if not refusal], found)  # 3
    if published is None:
        found.not_committed = [_subject(c.receipt) for c, _ in checked]
        return found
    content = _content(published, state, found)  # 4
    covered = _log(checked, published, own, found)  # 5
    _sums(covered, state, published, own, found)  # 6
    if not own:
        _totals(content, published, found)  # 7
    return found


def _each(lines: Iterable[tuple[str, str]], set_name: str, ear_key: bytes | None, found: Audit) -> list[tuple[Checked, str]]:
    """Check each line by itself; a line that stands in two files counts once."""
    checked: dict[str, tuple[Checked, str]] = {}
    for where, line in lines:
        subject = where
        try:
            record = Record.from_line(line)
            subject = f"{where}: {_named(record.receipt)}"
            one = check(record, ear_key=ear_key, billed=not record.refusal)
            if one.receipt.set != set_name:
                raise ReceiptError(ReceiptReason.RECEIPT_OFFER_MISMATCH, f"it belongs to {one.receipt.set}, not to this contract")
        except ReceiptError as error:
            found.findings.append(Finding(str(error.reason), subject, error.message))
            continue
        identity = jws.identity(one.token)
        if record.refusal and identity not in checked:
            found.refused[record.refusal] = found.refused.get(record.refusal, 0) + 1
        checked[identity] = (one, record.refusal or checked.get(identity, (one, ""))[1])
    return list(checked.values())


def _chains(checked: Sequence[Checked], own: bool, found: Audit) -> None:
    by_worker: dict[str, list[Checked]] = defaultdict(list)
    for one in checked:
        by_worker[one.receipt.wrk].append(one)
    for wrk, run in sorted(by_worker.items()):
        run.sort(key=lambda c: c.receipt.seq)
        head = chain.Head.start(wrk)
        for one in run:
            try:
                head = chain.advance(head, one.receipt, one.token)
            except ReceiptError as error:
                gap = error.reason == ReceiptReason.RECEIPT_GAP
                if not (gap and own):
                    found.findings.append(Finding(str(error.reason), f"worker {wrk[:16]}", error.message))
                head = chain.Head(wrk, max(head.seq, one.receipt.seq), jws.identity(one.token))


def _tickets(paid: Sequence[Checked], found: Audit) -> None:
    seen: dict[tuple[str, str], Receipt] = {}
    for one in paid:
        if one.ticket is None:
            continue
        key = (one.ticket_kid, one.ticket.nonce)
        if key in seen:
            message = f"its ticket already paid for {_subject(seen[key])}"
            found.findings.append(Finding("TicketSpentTwice", _subject(one.receipt), message))
        seen.setdefault(key, one.receipt)


def _content(published: Published, state: contract.State, found: Audit) -> contract.CommitContent:
    content = published.content
    in_force = {state.active.root} | ({state.pending.root} if state.pending else set())
    for holds, reason, message in (
        (content.hash == state.last_hash, "ContentForeign", "content.boc is not what the contract's lastHash is the hash of"),
        (content.root in in_force, "EpochCancelled", "the content's root is neither pending nor active: the epoch was cancelled"),
        (contract.root_hash(published.earned) == content.root, "EarnedForeign", "earned.boc does not hash to the committed root"),
        (
            (merkle.root(published.entries), len(published.entries)) == (content.log_root, content.log_size),
            "LogForeign",
            "leaves.bin is not the log that the content commits to",
        ),
    ):
        if not holds:
            found.findings.append(Finding(reason, f"epoch {state.epoch}", message))
    return content


def _log(checked: Sequence[tuple[Checked, str]], published: Published, own: bool, found: Audit) -> list[Checked]:
    """The paid receipts that the log covers."""
    missing = set(published.entries)
    covered = []
    for one, refusal in checked:
        entry = bytes.fromhex(jws.identity(one.token))
        if entry not in missing:
            found.not_committed.append(_subject(one.receipt))
            continue
        missing.discard(entry)
        if not refusal:
            covered.append(one)
    if missing and not own:
        places = [str(i) for i, entry in enumerate(published.entries) if entry in missing]
        shown = ", ".join(places[:SHOWN]) + (", …" if len(places) > SHOWN else "")
        message = f"{len(places)} of {len(published.entries)} receipts in the committed log are in no file (positions {shown})"
        found.findings.append(Finding("ReceiptMissing", f"epoch {published.content.epoch}", message))
    return covered


def _sums(covered: Sequence[Checked], state: contract.State, published: Published, own: bool, found: Audit) -> None:
    sums: dict[str, WalletSum] = defaultdict(WalletSum)
    for one in covered:
        fee = pricing.fee(one.receipt.amt, state.policy.fee_bps)
        s = sums[one.wallet]
        s.receipts, s.amount_nanoton = s.receipts + 1, s.amount_nanoton + one.receipt.amt
        s.fee_nanoton, s.net_nanoton = s.fee_nanoton + fee, s.net_nanoton + one.receipt.amt - fee
    try:
        leaves = {f"0:{account.hex()}": value for account, value in contract.earned_leaves(published.earned).items()}
    except ChainError as error:
        found.findings.append(Finding(str(error.reason), f"epoch {state.epoch}", error.message))
        leaves = {}
    for wallet in sorted(set(sums) | (set() if own else set(leaves))):
        s = sums[wallet]
        s.committed_nanoton = leaves.get(wallet, 0)
        s.claimed_nanoton = state.claimed_nanoton(contract.account_id(wallet))
        wrong = s.net_nanoton > s.committed_nanoton if own else s.net_nanoton != s.committed_nanoton
        if wrong:
            message = f"receipts give {s.net_nanoton} nanoton net, committed are {s.committed_nanoton}"
            found.findings.append(Finding("SumMismatch", f"wallet {wallet}", message))
        if s.claimed_nanoton > max(s.committed_nanoton, 0):
            message = f"{s.claimed_nanoton} nanoton were paid out, more than the committed {s.committed_nanoton}"
            found.findings.append(Finding("ClaimedTooMuch", f"wallet {wallet}", message))
    found.wallets = dict(sums)


def _totals(content: contract.CommitContent, published: Published, found: Audit) -> None:
    net = sum(s.committed_nanoton for s in found.wallets.values())
    fees = sum(s.fee_nanoton for s in found.wallets.values())
    found.loss_nanoton = max(0, content.earned_nanoton - net)
    if content.earned_nanoton < net:
        message = f"the leaves sum to {net} nanoton, the content says {content.earned_nanoton}"
        found.findings.append(Finding("TotalMismatch", f"epoch {content.epoch}", message))
    if content.fees_nanoton != fees and found.loss_nanoton == 0:
        message = f"receipts give {fees} nanoton of fees, the content says {content.fees_nanoton}"
        found.findings.append(Finding("FeesMismatch", f"epoch {content.epoch}", message))


def _named(token: str) -> str:
    """Worker and seq that a receipt claims, so that a person can find it even when its signature is broken."""
    try:
        return _subject(Receipt.parse_unverified(token))
    except ReceiptError:
        return "a receipt that cannot be read"


def _subject(receipt: Receipt) -> str:
    return f"receipt {receipt.seq} of worker {receipt.wrk[:16]}"
