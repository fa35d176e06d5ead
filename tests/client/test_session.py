"""The verifying client against a real TLS server: it sends nothing to a worker that it has not verified, and believes no receipt unseen."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api.initdata import mrconfigid
from chrysalis.client.blocking import BlockingClient
from chrysalis.client.reasons import ClientError, ClientReason
from chrysalis.client.receipt_file import ReceiptFile
from chrysalis.client.session import Client
from chrysalis.receipts import jws, salted
from chrysalis.receipts.objects import Receipt, Status, Ticket
from chrysalis.receipts.records import check
from chrysalis.wire.reasons import WireError, WireReason

CLIENT = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
MODEL = "sha256:" + "1" * 64


def client(served: Any, **options: Any) -> BlockingClient:
    settings = {"policy": served.worker.policy(), "client_key": CLIENT, "model_digest": MODEL} | options
    return BlockingClient(Client(served.endpoint, **settings))


def refusal(served: Any, **options: Any) -> ClientError:
    """The error of a client that must send no job."""
    with pytest.raises(ClientError) as caught, client(served, **options) as made:
        made.embeddings(["secret"])
    assert served.worker.requests == []
    return caught.value


def test_a_verified_worker_serves_jobs_and_their_receipts_are_kept(serve: Callable[..., Any], tmp_path: Path) -> None:
    served = serve()
    file = ReceiptFile(tmp_path / "receipts.jsonl")
    ear = served.worker.ear.public_key().public_bytes_raw()
    with client(served, receipts=file, ear_key=ear) as made:
        first = made.embeddings(["cat", "kitten"])
        second = made.embeddings(["dog"])
    assert first.vectors == [[3.0, 1.0], [6.0, 1.0]]
    assert (first.receipt.seq, first.receipt.amt, second.receipt.amt) == (1, 9, 7)
    kept = file.records()
    assert [check(r, ear_key=ear).receipt.seq for r in kept] == [1, 2]
    assert (tmp_path / "receipts.jsonl").stat().st_mode & 0o077 == 0
    ticket = Ticket.parse(first.receipt.ticket, CLIENT.public_key().public_bytes_raw())
    assert ticket.req == salted.request_hash(jws.from_b64u(kept[0].salt), served.worker.requests[0].encode())
    assert kept[0].salt != kept[1].salt


def test_the_verdict_says_what_was_verified(serve: Callable[..., Any]) -> None:
    served = serve()
    with client(served) as made:
        worker = made.connect()
    assert (worker.mode, worker.verdict.evidence_class, worker.verdict.measurement_name) == ("fresh-quote", "Simulated", "simulated")
    assert worker.identity == served.worker.identity


def test_a_worker_without_an_account_needs_no_ticket(serve: Callable[..., Any]) -> None:
    served = serve(set_name="none")
    with client(served, client_key=None) as made:
        job = made.embeddings(["a"])
    assert (job.receipt.ticket, job.receipt.amt) == ("", 7)


def test_another_policy_refuses_with_the_verdicts_reasons(serve: Callable[..., Any]) -> None:
    served = serve()
    other = served.worker.policy().to_json_dict()
    other["tdx"]["measurements"][0]["mrtd"] = "00" * 48
    error = refusal(served, policy=type(served.worker.policy()).model_validate(other))
    assert error.reason == ClientReason.EVIDENCE_REFUSED
    assert [r.reason for r in error.reasons] == ["MeasurementNotAllowed"]
    assert error.remedy


def test_a_policy_that_leaves_the_model_open_needs_a_pinned_model(serve: Callable[..., Any]) -> None:
    """Another owner's worker of the same image may hold a model that sends prompts elsewhere."""
    served = serve()
    assert refusal(served, model_digest=None).reason == ClientReason.MODEL_NOT_PINNED
    assert refusal(served, model_digest="sha256:" + "2" * 64).reason == ClientReason.MODEL_MISMATCH
    open_to_all, exact = served.worker.policy().to_json_dict(), served.worker.policy().to_json_dict()
    for policy, value in ((open_to_all, "Any"), (exact, mrconfigid(served.worker.toml).hex())):
        del policy["tdx"]["measurements"][0]["initdata"]
        policy["tdx"]["measurements"][0]["mrconfigid"] = value
    kind = type(served.worker.policy())
    assert refusal(served, policy=kind.model_validate(open_to_all), model_digest=None).reason == ClientReason.MODEL_NOT_PINNED
    with client(served, policy=kind.model_validate(exact), model_digest=None) as made:
        assert made.embeddings(["a"]).vectors


def flip(data: bytes) -> bytes:
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


BENT = [
    ("a stale nonce", {"nonce": lambda n: b"x" * 32}, ClientReason.EVIDENCE_STALE),
    ("stored evidence", {"document": lambda d: d.model_copy(update={"mode": "stored"})}, ClientReason.EVIDENCE_STALE),
    ("one flipped byte of the quote", {"quote": flip}, ClientReason.EVIDENCE_REFUSED),
    ("a truncated quote", {"quote": lambda q: q[:100]}, ClientReason.EVIDENCE_REFUSED),
    ("another's TLS key", {"spki": lambda s: b"s" * 32}, ClientReason.KEY_NOT_BOUND),
    (
        "other claims",
        {"document": lambda d: d.model_copy(update={"claims_buffer": base64.b64encode(b"x").decode()})},
        ClientReason.KEY_NOT_BOUND,
    ),
    (
        "another receipt key than the quote covers",
        {"document": lambda d: with_keys(d, receipt=OTHER.public_key().public_bytes_raw().hex())},
        ClientReason.EVIDENCE_REFUSED,
    ),
    ("another HPKE key", {"document": lambda d: with_keys(d, hpke="11" * 32)}, ClientReason.EVIDENCE_REFUSED),
    ("another claimed identity", {"document": lambda d: with_claimed(d, pod_uid="x")}, ClientReason.EVIDENCE_REFUSED),
    ("no collateral", {"collateral": lambda c: "{}"}, ClientReason.EVIDENCE_REFUSED),
    ("another EAR key", {"ear_key": lambda k: OTHER}, ClientReason.CERTIFICATE_MISMATCH),
    ("another wallet", {"certificate": lambda c: c.model_copy(update={"wallet": "0:" + "bb" * 32})}, ClientReason.CERTIFICATE_MISMATCH),
    ("an expired certificate", {"certificate": lambda c: c.model_copy(update={"exp": c.nbf - 100})}, ClientReason.CERTIFICATE_MISMATCH),
    ("an offer by another key", {"offer_key": lambda k: OTHER}, ClientReason.OFFER_INVALID),
    (
        "an offer with other prices",
        {"offer": lambda o: o.model_copy(update={"prices": o.prices.model_copy(update={"job": 6})})},
        ClientReason.OFFER_INVALID,
    ),
    ("an expired offer", {"offer": lambda o: o.model_copy(update={"exp": o.iat - 100})}, ClientReason.OFFER_INVALID),
    ("no offer", {"document": lambda d: d.model_copy(update={"offer": ""})}, ClientReason.OFFER_INVALID),
]


def with_keys(document: Any, **keys: str) -> Any:
    evidence = document.evidence
    return document.model_copy(update={"evidence": evidence.model_copy(update={"keys": evidence.keys.model_copy(update=keys)})})


def with_claimed(document: Any, **claimed: str) -> Any:
    evidence = document.evidence
    return document.model_copy(update={"evidence": evidence.model_copy(update={"claimed": evidence.claimed.model_copy(update=claimed)})})


@pytest.mark.parametrize(("bends", "reason"), [b[1:] for b in BENT], ids=[b[0] for b in BENT])
def test_nothing_is_sent_to_a_worker_that_is_wrong_in_one_thing(
    serve: Callable[..., Any], bends: dict[str, Any], reason: ClientReason
) -> None:
    served = serve()
    served.worker.bends = bends
    assert refusal(served).reason == reason
    served.worker.bends = {}  # the twin
    with client(served) as made:
        assert made.embeddings(["a"]).receipt is not None


@pytest.mark.parametrize(
    "certificate",
    [lambda w: w.make_certificate(extension=False), lambda w: w.make_certificate(spki=b"s" * 32)],
    ids=["a certificate without evidence", "a certificate whose evidence is about another key"],
)
def test_a_certificate_that_is_no_ra_tls_is_refused(serve: Callable[..., Any], certificate: Callable[[Any], Any]) -> None:
    assert refusal(serve(certificate=certificate)).reason == ClientReason.CERTIFICATE_MISMATCH


def test_a_pinned_ear_key_must_be_the_measured_one(serve: Callable[..., Any]) -> None:
    assert refusal(serve(), ear_key=b"e" * 32).reason == ClientReason.EAR_KEY_MISMATCH


def test_a_paid_worker_needs_a_client_key(serve: Callable[..., Any]) -> None:
    assert refusal(serve(), client_key=None).reason == ClientReason.TICKET_KEY_MISSING


RECEIPTS: list[tuple[str, dict[str, Any], ClientReason]] = [
    ("another key", {"receipt_key": lambda k: OTHER}, ClientReason.RECEIPT_INVALID),
    ("a nanoton too much", {"receipt": lambda r: r.model_copy(update={"amt": r.amt + 1})}, ClientReason.RECEIPT_INVALID),
    ("another ticket", {"receipt": lambda r: r.model_copy(update={"ticket": "a.b.c"})}, ClientReason.RECEIPT_INVALID),
    ("another offer", {"receipt": lambda r: r.model_copy(update={"offer": "00" * 32})}, ClientReason.RECEIPT_INVALID),
    ("another account", {"receipt": lambda r: r.model_copy(update={"set": "-3:0:" + "00" * 32})}, ClientReason.RECEIPT_INVALID),
    ("failed yet billed", {"receipt": lambda r: r.model_copy(update={"status": Status.FAILED})}, ClientReason.RECEIPT_INVALID),
    ("an answer that was changed", {"body": lambda b: b.replace(b"1.0", b"2.0")}, ClientReason.RECEIPT_INVALID),
    (
        "a first receipt that continues something",
        {"receipt": lambda r: r.model_copy(update={"prev": "00" * 32})},
        ClientReason.RECEIPT_INVALID,
    ),
    ("no receipt", {"headers": lambda h: {}}, ClientReason.RECEIPT_MISSING),
]


@pytest.mark.parametrize(("bends", "reason"), [r[1:] for r in RECEIPTS], ids=[r[0] for r in RECEIPTS])
def test_an_answer_with_a_wrong_receipt_is_not_returned(
    serve: Callable[..., Any], tmp_path: Path, bends: dict[str, Any], reason: ClientReason
) -> None:
    served = serve()
    served.worker.bends = bends
    file = ReceiptFile(tmp_path / "receipts.jsonl")
    with client(served, receipts=file) as made, pytest.raises(ClientError) as caught:
        made.embeddings(["a"])
    assert caught.value.reason == reason
    assert file.records() == []


def test_a_second_history_is_noticed_across_restarts_of_the_client(serve: Callable[..., Any], tmp_path: Path) -> None:
    served = serve()
    file = ReceiptFile(tmp_path / "receipts.jsonl")
    start = served.worker.head
    with client(served, receipts=file) as made:
        made.embeddings(["a"])
    served.worker.head = start
    with client(served, receipts=file) as made, pytest.raises(ClientError, match="contradicts"):
        made.embeddings(["b"])


def test_a_refused_job_raises_with_the_workers_words(serve: Callable[..., Any]) -> None:
    served = serve()
    body = json.dumps({"error": {"code": "ReservationExhausted", "message": "too small"}}).encode()
    served.worker.bends = {"status": lambda s: 402, "body": lambda b: body, "headers": lambda h: {}}
    with client(served) as made, pytest.raises(ClientError, match="ReservationExhausted") as caught:
        made.embeddings(["a"])
    assert (caught.value.reason, caught.value.status) == (ClientReason.JOB_REFUSED, 402)


@pytest.mark.parametrize("answer", [b"[1]", b"null", b"no JSON", b"", b"[" * 100_000], ids=lambda answer: answer[:8].decode())
def test_an_answer_that_is_no_object_is_not_returned_and_its_receipt_is_kept(
    serve: Callable[..., Any], tmp_path: Path, answer: bytes
) -> None:
    served = serve()
    served.worker.bends = {"answer": lambda _: answer}
    file = ReceiptFile(tmp_path / "receipts.jsonl")
    with client(served, receipts=file) as made, pytest.raises(ClientError) as caught:
        made.embeddings(["a"])
    assert caught.value.reason == ClientReason.ANSWER_UNUSABLE
    assert len(file.records()) == 1  # the worker was paid for it, so the proof stays


def test_receipts_are_strict_objects(serve: Callable[..., Any]) -> None:
    served = serve()
    with client(served) as made:
        token = made.embeddings(["a"]).record.receipt
    assert Receipt.parse(token, served.worker.receipt_key.public_key().public_bytes_raw()).wrk == served.worker.wrk


def test_an_endpoint_must_be_https(serve: Callable[..., Any]) -> None:
    served = serve()
    for bad in ("http://127.0.0.1:1", "https://127.0.0.1:1/path", "worker", "https://u@h"):
        with pytest.raises(WireError) as caught, BlockingClient(Client(bad, policy=served.worker.policy())):
            pass
        assert caught.value.reason == WireReason.SERVICE_UNREACHABLE
