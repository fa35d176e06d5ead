"""The broker's API, version 1: challenge, attest, release, key records, policies, results."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from chrysalis.api.base import DnsLabel, Hex32, Model, Sha256Digest
from chrysalis.api.policy import Placement
from chrysalis.api.worker import Isolation
from chrysalis.wire.gpu import GpuDevices

Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
SCHEMA: Literal["chrysalis/v1"] = "chrysalis/v1"

MAX_QUOTE_BYTES = 64 * 1024
MAX_EVENT_LOG_BYTES = 512 * 1024
MAX_INITDATA_BYTES = 256 * 1024

PAYLOAD_KEY_RECORD = "application/vnd.chrysalis.key-record.v1+json"
PAYLOAD_POLICY = "application/vnd.chrysalis.attestation-policy.v1+json"


AgeRecipient = Annotated[str, Field(pattern=r"^age1[a-z0-9]{58}$")]
"""An X25519 recipient of age (age-encryption.org/v1)."""


class Versioned(Model):
    """A message that says which version of the protocol it speaks."""

    schema_version: Literal["chrysalis/v1"] = SCHEMA


class Challenge(Versioned):
    """POST /v1/challenge: a single-use nonce."""

    nonce: Hex32
    expires_at: datetime


class Keys(Model):
    """The domain's public keys, all bound by the transcript."""

    tls_spki_sha256: Hex32  # SHA-256 of the SubjectPublicKeyInfo of the key that serves RA-TLS
    hpke: Hex32  # raw X25519 public key
    receipt: Hex32  # raw Ed25519 public key


NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
"""PostgreSQL keeps no NUL in a text, and a terminal that shows a name shall show a name."""


class ClaimedIdentity(Model):
    """What the untrusted host says of the worker: for correlation only, never authorises.  No control characters."""

    pod_uid: Annotated[str, Field(max_length=63, pattern=NO_CONTROLS)] = ""
    pod_name: Annotated[str, Field(max_length=253, pattern=NO_CONTROLS)] = ""
    namespace: Annotated[str, Field(max_length=63, pattern=NO_CONTROLS)] = ""
    worker_name: Annotated[str, Field(max_length=63, pattern=NO_CONTROLS)] = ""
    node_name: Annotated[str, Field(max_length=253, pattern=NO_CONTROLS)] = ""


class Evidence(Versioned):
    """POST /v1/attest, and what a worker serves at /.well-known/attestation: everything that an appraisal needs."""

    type: Literal["tdx"] = "tdx"
    nonce: Hex32
    quote: Annotated[Base64, Field(max_length=MAX_QUOTE_BYTES * 4 // 3 + 4)]
    event_log: Annotated[Base64, Field(max_length=MAX_EVENT_LOG_BYTES * 4 // 3 + 4)] = ""
    initdata: Annotated[Base64, Field(max_length=MAX_INITDATA_BYTES * 4 // 3 + 4)]  # the TOML's bytes
    keys: Keys
    claimed: ClaimedIdentity = ClaimedIdentity()
    gpu: GpuDevices = []  # of every GPU and NVSwitch that the domain sees, over binding.gpu_nonce of the session


class AttestResult(Versioned):
    """The answer to accepted evidence.  A refusal is a problem document with `reasons`, status 403."""

    result_id: str  # UUIDv7
    ear: str  # JWT, typ "eat+jwt", EdDSA
    receipt_certificate: str  # compact JWS, typ "chrysalis-receipt-key+jwt", signed by the EAR key
    evidence_class: Literal["Hardware", "Simulated"]
    tcb_status: str
    expires_at: datetime
    limited_by: str
    policy_name: DnsLabel
    policy_version: int
    placement: Placement
    collateral: str  # the QuoteCollateralV3 JSON that the appraisal used, byte for byte
    recalls: str = ""  # the list of recalled signing keys (chrysalis.wire.recalls), where there are any


class ReleaseRequest(Versioned):
    """POST /v1/keys/{id}:release."""

    result_id: Annotated[str, Field(max_length=36)]


class ResultStanding(Versioned):
    """GET /v1/results/{id}:standing, for the worker whose result it is: whether it still counts.

    reason: why it has ended (StateRestored, RevokedByOwner, ResultUnknown …); empty while it lives.  askAgainSeconds: the broker's
    wish; workers spread their questions around it.
    """

    living: bool
    reason: Annotated[str, Field(max_length=64)] = ""
    ask_again_seconds: Annotated[int, Field(ge=1, le=3600)]


class WrappedKey(Versioned):
    """The model key, HPKE-sealed to the attested key: base64 of enc ‖ ciphertext."""

    key_id: DnsLabel
    wrapped: Base64
    result_id: str


class KeyRecordTerms(Versioned):
    """Who may get a key, under which policy: everything of a key record that may be shown."""

    key_id: DnsLabel
    model_digest: Sha256Digest
    owner_public_key: Hex32
    policy_name: DnsLabel
    min_policy_version: Annotated[int, Field(ge=1)] = 1
    isolation: Annotated[list[Isolation], Field(max_length=8)] = [Isolation.POD_TD]
    evidence_class: Annotated[list[Literal["Hardware", "Simulated"]], Field(max_length=2)] = ["Hardware"]
    version: Annotated[int, Field(ge=1, le=1 << 53)] = 1  # grows only, so that an older envelope cannot be put back


class KeyRecord(KeyRecordTerms):
    """Written by the data owner when a key is uploaded: who may get it, under which policy.

    The payload of the DSSE envelope that PUT /v1/keys/{id} takes; `key` is the age identity and is never given back.
    """

    key: Annotated[str, Field(max_length=256)]
    recovery_recipients: Annotated[list[AgeRecipient], Field(max_length=4)] = []  # the owner's; a copy of the key is sealed to them


class NamedReason(Model):
    """One reason of a refusal."""

    reason: str
    message: str
    remedy: str = ""
    detail: str = ""


class ResultView(Versioned):
    """GET /v1/results[/{id}]: an attempt to attest, accepted or refused, as relying parties see it."""

    result_id: str
    verdict: Literal["Accepted", "Refused"]
    reasons: list[NamedReason] = []
    claimed: ClaimedIdentity
    keys: Keys
    key_id: str = ""
    policy_name: str = ""
    policy_version: int = 0
    evidence_class: str = ""
    tcb_status: str = ""
    issued_at: datetime
    expires_at: datetime | None = None
    limited_by: str = ""
    key_released_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_reason: str = ""  # RevokedByOwner, or why the evidence would be refused by now
    revoked_message: str = ""
    receipt_certificate: str = ""
    ear: str = ""
    placement: Placement = Placement.DEVELOPMENT


class ResultList(Versioned):
    """GET /v1/results?namespace=&worker=&podUID=&verdict=&after=&limit=: newest first."""

    results: list[ResultView]
    change: int = 0  # of the newest change when the list was read: where to go on with `watch` or `wait`


class Problem(Model):
    """RFC 9457 problem document with the project's members."""

    type: str = "about:blank"
    title: str
    status: int
    reason: str
    detail: str = ""
    remedy: str = ""
    reasons: list[NamedReason] = []


class AttestationDocument(Versioned):
    """GET /.well-known/attestation[?nonce=hex]: every input that a client needs to judge for itself."""

    mode: Literal["fresh-quote", "stored"]
    evidence: Evidence  # whose nonce is the client's in fresh-quote mode, the broker's otherwise
    claims_buffer: Base64  # CBOR {"pubkey-hash", "nonce"}; its SHA-256 is report_data's first half
    collateral: str
    ear: str
    receipt_certificate: str
    offer: str = ""  # compact JWS, typ "chrysalis-offer+jwt"


JsonDict = dict[str, Any]
