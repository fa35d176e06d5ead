"""Judging evidence, apart from keeping what came of it.

A case is what is known of one attempt to attest.  The same judgement is made of fresh evidence (attestor), of stored evidence
when what it rests on has changed (reappraisal), and under a policy that is not stored (simulation).  It never looks at whether
the nonce is fresh or spent, only that keys and identity are bound to it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chrysalis.api import initdata as initdata_form
from chrysalis.api.initdata import Initdata
from chrysalis.api.policy import Placement, SignedPolicy
from chrysalis.api.worker import Isolation
from chrysalis.attestation import anchor, binding, quote
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral, Expiry
from chrysalis.attestation.gpu.verdict import GpuVerdict
from chrysalis.attestation.quote import Quote
from chrysalis.attestation.verdict import EvidenceClass, Verdict
from chrysalis.broker.collateral import CollateralCache
from chrysalis.broker.gpu_services import BrokersGpuServices
from chrysalis.broker.gpu_store import Holder
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.records import OwnersRecords
from chrysalis.broker.reference_values import References
from chrysalis.broker.rooms import Inputs
from chrysalis.broker.state_keys import StateKeys
from chrysalis.broker.store import Store, StoredKey
from chrysalis.clock import unix
from chrysalis.errors import ChrysalisError
from chrysalis.wire import gpu as gpus
from chrysalis.wire.broker import Evidence, KeyRecord, NamedReason
from chrysalis.wire.gpu import GpuAnswers

MAX_TEXT = 512


@dataclass
class Case:
    """What is known of one attempt while it is judged; accepted when no reason was found.

    key_version: of the key record; key_since: the one in which the key itself was last replaced; 0 before there is one.
    collateral: what it was found genuine with.
    """

    evidence: Evidence
    at: datetime
    reasons: list[NamedReason] = field(default_factory=list)
    initdata: Initdata | None = None
    record: KeyRecord | None = None
    key_version: int = 0
    key_since: int = 0
    policy: SignedPolicy | None = None
    collateral: Collateral | None = None
    verdict: Verdict | None = None
    gpu: GpuVerdict | None = None
    """None where the policy does not judge GPUs."""
    inputs: Inputs | None = None
    """As read before the judgement; None where everything is read anew."""
    answers: GpuAnswers | None = None
    """What NVIDIA's services said; None where they were not asked."""

    @property
    def evidence_class(self) -> EvidenceClass | None:
        """The weakest of the trust domain's and the GPUs'; None before it is known."""
        found = [] if self.verdict is None else [self.verdict.evidence_class]
        if self.gpu is not None and (self.gpu.gpus or self.gpu.switches):
            found.append(self.gpu.evidence_class)
        if not found or None in found:
            return None
        return EvidenceClass.SIMULATED if EvidenceClass.SIMULATED in found else EvidenceClass.HARDWARE

    @property
    def end(self) -> Expiry | None:
        """When the first ends of what the judgement rests on; None where it was not accepted."""
        if self.verdict is None or self.verdict.expires_at is None:
            return None
        ends = [Expiry(self.verdict.expires_at, self.verdict.limited_by or "")]
        if self.gpu is not None and self.gpu.expires_at is not None:
            ends.append(Expiry(self.gpu.expires_at, self.gpu.limited_by or ""))
        return min(ends, key=lambda expiry: expiry.at)

    @property
    def holder(self) -> Holder:
        """The trust domain, as the holder of its GPUs."""
        claimed = self.evidence.claimed
        return Holder(self.evidence.keys.receipt.lower(), claimed.namespace, claimed.pod_uid)

    @property
    def devices(self) -> tuple[str, ...]:
        """Device ids of the GPUs that the policy judged."""
        return () if self.gpu is None else tuple(facts.device_id for facts in self.gpu.gpus if facts.device_id is not None)

    def refuse(self, reason: BrokerReason, message: str, remedy: str, detail: str = "") -> None:
        """Add a reason of the broker's own."""
        self.reasons.append(NamedReason(reason=reason, message=message, remedy=remedy, detail=detail))

    def refuse_for(self, error: ChrysalisError) -> None:
        """Add the reason that an error names."""
        self.reasons.append(named(error.as_dict()))


class Judge:
    """Says what evidence is worth under what is stored.  Thread-safe."""

    def __init__(
        self,
        *,
        store: Store,
        records: OwnersRecords,
        references: References,
        collateral: CollateralCache,
        gpu_services: BrokersGpuServices,
        keys: StateKeys,
        placement: Placement,
    ) -> None:
        self._store = store
        self._records = records
        self._references = references
        self._collateral = collateral
        self._gpu_services = gpu_services
        self._keys = keys
        self._placement = placement

    def judge(
        self,
        evidence: Evidence,
        at: datetime,
        *,
        policy: SignedPolicy | None = None,
        prove: bool = True,
        answers: GpuAnswers | None = None,
        inputs: Inputs | None = None,
        owner: str = "",
    ) -> Case:
        """Judge evidence at a time.

        1. Initdata: of the form that Chrysalis renders; it names this broker.
        2. Key record: the one that the initdata's keyId and model name, of its keyOwner where it names one; isolation allowed.
           Who does not know both does not learn which keys there are.
        3. Policy: the key record's owner's, of the name in the record, at least of the version that it asks for.
        4. Collateral: of the quote's platform, as it is known now.
        5. Appraisal: of quote, event log and initdata under that policy, over exactly this nonce, these keys, this identity.
           Nothing in it was withdrawn by a publisher of reference values.  GPUs, where the policy judges them: over this
           session's GPU nonce, each in use by this domain alone.  No report names its domain: `bound` stays Unknown.  NVIDIA's
           services are asked, where the policy wants it, when their answers are all that is missing.
        6. Evidence class: the weakest of domain and GPUs, one that the key record allows.

        policy: in place of the stored one of step 3.  prove: collateral that is missing may be asked for, once the quote's
        platform is proved, and NVIDIA's services may be.  answers: what these said when the evidence was judged first.
        inputs: as read a moment ago, so that what is known of that state is not read again.
        owner: of the result that the evidence was judged for before; it stays this owner's.
        Never raises for what the evidence is; the case holds the reasons.
        """
        case = Case(evidence=evidence, at=at.replace(microsecond=0), answers=answers, inputs=inputs)
        try:
            self._judge(case, policy, prove, owner)
        except ChrysalisError as error:
            case.refuse_for(error)
        return case

    def _judge(self, case: Case, policy: SignedPolicy | None, prove: bool, owner: str) -> None:
        """Collects reasons, and raises where nothing further can be said."""
        toml = decode("initdata", case.evidence.initdata)
        case.initdata = initdata_form.parse(toml)  # 1
        self._check_pin(case, case.initdata)
        case.record = self._record(case, case.initdata, owner)  # 2
        case.policy = policy or self._policy(case, case.record)  # 3
        if case.policy.spec.version < case.record.min_policy_version:
            case.refuse(
                BrokerReason.POLICY_TOO_OLD,
                f"the policy has version {case.policy.spec.version}; the key record asks for {case.record.min_policy_version}",
                "let the owner store a newer policy",
            )
        case.verdict = self._appraise(case, toml, case.initdata, case.policy, prove)  # 4, 5
        case.reasons += [named(reason.model_dump(mode="json")) for reason in case.verdict.reasons]
        case.reasons += self._references.reasons(toml, case.initdata, case.verdict)
        if case.verdict.accepted and case.collateral is None:
            raise AssertionError("an appraisal accepts only what it found genuine")
        self._judge_gpus(case, case.initdata, case.record, case.policy, prove)
        if case.evidence_class is not None:
            check_class(case.record, case.evidence_class)  # 6

    def _judge_gpus(self, case: Case, initdata: Initdata, record: KeyRecord, policy: SignedPolicy, prove: bool) -> None:
        """The GPU part of step 5; without rules, what is sent is bound and not judged."""
        rules, evidence = policy.spec.gpu, case.evidence
        if rules is None:
            return
        nonce = binding.gpu_nonce(**_bound_parts(evidence, initdata))
        if not prove:
            case.answers = self._gpu_services.again(evidence.gpu, rules, case.answers)
        verdict = gpus.appraise(evidence.gpu, rules=rules, nonce=nonce, at=case.at, answers=case.answers)
        ids = {facts.device_id for facts in verdict.gpus if facts.device_id is not None}
        if used := self._store.gpus_in_use(ids, case.holder, unix(case.at)):
            verdict = gpus.appraise(evidence.gpu, rules=rules, nonce=nonce, at=case.at, in_use=used, answers=case.answers)
        case.gpu = verdict
        if prove and not case.reasons and gpus.awaits(verdict) and case.evidence_class in record.evidence_class:
            # Whatever else could be wrong was looked at before: junk makes nobody ask.
            case.answers = self._gpu_services.ask(evidence.gpu, rules=rules, nonce=nonce, owner=record.owner_public_key)
            case.gpu = verdict = gpus.appraise(evidence.gpu, rules=rules, nonce=nonce, at=case.at, answers=case.answers)
        case.reasons += [named(dict(members)) for members in gpus.named(verdict)]

    def _check_pin(self, case: Case, initdata: Initdata) -> None:
        pin = initdata.identity.broker
        if pin.ear_key.lower() != self._keys.ear_public.hex() or pin.spki_sha256.lower() != self._keys.tls_spki_sha256.hex():
            case.refuse(
                BrokerReason.BROKER_PIN_MISMATCH,
                "the worker's initdata pins another broker",
                "set spec.broker of the worker to what `chrysalis keys pin` prints for this broker",
            )

    def _record(self, case: Case, initdata: Initdata, owner: str) -> KeyRecord:
        model = initdata.identity.model
        records = case.inputs and case.inputs.records
        stored: StoredKey | None = (
            self._store.key(owner, model.key_id, records)
            if owner
            else self._store.key_named(model.key_id, model.digest, (model.key_owner or "").lower(), records, self._records.is_owner)
        )
        if stored is None:
            raise BrokerError(
                BrokerReason.KEY_UNKNOWN,
                f"there is no key record {model.key_id!r} for this model{' of this owner' if model.key_owner else ''}",
                "let the model's owner store it with `chrysalis keys put`; set spec.model.digest of the worker to the digest that"
                " `chrysalis seal` printed, and spec.model.keyOwner, if it is set, to the owner's public key",
                f"measured model {model.digest}",
            )
        record = case.record = self._records.record(stored)
        case.key_version, case.key_since = stored.version, stored.key_since
        if model.digest != record.model_digest:
            case.refuse(
                BrokerReason.MODEL_MISMATCH,
                "the worker is measured with another model than the key record's",
                "set spec.model.digest of the worker to the digest that `chrysalis seal` printed",
                f"measured {model.digest}, key record {record.model_digest}",
            )
        check_isolation(record, initdata.identity.isolation)
        return record

    def _policy(self, case: Case, record: KeyRecord) -> SignedPolicy:
        policy = self._records.policy_of(record, case.inputs and case.inputs.records)
        if policy is None:
            raise BrokerError(
                BrokerReason.POLICY_MISSING,
                f"the owner's policy {record.policy_name!r} is not stored",
                "let the owner store it with `chrysalis policy sign --put`",
            )
        return policy

    def _appraise(self, case: Case, toml: bytes, initdata: Initdata, policy: SignedPolicy, prove: bool) -> Verdict:
        evidence = case.evidence
        raw = quote.read(decode("quote", evidence.quote))
        parsed = quote.parse(raw)
        bound = binding.bind(**_bound_parts(evidence, initdata), gpu_digest=gpus.digest(evidence.gpu))
        event_log = decode("eventLog", evidence.event_log) or None
        collateral = self._collateral_of(parsed, policy, case, prove)
        verdict = appraise(
            quote=raw,
            collateral=collateral,
            policy=policy.spec,
            at=case.at,
            event_log=event_log,
            initdata=toml,
            report_data=bound.report_data,
            placement=self._placement,
        )
        if verdict.evidence_class is not None:  # the chain of signatures held
            case.collateral = collateral
        return verdict

    def _collateral_of(self, parsed: Quote, policy: SignedPolicy, case: Case, prove: bool) -> Collateral:
        shared = case.inputs and case.inputs.shared
        return self._collateral.for_quote(parsed, anchor.of_policy(policy.spec), case.at, ask=prove, shared=shared)


def _bound_parts(evidence: Evidence, initdata: Initdata) -> dict[str, Any]:
    """What the session's transcript and its GPUs' nonce are made of."""
    return {
        "nonce": bytes.fromhex(evidence.nonce),
        "tls_spki_sha256": bytes.fromhex(evidence.keys.tls_spki_sha256),
        "hpke": bytes.fromhex(evidence.keys.hpke),
        "receipt": bytes.fromhex(evidence.keys.receipt),
        "identity": {"measured": initdata.identity.to_json_dict(), "claimed": evidence.claimed.to_json_dict()},
    }


def check_isolation(record: KeyRecord, isolation: Isolation) -> None:
    """Raise BrokerError (IsolationNotAllowed) unless the key record lists the measured isolation profile."""
    if isolation not in record.isolation:
        raise BrokerError(
            BrokerReason.ISOLATION_NOT_ALLOWED,
            f"the key record does not allow isolation {isolation.value}",
            "run the worker in a profile that the key record lists, or let the owner change the record",
        )


def check_class(record: KeyRecord, evidence_class: str) -> None:
    """Raise BrokerError (EvidenceClassNotAllowed) unless the key record lists the evidence class."""
    if evidence_class not in record.evidence_class:
        raise BrokerError(
            BrokerReason.EVIDENCE_CLASS_NOT_ALLOWED,
            f"the key record does not allow {evidence_class} evidence",
            "run on hardware, or let the owner list this class in the record's evidenceClass",
        )


def named(members: dict[str, Any]) -> NamedReason:
    """A reason with its free text bounded: results are kept and listed by the thousand."""
    return NamedReason.model_validate(members | {"message": members["message"][:MAX_TEXT], "detail": members["detail"][:MAX_TEXT]})


def decode(name: str, text: str) -> bytes:
    """The bytes of a base64 member; raises BrokerError (MessageMalformed)."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokerError(BrokerReason.MESSAGE_MALFORMED, f"{name} is not base64", "send it as it was produced", str(error)) from error
