"""Examples for the OpenAPI document: one worker that is attested, gets its model's key and is told that its platform is out of date.

Each is made from the model that the broker reads or answers with, so that none can be in a form of another version; a test holds each
against its schema in the document, and the requests against the broker.  Everything that would be secret, signed or measured is made
up, and looks so: keys, registers and signatures are zeros, tokens are the words that name their parts, and evidence is its own name in
base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from chrysalis.api.base import Model
from chrysalis.api.policy import (
    AttestationPolicySpec,
    Envelope,
    EnvelopeSignature,
    InitdataRule,
    Masked,
    Measurement,
    Placement,
    SignedPolicy,
    Tcb,
    TcbStatus,
    TdxRules,
)
from chrysalis.api.reference import ReferenceKind, ReferenceValues, Withdrawn, WorkerImage
from chrysalis.attestation.collateral import HEX_FIELDS, TEXT_FIELDS
from chrysalis.attestation.reasons import REMEDIES, AttestationReason
from chrysalis.broker import audit
from chrysalis.broker.attestor import EvidenceRefused
from chrysalis.broker.audit import GENESIS, AuditEvent
from chrysalis.broker.messages import problem, unsupported
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.release import ATTEST_AGAIN, REVOKED_BY_OWNER
from chrysalis.clock import unix
from chrysalis.wire import ear_keys
from chrysalis.wire.broker import (
    PAYLOAD_KEY_RECORD,
    PAYLOAD_POLICY,
    AttestResult,
    Challenge,
    ClaimedIdentity,
    Evidence,
    KeyRecord,
    KeyRecordTerms,
    Keys,
    NamedReason,
    ReleaseRequest,
    ResultList,
    ResultStanding,
    ResultView,
    WrappedKey,
)
from chrysalis.wire.broker_evidence import BrokerEvidence
from chrysalis.wire.broker_views import AuditLink, AuditList, KeyRecordView, PolicyView
from chrysalis.wire.bundle import Bundle, BundleBroker, BundlePolicy, BundleResult
from chrysalis.wire.changes import PolicySimulation, ResultChanges, SimulatedChange
from chrysalis.wire.recalls import Recalls
from chrysalis.wire.reference import PAYLOAD_REFERENCE_VALUES, ReferenceList

ZERO32, ZERO48, DIGEST = "00" * 32, "00" * 48, "sha256:" + "00" * 32
NONCE = "01" * 32
COMPACT = "header.claims.signature"
AT = datetime(2026, 1, 15, 12, tzinfo=UTC)
RESULT, REFUSED = "019bc186-de00-7000-8000-000000000000", "019bc186-de00-7000-8000-000000000001"
KEY_ID, POLICY_NAME = "minilm", "workers"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _signed(payload_type: str, payload: Model) -> Envelope:
    return Envelope(
        payload_type=payload_type,
        payload=_base64(json.dumps(payload.to_json_dict()).encode()),
        signatures=[EnvelopeSignature(keyid=ZERO32, sig=_base64(bytes(64)))],
    )


COLLATERAL = json.dumps(dict.fromkeys((*TEXT_FIELDS, *HEX_FIELDS), ""))
CLAIMED = ClaimedIdentity(
    pod_uid="00000000-0000-4000-8000-000000000000", pod_name="minilm-0", namespace="pool", worker_name="minilm", node_name="node-1"
)
KEYS = Keys(tls_spki_sha256=ZERO32, hpke=ZERO32, receipt=ZERO32)
EVIDENCE = Evidence(
    nonce=NONCE,
    quote=_base64(b"the TDX quote"),
    event_log=_base64(b"the boot event log"),
    initdata=_base64(b"the initdata's TOML"),
    keys=KEYS,
    claimed=CLAIMED,
)
TERMS = KeyRecordTerms(key_id=KEY_ID, model_digest=DIGEST, owner_public_key=ZERO32, policy_name=POLICY_NAME)
RECORD = KeyRecord(**TERMS.model_dump(), key="the model's age identity")
POLICY = SignedPolicy(
    name=POLICY_NAME,
    spec=AttestationPolicySpec(
        version=2,
        trust_root="Intel",
        tdx=TdxRules(
            tcb=Tcb(allowed_statuses=[TcbStatus.UP_TO_DATE]),
            measurements=[
                Measurement(
                    name="release-1",
                    mrtd=ZERO48,
                    rtmr0=ZERO48,
                    rtmr1=ZERO48,
                    rtmr2=ZERO48,
                    rtmr3="Any",
                    mrseam="Any",
                    mrowner=ZERO48,
                    mrownerconfig=ZERO48,
                    initdata=InitdataRule(policy_digests=[DIGEST], template_versions=[1], image_digests=[DIGEST], wallets="Any"),
                )
            ],
            td_attributes=Masked(value="0000001000000000", mask="ff" * 8),
            xfam=Masked(value="e702060000000000", mask="ff" * 8),
        ),
    ),
)
VALUES = ReferenceValues(
    version=2,
    release="1.0.1",
    issued=AT,
    expires=AT + timedelta(days=90),
    worker_images=[WorkerImage(digest=DIGEST)],
    template_versions=[1],
    withdrawn=[Withdrawn(kind=ReferenceKind.WORKER_IMAGE, value="sha256:" + "01" * 32, why="its gateway leaked file handles", since=AT)],
)
KEY_ENVELOPE = _signed(PAYLOAD_KEY_RECORD, RECORD)
POLICY_ENVELOPE = _signed(PAYLOAD_POLICY, POLICY)
VALUES_ENVELOPE = _signed(PAYLOAD_REFERENCE_VALUES, VALUES)
OUT_OF_DATE = NamedReason(
    reason=AttestationReason.TCB_OUT_OF_DATE,
    message=f"the platform's TCB status is {TcbStatus.OUT_OF_DATE}; allowed: {TcbStatus.UP_TO_DATE}",
    remedy=REMEDIES[AttestationReason.TCB_OUT_OF_DATE],
)
_JUDGED: dict[str, Any] = {
    "evidence_class": "Hardware",
    "tcb_status": "UpToDate",
    "expires_at": AT + timedelta(hours=1),
    "limited_by": "freshness.maxResultAgeSeconds",
    "receipt_certificate": COMPACT,
    "ear": COMPACT,
}
VIEW = ResultView(
    result_id=RESULT,
    verdict="Accepted",
    claimed=CLAIMED,
    keys=KEYS,
    key_id=KEY_ID,
    policy_name=POLICY_NAME,
    policy_version=2,
    issued_at=AT,
    key_released_at=AT + timedelta(seconds=1),
    placement=Placement.EXTERNAL,
    **_JUDGED,
)
NOT_ACCEPTED = ResultView(
    result_id=REFUSED,
    verdict="Refused",
    reasons=[OUT_OF_DATE],
    claimed=CLAIMED,
    keys=KEYS,
    key_id=KEY_ID,
    policy_name=POLICY_NAME,
    policy_version=2,
    issued_at=AT,
    placement=Placement.EXTERNAL,
)
REVOKED = VIEW.model_copy(
    update={
        "revoked_at": AT + timedelta(minutes=5),
        "revoked_reason": REVOKED_BY_OWNER,
        "revoked_message": "the owner of the key revoked it, or an administrator of the tenant",
    }
)


def _audit() -> AuditList:
    """Another tenant's record, and one's own."""
    blind = "00" * 16
    other = audit.link(1, unix(AT), AuditEvent.POLICY_STORED, {"blind": blind}, GENESIS)
    stored: dict[str, Any] = {"blind": blind, "keyId": KEY_ID, "owner": ZERO32, "version": 1}
    own = audit.link(2, unix(AT), AuditEvent.KEY_STORED, stored, other.hash)
    links = [AuditLink(seq=other.seq, hash=other.hash), AuditLink(seq=own.seq, hash=own.hash, at=own.at, event=own.event, document=stored)]
    return AuditList(previous=GENESIS, links=links, head=own.seq, head_hash=own.hash, read_at=AT)


REQUESTS: Mapping[str, Model] = {
    "attest": EVIDENCE,
    "releaseKey": ReleaseRequest(result_id=RESULT),
    "putKey": KEY_ENVELOPE,
    "putPolicy": POLICY_ENVELOPE,
    "simulatePolicy": POLICY,
    "putReferenceValues": VALUES_ENVELOPE,
}
"""The body of each operation, by the operation's name."""

ANSWERS: Mapping[str, Mapping[str, Model | dict[str, Any]]] = {
    "challenge": {"challenge": Challenge(nonce=NONCE, expires_at=AT + timedelta(minutes=5))},
    "attest": {
        "accepted": AttestResult(
            result_id=RESULT,
            policy_name=POLICY_NAME,
            policy_version=2,
            placement=Placement.EXTERNAL,
            collateral=COLLATERAL,
            **_JUDGED,
        )
    },
    "releaseKey": {"key": WrappedKey(key_id=KEY_ID, wrapped=_base64(b"enc and ciphertext"), result_id=RESULT)},
    "resultStanding": {
        "living": ResultStanding(living=True, ask_again_seconds=60),
        "ended": ResultStanding(living=False, reason=REVOKED_BY_OWNER, ask_again_seconds=60),
    },
    "key": {"record": KeyRecordView(**TERMS.model_dump())},
    "policy": {"policy": PolicyView(owner=ZERO32, name=POLICY_NAME, version=2, envelope=POLICY_ENVELOPE)},
    "simulatePolicy": {
        "oneWouldLose": PolicySimulation(
            policy_name=POLICY_NAME,
            policy_version=2,
            stored_version=1,
            at=AT,
            judged=2,
            complete=True,
            keeping=1,
            losing=[
                SimulatedChange(
                    result_id=RESULT,
                    namespace=CLAIMED.namespace,
                    worker_name=CLAIMED.worker_name,
                    pod_name=CLAIMED.pod_name,
                    pod_uid=CLAIMED.pod_uid,
                    when="Immediately",
                    at=AT,
                    reasons=[OUT_OF_DATE],
                )
            ],
        )
    },
    "results": {
        "list": ResultList(results=[NOT_ACCEPTED, VIEW], change=2),
        "changes": ResultChanges(results=[REVOKED], next=3),
    },
    "result": {"accepted": VIEW, "refused": NOT_ACCEPTED},
    "revokeResult": {"revoked": REVOKED},
    "bundle": {
        "bundle": Bundle(
            source="Broker",
            made_at=AT,
            judged_at=AT,
            evidence=EVIDENCE,
            collateral=COLLATERAL,
            policy=BundlePolicy(envelope=POLICY_ENVELOPE),
            result=BundleResult(result_id=RESULT, verdict="Accepted", measurement_name="release-1", **_JUDGED),
            broker=BundleBroker(placement=Placement.EXTERNAL, spki_sha256=ZERO32, ear_key=ZERO32),
            statement=COMPACT,
        )
    },
    "audit": {"links": _audit()},
    "referenceValues": {"values": ReferenceList(documents=[VALUES_ENVELOPE])},
    "keySet": {"anchor": ear_keys.key_set(bytes(32), [])},
    "recalls": {"recalls": Recalls(recalls=COMPACT)},
    "brokerEvidence": {
        "evidence": BrokerEvidence(
            placement=Placement.IN_TD,
            nonce=NONCE,
            spki_sha256=ZERO32,
            ear_key=ZERO32,
            quote=EVIDENCE.quote,
            event_log=EVIDENCE.event_log,
            collateral=COLLATERAL,
        )
    },
    "ready": {"ready": {"status": "ok", "placement": Placement.EXTERNAL.value}},
}
"""JSON answers of each operation by names for people; of all but the one that answers with this very document."""

_UNKNOWN = BrokerError(BrokerReason.RESULT_UNKNOWN, "there is no such result", ATTEST_AGAIN)
PROBLEMS: Mapping[str, Mapping[str, Any]] = {
    "Problem": {
        "evidenceRefused": json.loads(bytes(problem(EvidenceRefused(REFUSED, [OUT_OF_DATE]), 403).body)),
        "resultUnknown": json.loads(bytes(problem(_UNKNOWN, _UNKNOWN.status).body)),
    },
    "ContentTypeUnsupported": {"form": json.loads(bytes(problem(unsupported(Evidence.__name__, ""), 415).body))},
}
"""Problem documents, by the response's name among the components."""


def shown(examples: Mapping[str, Model | dict[str, Any]]) -> dict[str, Any]:
    """The member `examples` of a media type (OpenAPI 3.1, section 4.8.14)."""
    return {name: {"value": value.to_json_dict() if isinstance(value, Model) else value} for name, value in examples.items()}
