"""Mode `ear`: the signed, unexpired result of a broker whose key the client was given stands for the evidence.  Pure.

Steps, marked in `verify_by_ear`:

1. The result is signed by the pinned key, or by one that it certifies, and has neither ended nor come from the future
   (chrysalis.wire.ear, ADR 6).  A key that the worker names is never believed: whoever runs the worker could have chosen it.
2. It is bound to the TLS key that the peer proved in this very handshake; evidence class, broker's placement and tiers are what
   the policy's trust root and lists allow.
3. What else of the policy stands in the result: whose policy it was, its name, a version that is not older, isolation, TCB status,
   the matched tuple's name, GPUs.  All reasons are told at once.  The rest only evidence can be compared with: the broker did.
4. It is not older than the client, and the policy, want it.
5. The configuration that the worker states is the one of the result (model, key, isolation) and of the certificate that the attested
   key signed; the model is the one that the client pinned.
6. The receipt key is certified by the same broker, for the same result; the offer is the receipt key's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.api.policy import AttestationPolicySpec, Envelope, SignedPolicy, TcbStatus
from chrysalis.api.policy_gpu import GpuRevocation, GpuRules
from chrysalis.api.worker import Isolation
from chrysalis.attestation.freshness import FreshnessMode
from chrysalis.attestation.gpu.reasons import REMEDIES as GPU_REMEDIES
from chrysalis.attestation.gpu.reasons import GpuReason
from chrysalis.attestation.reasons import AttestationReason
from chrysalis.attestation.rules import STATUS_REASONS, aware
from chrysalis.attestation.verdict import Reason
from chrysalis.client import ties
from chrysalis.client.reasons import ClientError, ClientReason, ear_refused
from chrysalis.client.ties import Peer
from chrysalis.client.verification import bind, decoded, identity_of
from chrysalis.client.verified import VerifiedWorker
from chrysalis.clock import from_unix, unix
from chrysalis.receipts import worker_id
from chrysalis.wire import dsse, ear
from chrysalis.wire.broker import PAYLOAD_POLICY, AttestationDocument, NamedReason
from chrysalis.wire.ear import Ear, EarResult, Status
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.recalls import RecallList

SIMULATED_TIERS: tuple[Status, ...] = ("affirming", "warning", "contraindicated")
"""Simulated evidence is contraindicated for every reader but one whose policy names its root."""


@dataclass(frozen=True)
class PolicyPin:
    """Whose policy the broker must have judged under: the owner's raw Ed25519 key, and the policy's name."""

    owner: bytes
    name: str

    @classmethod
    def of(cls, envelope: Envelope) -> PolicyPin:
        """Of a policy that its owner signed, as the reader keeps it; raises WireError where the signature does not hold."""
        named = [bytes.fromhex(signature.keyid) for signature in envelope.signatures if len(signature.keyid) == 64]
        verified = dsse.verify(envelope, PAYLOAD_POLICY, named)
        try:
            return cls(verified.public_key, SignedPolicy.of_payload(verified.payload).name)
        except ValueError as error:
            raise WireError(
                WireReason.ENVELOPE_MALFORMED, "the envelope holds no policy of this version", "compare the versions", str(error)[:1024]
            ) from error


def verify_by_ear(
    document: AttestationDocument,
    *,
    certificate_der: bytes,
    spki_sha256: bytes,
    policy: AttestationPolicySpec,
    at: datetime,
    ear_key: bytes | None,
    pin: PolicyPin | None,
    model_digest: str | None = None,
    max_age_seconds: int | None = None,
    recalls: RecallList | None = None,
) -> VerifiedWorker:
    """Judge a worker by the result that it staples; raises ClientError, and WireError (EarMalformed, EarSignatureInvalid, EarExpired,
    EarClaimMismatch, KeyRecalled) for a result that does not hold.

    certificate_der, spki_sha256: of the connection that the document came over.  ear_key: the broker's, raw Ed25519; needed.
    pin: needed.  model_digest: as in verification.verify_worker.  max_age_seconds: how old the result may be; None: its own life.
    recalls: the broker's list of recalled keys, where there is one; without it a recalled key is believed until its time ends.
    """
    if ear_key is None or pin is None:
        raise _not_pinned(ear_key is None)
    if not document.ear:
        raise ClientError(
            ClientReason.EAR_MISSING,
            "the worker staples no attestation result",
            "wait until its broker accepts it, or ask for a fresh quote",
        )
    token = ear.verify(document.ear, ear_key, at, recalls)  # 1
    evidence, peer = document.evidence, Peer(certificate_der, spki_sha256)
    ear.require(  # 2
        token,
        tls_spki_sha256=spki_sha256,
        nonce=bytes.fromhex(evidence.nonce),
        statuses=_tiers(policy),
        evidence_classes=(_class(policy),),
        placements=policy.broker_placement,
    )
    if reasons := list(_refusals(token, policy, pin, at)):  # 3
        raise ear_refused(reasons)
    expires_at, limited_by = _end(token, policy, max_age_seconds)  # 4
    if at >= expires_at:
        raise ClientError(
            ClientReason.EAR_TOO_OLD,
            "the attestation result is older than it may be",
            "wait until the worker renews it, allow an older one, or ask for a fresh quote",
            f"issued {token.iat}, now {unix(at)}, limited by {limited_by}",
        )
    toml = decoded(evidence.initdata)  # 5
    identity = identity_of(toml)
    _check_identity(token, document, identity)
    ties.check_model(identity, toml, policy, model_digest)
    ties.check_tls_key(evidence.keys, peer)
    bound = bind(evidence, identity)
    if decoded(document.claims_buffer) != bound.claims_buffer:
        raise ties.not_covered()
    ties.check_ratls(peer, decoded(evidence.quote), bound.claims_buffer)
    receipt_key = bytes.fromhex(token.keys.receipt)
    certificate = ties.receipt_certificate(document, identity, receipt_key, ear_key, at)  # 6
    if certificate.result_id != token.jti:
        raise ClientError(
            ClientReason.CERTIFICATE_MISMATCH,
            "the receipt key's certificate belongs to another result than the stapled one",
            "connect again; if it stays, report it to the worker's operator",
            f"certified for {certificate.result_id}, stapled {token.jti}",
        )
    offer = ties.offer_of(document, identity, receipt_key, at)
    if certificate.exp < unix(expires_at):
        expires_at, limited_by = from_unix(certificate.exp), "receiptCertificate.exp"
    return VerifiedWorker(
        mode=FreshnessMode.EAR,
        verdict=None,
        gpu=None,
        ear=token,
        identity=identity,
        receipt_key=receipt_key,
        wrk=worker_id(receipt_key),
        certificate=document.receipt_certificate,
        result_id=token.jti,
        offer_token=document.offer,
        offer=offer,
        expires_at=expires_at,
        limited_by=limited_by,
        document=document,
        policy=policy,
        judged_at=at.replace(microsecond=0),
    )


def _class(policy: AttestationPolicySpec) -> str:
    """The only evidence class that evidence under the policy's trust root can have."""
    return "Hardware" if policy.trust_root == "Intel" else "Simulated"


def _tiers(policy: AttestationPolicySpec) -> tuple[Status, ...]:
    """A broker warns of what some policies allow knowingly: a TCB status below UpToDate, and profile NodeTD."""
    if policy.trust_root != "Intel":
        return SIMULATED_TIERS
    tcb = policy.tdx.tcb
    weaker = tcb.grace_seconds > 0 or any(status != TcbStatus.UP_TO_DATE for status in tcb.allowed_statuses)
    return ("affirming", "warning") if weaker or Isolation.NODE_TD in policy.isolation else ear.AFFIRMING_ONLY


def _refusals(token: Ear, policy: AttestationPolicySpec, pin: PolicyPin, at: datetime) -> Iterator[NamedReason]:
    """Step 3."""
    said = token.result
    if (said.policy_owner.lower(), said.policy_name) != (pin.owner.hex(), pin.name):
        yield NamedReason(
            reason=ClientReason.POLICY_MISMATCH,
            message="the broker judged under another policy than this client's",
            remedy="compare the policy's owner and name with the worker's key record; or ask for a fresh quote",
            detail=f"judged under {said.policy_owner}/{said.policy_name}, expected {pin.owner.hex()}/{pin.name}",
        )
    if said.policy_version < policy.version:
        yield NamedReason(
            reason=ClientReason.POLICY_TOO_OLD,
            message=f"the broker judged under version {said.policy_version} of the policy; this client has version {policy.version}",
            remedy="wait until the broker holds the newer version and judges the worker again",
        )
    if said.isolation not in policy.isolation:
        yield _named(AttestationReason.ISOLATION_NOT_ALLOWED, f"the worker runs in profile {said.isolation}; the policy does not list it")
    tcb = policy.tdx.tcb
    graced = tcb.grace_seconds > 0 and bool(tcb.allowed_statuses)  # the date only the broker knows
    in_grace = graced and said.tcb_status == TcbStatus.OUT_OF_DATE
    if said.tcb_status not in set(tcb.allowed_statuses) and not in_grace:
        reason = STATUS_REASONS.get(said.tcb_status, AttestationReason.TCB_STATUS_NOT_ALLOWED)
        yield _named(reason, f"the platform's TCB status is {said.tcb_status[:64]}; the policy does not allow it")
    matched = [measurement for measurement in policy.tdx.measurements if measurement.name == said.measurement]
    if not matched:
        message = f"the broker allowed the worker as {said.measurement[:64]!r}; the policy has no such reference values"
        yield _named(AttestationReason.MEASUREMENT_NOT_ALLOWED, message)
    elif all(measurement.expires is not None and aware(measurement.expires) <= at for measurement in matched):
        yield _named(AttestationReason.MEASUREMENT_EXPIRED, f"the policy's reference values {said.measurement[:64]!r} have expired")
    if policy.gpu is not None:
        yield from _gpu_refusals(said, policy.gpu)


def _gpu_refusals(said: EarResult, rules: GpuRules) -> Iterator[NamedReason]:
    gpu = said.gpu
    if gpu is None:
        if rules.required:
            yield _gpu_named(GpuReason.GPU_EVIDENCE_MISSING, "the broker judged no GPU; the policy requires them")
        return
    if len(gpu.device_ids) != rules.count:
        yield _gpu_named(GpuReason.GPU_COUNT_MISMATCH, f"the broker judged {len(gpu.device_ids)} GPUs; the policy asks for {rules.count}")
    if len({device.lower() for device in gpu.device_ids}) != len(gpu.device_ids):
        yield _gpu_named(GpuReason.GPU_NOT_UNIQUE, "the broker's result names one GPU twice")
    if (gpu.evidence_class == "Hardware") != (rules.trust_root == "Nvidia"):
        yield _gpu_named(GpuReason.GPU_TRUST_ROOT_MISMATCH, f"the GPUs' evidence is of class {gpu.evidence_class}, under another root")
    if gpu.backend != rules.backend:
        yield NamedReason(
            reason=ClientReason.POLICY_MISMATCH,
            message=f"the GPUs were judged by backend {gpu.backend}; the policy says {rules.backend}",
            remedy="compare the client's policy with the broker's",
        )
    if gpu.revocation == "Revoked":
        yield _gpu_named(GpuReason.GPU_CERTIFICATE_REVOKED, "a GPU's certificate is revoked")
    elif gpu.revocation != "Good" and rules.revocation == GpuRevocation.REQUIRED:
        yield _gpu_named(GpuReason.GPU_REVOCATION_NOT_CHECKED, "the broker did not check the GPUs' certificates for revocation")


def _end(token: Ear, policy: AttestationPolicySpec, max_age_seconds: int | None) -> tuple[datetime, str]:
    """When the result stops being enough for this client, and what limits it."""
    issued = from_unix(token.iat)
    ends = [
        (from_unix(token.exp), token.result.limited_by),
        (issued + timedelta(seconds=policy.freshness.max_result_age_seconds), "freshness.maxResultAgeSeconds"),
    ]
    if max_age_seconds is not None:
        ends.append((issued + timedelta(seconds=max_age_seconds), "maxEarAge"))
    expiries = [measurement.expires for measurement in policy.tdx.measurements if measurement.name == token.result.measurement]
    known = [aware(expires) for expires in expiries if expires is not None]
    if known and len(known) == len(expiries):
        ends.append((max(known), "measurement.expires"))
    return min(ends, key=lambda end: end[0])


def _check_identity(token: Ear, document: AttestationDocument, identity: MeasuredIdentity) -> None:
    """Step 5: what the worker states about itself is what the broker judged."""
    stated, said = document.evidence.keys, token.result
    pairs: dict[str, tuple[object, object]] = {
        "keys": (_lower(token.keys.to_json_dict()), _lower(stated.to_json_dict())),
        "modelDigest": (said.model_digest, identity.model.digest),
        "keyId": (said.key_id, identity.model.key_id),
        "isolation": (said.isolation, identity.isolation),
    }
    if identity.model.key_owner is not None:
        pairs["keyOwner"] = (said.policy_owner.lower(), identity.model.key_owner.lower())
    for claim, (signed, shown) in pairs.items():
        if signed != shown:
            raise WireError(
                WireReason.EAR_CLAIM_MISMATCH,
                f"the attestation result's {claim} is not what the worker states",
                "do not use this worker; report it to its operator",
                f"signed {signed}, stated {shown}",
            )


def _lower(members: dict[str, str]) -> dict[str, str]:
    return {name: value.lower() for name, value in members.items()}


def _named(reason: AttestationReason, message: str) -> NamedReason:
    return NamedReason.model_validate(Reason.of(reason, message).model_dump(mode="json"))


def _gpu_named(reason: GpuReason, message: str) -> NamedReason:
    return NamedReason(reason=reason, message=message, remedy=GPU_REMEDIES[reason])


def _not_pinned(key: bool) -> ClientError:
    if key:
        return ClientError(
            ClientReason.EAR_KEY_NOT_PINNED,
            "mode ear needs the public key of the broker whose results are believed",
            "give it (--ear-key; `chrysalis keys pin` prints it over a trusted way), or ask for a fresh quote",
        )
    return ClientError(
        ClientReason.POLICY_NOT_PINNED,
        "mode ear needs to know whose policy the broker must have judged under",
        "give a policy with its owner's envelope, or its owner and name (--policy-owner, --policy-name)",
    )
