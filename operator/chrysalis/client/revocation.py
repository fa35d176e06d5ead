"""Asking a broker whether a result that a worker rests on was revoked since, and which of its signing keys are recalled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from chrysalis.attestation.freshness import Revocation
from chrysalis.client.reasons import ClientError, ClientReason
from chrysalis.client.verified import VerifiedWorker
from chrysalis.clock import rfc3339
from chrysalis.wire.broker import ResultView
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.recalls import RecallList, open_list

TIMEOUT_SECONDS = 5.0
MAX_LIST_AGE_SECONDS = 3600
"""A list is signed when it is asked for; clocks may be apart."""


@dataclass(frozen=True, kw_only=True)
class RevocationCheck:
    """That the broker is to be asked, and as whom.

    Results are for those who may read them: their owner, its administrators, listed accounts.  A stranger is refused, and learns
    nothing.  url, spki_sha256 (hex): the broker, given by the caller and never by the worker, who could have the token sent anywhere.
    token gives the bearer.  required: without an answer the worker is not used; otherwise the output says NotChecked, and why.
    """

    url: str
    spki_sha256: str
    token: Callable[[], str] | None = None
    required: bool = False


async def standing(worker: VerifiedWorker, check: RevocationCheck) -> VerifiedWorker:
    """The worker with what its broker says of its result.

    Where the result stands for the evidence (mode ear), it has to be the very one that the broker gave out: a stolen signing key can
    make another one of the same id.  Raises ClientError: ResultRevoked, RevocationNotChecked; WireError (EarClaimMismatch).
    """
    try:
        async with BrokerClient(check.url, spki_sha256=check.spki_sha256, token=check.token, timeout=TIMEOUT_SECONDS) as broker:
            view = await broker.result(worker.result_id)
    except WireError as error:
        return _unknown(worker, check, f"{error.reason}: {error.message}")
    if view.result_id != worker.result_id or view.keys.receipt.lower() != worker.receipt_key.hex():
        return _unknown(worker, check, "the broker answered about another result")
    if view.revoked_at is not None or view.verdict != "Accepted":
        raise _revoked(view)
    if worker.ear is not None and view.ear != worker.document.ear:
        raise WireError(
            WireReason.EAR_CLAIM_MISMATCH,
            "the worker staples another result than the one that the broker gave out under this id",
            "do not use this worker; let whoever runs the broker recall the signing key (`chrysalis broker recall-ear-key`)",
            f"result {worker.result_id}",
        )
    return worker.standing(Revocation.NOT_REVOKED)


async def recalls_of(check: RevocationCheck, ear_key: bytes, at: datetime) -> RecallList | None:
    """The broker's list of recalled signing keys, which everybody may read; None where it cannot be had and is not required.

    Raises ClientError (RevocationNotChecked).
    """
    try:
        async with BrokerClient(check.url, spki_sha256=check.spki_sha256, timeout=TIMEOUT_SECONDS) as broker:
            found = open_list(await broker.recalls(), ear_key)
        found.check_age(at, MAX_LIST_AGE_SECONDS)
    except WireError as error:
        if check.required:
            raise ClientError(
                ClientReason.REVOCATION_NOT_CHECKED,
                "the broker did not say which of its signing keys are recalled",
                "let the broker be reached, and compare its pin and EAR key",
                f"{error.reason}: {error.message}",
            ) from error
        return None
    return found


def _unknown(worker: VerifiedWorker, check: RevocationCheck, why: str) -> VerifiedWorker:
    if check.required:
        raise ClientError(
            ClientReason.REVOCATION_NOT_CHECKED,
            "the broker did not say whether the worker's result was revoked",
            "let the broker be reached, by somebody who may read the result (--owner-key or --token-file)",
            why,
        )
    return worker.standing(Revocation.NOT_CHECKED, why)


def _revoked(view: ResultView) -> ClientError:
    when = f" at {rfc3339(view.revoked_at)}" if view.revoked_at is not None else ""
    return ClientError(
        ClientReason.RESULT_REVOKED,
        f"the broker revoked the worker's attestation result{when}",
        "use another worker; its operator sees the reason in the worker's conditions",
        f"{view.revoked_reason}: {view.revoked_message}".strip(": "),
    )
