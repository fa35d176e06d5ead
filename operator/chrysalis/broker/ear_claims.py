"""What a result claims in the words of AR4SI: for each claim the strongest value that was really checked, and no more.

Values of draft-ietf-rats-ar4si, section 3.1.  0: nothing is claimed.  2 to 31 affirm, 32 to 95 warn, 96 and above contraindicate.
Simulated evidence is signed by no maker's root: a reader that knows only these claims must refuse it, so it is contraindicated.
"""

from __future__ import annotations

from chrysalis.api.policy import TcbStatus
from chrysalis.api.worker import Isolation
from chrysalis.attestation.gpu.verdict import Comparison, DeviceFacts, GpuVerdict
from chrysalis.attestation.verdict import EvidenceClass
from chrysalis.wire.ear import SUBMODULE, Appraisal, EarGpus, EarResult, Status, VectorClaim

COMPARED = (Comparison.MATCHED, Comparison.MATCHED_BY_SERVICE)
NO_CLAIM = 0
RECOGNIZED = 2
APPROVED_AT_BOOT = 3
KNOWN_WEAKNESS = 32
VISIBLE_MEMORY = 96
NOT_RECOGNIZED = 97

HARDENING = frozenset(
    {
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TcbStatus.OUT_OF_DATE,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    }
)
CONFIGURATION = frozenset(
    {
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    }
)


def vector(result: EarResult) -> dict[VectorClaim, int]:
    """The trustworthiness vector of an accepted trust domain.

    instance-identity: the quoting key's chain ends at the maker's root and is not revoked.
    configuration: attributes, XFAM and initdata are the policy's; warns where the platform's configuration is known to be weak, and
    for NodeTD, whose node the cluster's administrators configure.
    executables: firmware, kernel and image are measured at boot; what a container starts later is not.
    file-system: not judged.
    hardware: genuine; warns below UpToDate, whatever the policy forgives.
    runtime-opaque: the domain's memory is encrypted; a simulated one's is plain to see.
    storage-opaque, sourced-data: not judged.
    """
    hardware = result.evidence_class == "Hardware"
    weak_configuration = result.isolation is not Isolation.POD_TD or result.tcb_status in CONFIGURATION
    known = result.tcb_status in set(TcbStatus)
    weak_hardware = not known or result.tcb_status in HARDENING
    return {
        "instance-identity": RECOGNIZED if hardware else NOT_RECOGNIZED,
        "configuration": KNOWN_WEAKNESS if weak_configuration else RECOGNIZED,
        "executables": APPROVED_AT_BOOT,
        "file-system": NO_CLAIM,
        "hardware": NOT_RECOGNIZED if not hardware else KNOWN_WEAKNESS if weak_hardware else RECOGNIZED,
        "runtime-opaque": RECOGNIZED if hardware else VISIBLE_MEMORY,
        "storage-opaque": NO_CLAIM,
        "sourced-data": NO_CLAIM,
    }


def tier(value: int) -> Status:
    """The tier of one claim's value (AR4SI, section 3.2); negative values are the same tiers, seen by other verifiers."""
    size = abs(value)
    if size >= 96:
        return "contraindicated"
    if size >= 32:
        return "warning"
    return "affirming" if size >= 2 else "none"


def device_vector(facts: DeviceFacts, evidence_class: EvidenceClass) -> dict[VectorClaim, int]:
    """The trustworthiness vector of an accepted GPU or NVSwitch.

    instance-identity: the device key's chain ends at the maker's root, and it is not known to be revoked; whether that was
    asked stands in chrysalis_result.gpu.revocation.
    configuration: driver, firmware and confidential-computing mode are the policy's.
    executables: every active reference value matched, here or by the word of the service that chrysalis_result.gpu.service names.
    hardware: genuine.  runtime-opaque: a GPU in that mode shows its memory to no host; of a switch nothing is claimed.
    file-system, storage-opaque, sourced-data: not judged.
    """
    genuine = evidence_class == EvidenceClass.HARDWARE
    opaque = NO_CLAIM if facts.mode is None else RECOGNIZED if genuine else VISIBLE_MEMORY
    return {
        "instance-identity": RECOGNIZED if genuine else NOT_RECOGNIZED,
        "configuration": RECOGNIZED,
        "executables": APPROVED_AT_BOOT if facts.comparison in COMPARED else NO_CLAIM,
        "file-system": NO_CLAIM,
        "hardware": RECOGNIZED if genuine else NOT_RECOGNIZED,
        "runtime-opaque": opaque,
        "storage-opaque": NO_CLAIM,
        "sourced-data": NO_CLAIM,
    }


def gpus(verdict: GpuVerdict) -> EarGpus | None:
    """What the result says of all GPUs; None where there are none."""
    if verdict.evidence_class is None:
        return None
    return EarGpus(
        backend=verdict.backend.value,
        evidence_class=verdict.evidence_class.value,
        device_ids=[facts.device_id or "" for facts in verdict.gpus],
        revocation=verdict.revocation.value,
        bound=verdict.bound,
        service=verdict.service,
    )


def submodules(result: EarResult, verdict: GpuVerdict | None) -> dict[str, Appraisal]:
    """One for the trust domain, one for each GPU, one for each NVSwitch."""
    found = {SUBMODULE: appraisal(result)}
    if verdict is None or verdict.evidence_class is None:
        return found
    for kind, devices in (("gpu", verdict.gpus), ("nvswitch", verdict.switches)):
        for place, facts in enumerate(devices):
            found[f"{kind}{place}"] = _appraisal(device_vector(facts, verdict.evidence_class), result)
    return found


def appraisal(result: EarResult) -> Appraisal:
    """The submodule of a trust domain: its status is the worst tier that is claimed."""
    return _appraisal(vector(result), result)


def _appraisal(claims: dict[VectorClaim, int], result: EarResult) -> Appraisal:
    order: tuple[Status, ...] = ("contraindicated", "warning", "affirming")
    found = {tier(value) for value in claims.values()}
    return Appraisal(
        status=next((status for status in order if status in found), "none"),
        vector=claims,
        policy_ids=[f"policy:{result.policy_owner}/{result.policy_name}/{result.policy_version}"],
    )
