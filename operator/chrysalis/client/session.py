"""A verified connection to one worker: tickets out, answers and receipts in.

`connect` verifies before anything is sent that could matter (its one request before that asks for the evidence), in one of three
modes: `fresh-quote`, `ear`, `offline` (chrysalis.attestation.freshness).  A verification holds for every connection of its pool until
it ends; from then on nothing leaves before the worker is verified again, over a new connection.  Each job gets a fresh salt and nonce;
its receipt is checked and kept before the answer is returned.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from chrysalis.amounts import LIMIT
from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation.freshness import FreshnessMode
from chrysalis.client.ear_mode import PolicyPin, verify_by_ear
from chrysalis.client.reasons import ClientError, ClientReason
from chrysalis.client.receipt_file import ReceiptFile
from chrysalis.client.revocation import RevocationCheck, recalls_of, standing
from chrysalis.client.validity import Validity
from chrysalis.client.verification import verify_offline, verify_worker
from chrysalis.client.verified import VerifiedWorker
from chrysalis.clock import Clock, SystemClock, unix
from chrysalis.receipts import jws, pricing, salted
from chrysalis.receipts.objects import Receipt, Ticket
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.receipts.records import Record
from chrysalis.wire.attested import Answer, Connection, NothingSent, open_connection
from chrysalis.wire.gpu_services import GpuAsker
from chrysalis.wire.recalls import RecallList
from chrysalis.wire.worker import HEADER_RECEIPT, HEADER_SALT, HEADER_TICKET

DEFAULT_MAX_NANOTON = 100_000_000
"""What one job may cost at most unless the caller says otherwise: 0.1 TON."""
TICKET_SECONDS = 300
"""A job must start within this time of its ticket (at most 600 are allowed)."""

RESULT_ENDED = "AttestationExpired"
"""A gateway's word for a connection whose result has ended; it says so before it reads the job."""
ATTEMPTS = 8
"""How often a handshake is repeated that met two different workers behind one address."""


@dataclass(frozen=True)
class Job:
    """A finished job: the answer's JSON, and the receipt (None where the worker settles nowhere and gives none)."""

    answer: dict[str, Any]
    receipt: Receipt | None
    record: Record | None

    @property
    def vectors(self) -> list[list[float]]:
        """The embeddings of an embeddings answer, in the order of the input."""
        rows = sorted(self.answer["data"], key=lambda row: row["index"])
        return [[float(x) for x in row["embedding"]] for row in rows]


class _Link:
    """A verified pool of connections, and the jobs that use it.  Retired, it takes no new ones, and closes behind the last."""

    def __init__(self, connection: Connection, worker: VerifiedWorker, validity: Validity) -> None:
        self.connection, self.worker, self.validity = connection, worker, validity
        self._jobs = 0
        self._retired = False

    async def __aenter__(self) -> Self:
        self._jobs += 1
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._jobs -= 1
        if self._retired and not self._jobs:
            await self.connection.aclose()

    async def retire(self) -> None:
        """Close it now, or when the answers that are still to come have come."""
        self._retired = True
        if not self._jobs:
            await self.connection.aclose()


class Client:
    """One worker at https://HOST:PORT, under one policy.  Use `async with`; raises ClientError and WireError.

    policy: what evidence is accepted.  client_key signs tickets (needed where the worker is paid).  ear_key: the broker's
    public key, 32 bytes, if it is pinned.  model_digest: the model's, sha256:<hex>; needed where the policy leaves the model open.
    receipts: where receipts are kept.

    mode: how the worker is verified.  `fresh-quote`: by a quote over a nonce of this client's own.  `ear`: by the result of the
    broker with ear_key, under the policy that policy_pin names, not older than max_ear_age_seconds (None: while it lives).  `offline`:
    by the evidence that the worker keeps, with `collateral` (QuoteCollateralV3 JSON) where it is given; nobody knows then how old the
    evidence is.  revocation: whether and how the broker is asked if it has revoked its result; not in mode `offline`.
    recalls: mode `ear`, a list of recalled signing keys that the caller has kept; one that the broker gives (revocation) goes first.

    gpu_services: NVIDIA's (chrysalis.wire.gpu_services.GpuServices), needed in mode `fresh-quote` where the policy's gpu.backend is NRAS or
    its gpu.revocation Required; in the other modes nobody is asked.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        policy: AttestationPolicySpec,
        client_key: jws.SigningKey | None = None,
        receipts: ReceiptFile | None = None,
        ear_key: bytes | None = None,
        model_digest: str | None = None,
        mode: FreshnessMode = FreshnessMode.FRESH_QUOTE,
        policy_pin: PolicyPin | None = None,
        max_ear_age_seconds: int | None = None,
        collateral: str | None = None,
        revocation: RevocationCheck | None = None,
        gpu_services: GpuAsker | None = None,
        recalls: RecallList | None = None,
        sni: str = "",
        clock: Clock | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        """Raises ValueError for options of another mode."""
        if max_ear_age_seconds is not None and (mode != FreshnessMode.EAR or max_ear_age_seconds < 1):
            raise ValueError("max_ear_age_seconds belongs to mode ear, and is at least 1")
        if collateral is not None and mode != FreshnessMode.OFFLINE:
            raise ValueError("collateral belongs to mode offline")
        if revocation is not None and mode == FreshnessMode.OFFLINE:
            raise ValueError("mode offline asks no broker")
        if gpu_services is not None and mode != FreshnessMode.FRESH_QUOTE:
            raise ValueError("gpu_services belong to mode fresh-quote: elsewhere nobody is asked about the GPUs")
        if recalls is not None and mode != FreshnessMode.EAR:
            raise ValueError("recalls belong to mode ear")
        self.endpoint = endpoint
        self._policy = policy
        self._key = client_key
        self._file = receipts
        self._ear_key = ear_key
        self._model_digest = model_digest
        self._mode = mode
        self._pin = policy_pin
        self._max_ear_age = max_ear_age_seconds
        self._collateral = collateral
        self._revocation = revocation
        self._gpu_services = gpu_services
        self._recalls = recalls
        self._sni = sni
        self._clock: Clock = clock or SystemClock()
        self._timeout = timeout_seconds
        self._link: _Link | None = None
        self._lock = asyncio.Lock()
        self._last: dict[str, tuple[int, str]] = {}

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; the next use connects and verifies again."""
        if self._link is not None:
            link, self._link = self._link, None
            await link.connection.aclose()

    async def connect(self) -> VerifiedWorker:
        """Connect and verify, unless that was done and has not expired."""
        return (await self._verified()).worker

    async def _verified(self) -> _Link:
        async with self._lock:
            if self._link is not None and self._link.validity.holds(self._clock):
                return self._link
            await self._leave(self._link)
            if self._file is not None and not self._last:
                self._last = await asyncio.to_thread(self._file.heads)
            link = await self._verified_connection()
            if not link.validity.holds(self._clock):
                await link.connection.aclose()
                raise ClientError(
                    ClientReason.RESULT_EXPIRED, "the worker's attestation has expired", "wait until it renews, or use another worker"
                )
            self._link = link
            return link

    async def _leave(self, link: _Link | None) -> None:
        """Use this one for no new job, unless another has taken its place already."""
        if link is not None and self._link is link:
            self._link = None
            await link.retire()

    async def _verified_connection(self) -> _Link:
        """Connect and judge.  Behind one address there may be several workers, so the connection that follows the handshake
        with one may reach another, which has another certificate: then nothing was sent, and it is tried again."""
        for attempt in range(ATTEMPTS):
            connection = await open_connection(self.endpoint, sni=self._sni, timeout_seconds=self._timeout)
            try:
                began_monotonic, began = self._clock.monotonic(), self._clock.now()
                worker = await self._verify(connection)
                if self._revocation is not None:
                    worker = await standing(worker, self._revocation)
                return _Link(connection, worker, Validity.of(worker.expires_at, began=began, began_monotonic=began_monotonic))
            except NothingSent:
                await connection.aclose()
                if attempt == ATTEMPTS - 1:
                    raise
            except BaseException:
                await connection.aclose()
                raise
        raise AssertionError("the last attempt returns or raises")

    async def _verify(self, connection: Connection) -> VerifiedWorker:
        """Judge what this connection's peer shows, in this client's mode."""
        nonce = secrets.token_bytes(32) if self._mode == FreshnessMode.FRESH_QUOTE else None
        document = await connection.document(nonce)
        always: dict[str, Any] = {
            "certificate_der": connection.server.certificate_der,
            "spki_sha256": connection.server.spki_sha256,
            "policy": self._policy,
            "at": self._clock.now(),
            "ear_key": self._ear_key,
            "model_digest": self._model_digest,
        }
        if nonce is not None:
            return await asyncio.to_thread(verify_worker, document, nonce=nonce, gpu_services=self._gpu_services, **always)
        if self._mode == FreshnessMode.OFFLINE:
            return await asyncio.to_thread(verify_offline, document, collateral=self._collateral, **always)
        recalls = self._recalls
        if self._revocation is not None and self._ear_key is not None:
            recalls = await recalls_of(self._revocation, self._ear_key, self._clock.now()) or recalls
        own: dict[str, Any] = {"pin": self._pin, "max_age_seconds": self._max_ear_age, "recalls": recalls}
        return await asyncio.to_thread(verify_by_ear, document, **own, **always)

    async def embeddings(self, texts: list[str], *, max_nanoton: int = DEFAULT_MAX_NANOTON) -> Job:
        """Embeddings of some texts by the worker's model; costs at most max_nanoton."""
        worker = await self.connect()
        return await self.post("/v1/embeddings", {"model": worker.identity.model.name, "input": texts}, max_nanoton=max_nanoton)

    async def post(self, path: str, request: dict[str, Any], *, max_nanoton: int = DEFAULT_MAX_NANOTON) -> Job:
        """One job of the OpenAI-compatible API (not streamed).  When the worker's key is gone, the verification ended before the job
        left, or the worker by its own clock counts its result as ended and so begins no job, it is verified again, once."""
        for last in (False, True):
            link = await self._verified()
            try:
                async with link:
                    return await self._post(link, path, request, max_nanoton)
            except (NothingSent, ClientError) as error:
                if isinstance(error, ClientError) and error.code != RESULT_ENDED:
                    raise
                await self._leave(link)
                if last:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _post(self, link: _Link, path: str, request: dict[str, Any], max_nanoton: int) -> Job:
        worker = link.worker
        body = json.dumps(request, separators=(",", ":"), allow_nan=False).encode()
        salt = secrets.token_bytes(salted.SALT_BYTES)
        headers = {"content-type": "application/json", HEADER_SALT: jws.b64u(salt)}
        ticket = self._ticket(worker, salt, body, max_nanoton)
        if ticket is not None:
            headers[HEADER_TICKET] = ticket
        answer = await link.connection.send("POST", path, content=body, headers=headers, allowed=lambda: link.validity.holds(self._clock))
        receipt, record = await self._receipt(worker, answer, ticket, salt)
        return Job(answer=_answer(answer), receipt=receipt, record=record)

    def _ticket(self, worker: VerifiedWorker, salt: bytes, body: bytes, max_nanoton: int) -> str | None:
        if worker.identity.set == "none":
            return None
        if self._key is None:
            raise ClientError(
                ClientReason.TICKET_KEY_MISSING,
                "this worker is paid for each job, and no client key is given",
                "give the key that the account lists",
            )
        return Ticket(
            set=worker.identity.set,
            wrk=worker.wrk,
            offer=worker.offer_hash,
            exp=unix(self._clock.now()) + TICKET_SECONDS,
            nonce=jws.b64u(secrets.token_bytes(16)),
            digest=worker.identity.model.digest,
            max=max_nanoton,
            req=salted.request_hash(salt, body),
        ).sign(self._key)

    async def _receipt(
        self, worker: VerifiedWorker, answer: Answer, ticket: str | None, salt: bytes
    ) -> tuple[Receipt | None, Record | None]:
        """Check the receipt against the job and keep it; a refused job (4xx) may come without one."""
        token = answer.headers.get(HEADER_RECEIPT)
        if token is None:
            if ticket is None or answer.status != httpx.codes.OK:
                return None, None
            raise ClientError(
                ClientReason.RECEIPT_MISSING,
                "the worker gave an answer without a receipt",
                "report it to its operator",
            )
        receipt = check_receipt(worker, token, ticket=ticket, salt=salt, body=answer.body)
        self._check_position(worker.wrk, receipt, token)
        record = Record(receipt=token, offer=worker.offer_token, certificate=worker.certificate, salt=jws.b64u(salt))
        if self._file is not None:
            await asyncio.to_thread(self._file.keep, record)
        return receipt, record

    def _check_position(self, wrk: str, receipt: Receipt, token: str) -> None:
        """Other clients' receipts stand between one's own: seq must grow, and where it grows by one, `prev` must fit."""
        seq, last = self._last.get(wrk, (0, ""))
        known = jws.identity(last) if last else wrk
        if receipt.seq == seq or (receipt.seq == seq + 1 and receipt.prev != known):
            raise ClientError(
                ClientReason.RECEIPT_INVALID,
                f"receipt {receipt.seq} contradicts receipt {seq} of the same worker",
                "keep both: they prove that the worker signed two histories",
                f"wrk {wrk}",
            )
        if receipt.seq > seq:
            self._last[wrk] = (receipt.seq, token)


def check_receipt(worker: VerifiedWorker, token: str, *, ticket: str | None, salt: bytes, body: bytes) -> Receipt:
    """A receipt is for this job: key, account, offer, ticket, price and both hashes; raises ClientError."""
    try:
        receipt = Receipt.parse(token, worker.receipt_key)
    except ReceiptError as error:
        raise _invalid(error.message, error.detail) from error
    if (receipt.set, receipt.wrk, receipt.ticket) != (worker.identity.set, worker.wrk, ticket or ""):
        raise _invalid("it is for another worker, account or ticket")
    if worker.offer is not None and receipt.offer != worker.offer_hash:
        raise _invalid("it names another offer than the one that the ticket was signed for")
    if receipt.rsp != salted.response_hash(salt, body):
        raise _invalid("its hash is not that of the answer that came")
    prices = worker.offer.prices if worker.offer is not None else worker.identity.prices
    maximum = Ticket.parse_unverified(ticket).max if ticket else LIMIT - 1
    expected = pricing.billed(receipt.status, receipt.use, prices, maximum)
    if receipt.amt != expected:
        raise _invalid(f"it bills {receipt.amt} nanoton where use and prices give {expected}")
    return receipt


def _answer(answer: Answer) -> dict[str, Any]:
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        value = None
    if answer.status != httpx.codes.OK:
        error = value.get("error") if isinstance(value, dict) and isinstance(value.get("error"), dict) else value
        error = error if isinstance(error, dict) else {}
        code = str(error.get("code") or error.get("reason") or f"HTTP {answer.status}")
        message = str(error.get("message") or error.get("detail") or "no message")
        raise ClientError(
            ClientReason.JOB_REFUSED,
            f"the worker refused the job: {code}: {message}"[:1024],
            str(error.get("remedy") or "see the worker's message"),
            status=answer.status,
            code=code,
        )
    if not isinstance(value, dict):
        raise ClientError(ClientReason.ANSWER_UNUSABLE, "the worker's answer is not a JSON object", "report it to the worker's operator")
    return value


def _invalid(why: str, detail: str = "") -> ClientError:
    return ClientError(
        ClientReason.RECEIPT_INVALID,
        f"the receipt does not belong to this job: {why}",
        "keep the answer's headers and report it to the worker's operator",
        detail,
    )
