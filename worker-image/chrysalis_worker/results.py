"""The broker's answer is believed only under the measured EAR key, and only if it is about this session's own keys."""

from __future__ import annotations

from datetime import datetime

from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.clock import unix
from chrysalis.receipts.objects import ReceiptKeyCertificate
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire import ear
from chrysalis.wire.broker import AttestResult, Evidence
from chrysalis.wire.reasons import WireError
from chrysalis.wire.recalls import open_list
from chrysalis_worker.reasons import WorkerError, WorkerReason


def check(result: AttestResult, *, identity: MeasuredIdentity, evidence: Evidence, now: datetime) -> int:
    """Verify EAR and receipt-key certificate; returns the result's life in seconds, from issue to expiry.

    Raises WorkerError: ResultInvalid, ReceiptCertificateInvalid.
    """
    ear_key = bytes.fromhex(identity.broker.ear_key)
    try:
        recalls = open_list(result.recalls, ear_key) if result.recalls else None
        token = ear.verify(result.ear, ear_key, now, recalls)
    except WireError as error:
        raise _invalid(str(error), error.detail) from error
    expected = {
        "nonce": (token.nonce.lower(), evidence.nonce.lower()),
        "TLS key": (token.cnf.spki_sha256.lower(), evidence.keys.tls_spki_sha256.lower()),
        "keys": (_lower(token.keys.to_json_dict()), _lower(evidence.keys.to_json_dict())),
        "result": (token.jti, result.result_id),
        "expiry": (token.exp, unix(result.expires_at)),
        "key id": (token.result.key_id, identity.model.key_id),
        "model digest": (token.result.model_digest, identity.model.digest),
        "isolation": (token.result.isolation, identity.isolation),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise _invalid(f"its {name} is another", f"found {found}, expected {wanted}")
    _check_certificate(result, identity=identity, evidence=evidence, ear_key=ear_key)
    return token.exp - token.iat


def _check_certificate(result: AttestResult, *, identity: MeasuredIdentity, evidence: Evidence, ear_key: bytes) -> None:
    try:
        certificate = ReceiptKeyCertificate.parse(result.receipt_certificate, ear_key)
    except ReceiptError as error:
        raise _certificate_invalid(str(error), error.detail) from error
    expected = {
        "receipt key": (certificate.receipt_key, evidence.keys.receipt.lower()),
        "set": (certificate.set, identity.set),
        "wallet": (certificate.wallet, identity.wallet.lower()),
        "reservation keys": (certificate.reservation_keys, [key.lower() for key in identity.reservation_keys]),
        "result": (certificate.result_id, result.result_id),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise _certificate_invalid(f"its {name} is another", f"found {found}, expected {wanted}")


def _lower(keys: dict[str, str]) -> dict[str, str]:
    return {name: value.lower() for name, value in keys.items()}


def _invalid(message: str, detail: str) -> WorkerError:
    return WorkerError(
        WorkerReason.RESULT_INVALID,
        f"the broker's attestation result is not valid for this domain: {message}",
        "compare spec.broker with the broker's own keys; if they agree, somebody answers in its place",
        detail,
    )


def _certificate_invalid(message: str, detail: str) -> WorkerError:
    return WorkerError(
        WorkerReason.RECEIPT_CERTIFICATE_INVALID,
        f"the broker's certificate for the receipt key is not valid for this domain: {message}",
        "compare spec.broker with the broker's own keys, and the versions of broker and worker",
        detail,
    )
