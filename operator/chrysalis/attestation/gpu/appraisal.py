"""The appraisal of a trust domain's GPUs and NVSwitches: evidence, rules and reference values in, a verdict out.  Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from chrysalis.api.policy_gpu import GpuBackend, GpuReferenceValues, GpuRevocation, GpuRules, NvidiaDerRoot
from chrysalis.attestation.gpu import comparison, ocsp
from chrysalis.attestation.gpu.chain import NVIDIA_DEVICE_ROOT_SHA256
from chrysalis.attestation.gpu.device import Judged, judge
from chrysalis.attestation.gpu.evidence import MAX_DEVICES, GpuEvidence
from chrysalis.attestation.gpu.nras import Answer
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.attestation.gpu.verdict import Comparison, Finding, GpuVerdict, Revocation
from chrysalis.attestation.verdict import EvidenceClass

_R = GpuReason
RemoteCheck = Callable[[], Answer]
"""Checks a remote service's answer (nras.check with its keys, time and nonce); raises GpuError."""


def appraise_gpus(
    *,
    evidence: Sequence[GpuEvidence],
    rules: GpuRules | None,
    nonce: bytes | None,
    at: datetime,
    references: Sequence[GpuReferenceValues] = (),
    root: bytes | None = None,
    ocsp_responses: Sequence[bytes] = (),
    remote: RemoteCheck | None = None,
    in_use: Collection[str] = (),
) -> GpuVerdict:
    """Judge every GPU and NVSwitch that a trust domain sees, at a stated time; never raises for what a stranger sent.

    1. Each device: the report's form, its chain to the device root, validity, signature, firmware identifier, nonce, and that
       the sender's unsigned copies say the same; OCSP answers where there are any.  What is not genuine is judged no further.
    2. Each device under the rules: architecture, driver and VBIOS versions, confidential-computing mode, never devtools.
    3. Measurements: each active reference value of the device's driver and VBIOS.  Only that they match proves secure boot and
       that debugging is off.  Under backend NRAS, the service's signed answer about exactly these GPUs stands in their place.
    4. The set: as many GPUs as the rules say, each once, none of them in use by another live result.
    5. NVSwitches, where the rules demand them: number, BIOS versions, and that GPUs and switches name each other.
    6. Revocation: NotChecked is said wherever not every certificate had a good OCSP answer, and refuses where the rules say so.

    Without rules, what is there is judged for genuineness, and compared with `references` if any were given; the verdict's
    scope says so.  With rules, `references` are not used: the rules hold the only ones that count, and their trust root.
    root: DER of the device root to trust instead of NVIDIA's, without rules.  in_use: device ids of other domains' live
    results.  nonce: 32 bytes; None: it is not judged, and the verdict says so.
    """
    if at.tzinfo is None:
        raise ValueError("an appraisal needs an aware time")
    findings: list[Finding] = []
    known: dict[str, object] = {"scope": _scope(rules, references), "nonce_checked": nonce is not None}
    if rules is not None:
        known["backend"] = rules.backend
    try:
        anchor = _anchor(rules, root)
        answers = ocsp.read(ocsp_responses)
        if len(evidence) > MAX_DEVICES:
            raise GpuError(_R.GPU_EVIDENCE_TOO_LARGE, f"the evidence is of {len(evidence)} devices; at most {MAX_DEVICES} are judged")
    except GpuError as error:
        return _verdict([Finding.from_error(error)], [], known)

    # 1. Each device
    devices = [judge(index, one, at=at, root_sha256=anchor, nonce=nonce, answers=answers) for index, one in enumerate(evidence)]
    known["evidence_class"] = EvidenceClass.HARDWARE if anchor == NVIDIA_DEVICE_ROOT_SHA256 else EvidenceClass.SIMULATED
    if not devices or any(not device.genuine for device in devices):
        known["evidence_class"] = None
    gpus = [device for device in devices if not device.is_switch]
    switches = [device for device in devices if device.is_switch]

    # 2. and 3. Each device under the rules
    local = rules is None or rules.backend == GpuBackend.LOCAL
    for device in devices:
        if not device.genuine:
            continue
        if rules is not None:
            _under_rules(device, rules)
        if local or device.is_switch:  # the remote service's answer is about the GPUs alone
            _measurements(device, rules, references, at)
    limits = [(device.until, device.until_name) for device in devices if device.until is not None]
    if rules is not None and not local and gpus:
        said, answer = _remote(gpus, remote, limits)
        findings += said
        known["service"] = answer.issuer if answer is not None else None

    # 4. The set
    findings += _set(gpus, bool(switches), rules, in_use) + _unique(switches, "NVSwitch")
    # 5. NVSwitches
    if rules is not None and rules.nvswitch is not None and gpus:
        findings += _switches(gpus, switches, rules)
    # 6. Revocation
    worst = _revocation(devices)
    known["revocation"] = worst
    if rules is not None and rules.revocation == GpuRevocation.REQUIRED and gpus and worst == Revocation.NOT_CHECKED:
        findings.append(Finding.of(_R.GPU_REVOCATION_NOT_CHECKED, "not every certificate has a good OCSP answer"))

    for device in devices:
        findings += device.findings
    limits += [
        (reference.expires, "gpuReference.expires")
        for reference in (rules.measurements if rules is not None else references)
        if reference.expires is not None and any(reference.id in _ids(device) for device in devices)
    ]
    if limits and not findings:
        known["expires_at"], known["limited_by"] = min(limits)
    return _verdict(findings, devices, known)


def _scope(rules: GpuRules | None, references: Sequence[GpuReferenceValues]) -> str:
    if rules is not None:
        return "Policy"
    return "GenuinenessAndReferences" if references else "Genuineness"


def _verdict(findings: Sequence[Finding], devices: Sequence[Judged], known: dict[str, object]) -> GpuVerdict:
    described = [(device.is_switch, device.describe()) for device in devices]
    return GpuVerdict.model_validate(
        {
            "verdict": "Refused" if findings else "Accepted",
            "reasons": list(findings),
            "gpus": [facts for is_switch, facts in described if not is_switch],
            "switches": [facts for is_switch, facts in described if is_switch],
            **known,
        }
    )


def _anchor(rules: GpuRules | None, root: bytes | None) -> str:
    """The SHA-256 of the root's DER; raises GpuError where the rules' root cannot be read, or is not the one given."""
    given = None if root is None else hashlib.sha256(root).hexdigest()
    if rules is None:
        return given or NVIDIA_DEVICE_ROOT_SHA256
    anchor = NVIDIA_DEVICE_ROOT_SHA256
    if isinstance(rules.trust_root, NvidiaDerRoot):
        try:
            anchor = hashlib.sha256(base64.b64decode(rules.trust_root.der, validate=True)).hexdigest()
        except binascii.Error as error:
            raise GpuError(_R.GPU_TRUST_ROOT_MISMATCH, "the rules' trustRoot.der is not base64", str(error)) from error
    if given is not None and given != anchor:
        raise GpuError(_R.GPU_TRUST_ROOT_MISMATCH, "the rules' trust root is not the one that was given")
    return anchor


def _under_rules(device: Judged, rules: GpuRules) -> None:
    facts = device.facts
    if device.is_switch:
        if rules.nvswitch is not None and facts.get("vbios_version") not in rules.nvswitch.bios_versions:
            device.add(_R.NVSWITCH_BIOS_NOT_ALLOWED, f"the switch's BIOS is {facts.get('vbios_version')}; the rules do not list it")
        return
    if device.architecture is not None and device.architecture not in rules.architectures:
        device.add(_R.GPU_ARCHITECTURE_NOT_ALLOWED, f"the GPU is a {device.architecture}; the rules do not list it")
    if facts.get("driver_version") not in rules.driver_versions:
        device.add(_R.GPU_DRIVER_NOT_ALLOWED, f"the driver is {facts.get('driver_version')}; the rules do not list it")
    if str(facts.get("vbios_version")).upper() not in {version.upper() for version in rules.vbios_versions}:
        device.add(_R.GPU_VBIOS_NOT_ALLOWED, f"the VBIOS is {facts.get('vbios_version')}; the rules do not list it")
    if facts.get("mode") not in rules.cc_mode:
        stated = facts.get("mode") or "in no known mode, or in two"
        device.add(_R.GPU_MODE_NOT_ALLOWED, f"the GPU is {stated}; the rules do not list it")


def _measurements(device: Judged, rules: GpuRules | None, references: Sequence[GpuReferenceValues], at: datetime) -> None:
    usable = rules.measurements if rules is not None else references
    architecture, report = device.architecture, device.report
    if architecture is None or report is None or (rules is None and not references):
        return
    versions = {name: device.facts.get(name) for name in ("driver_version", "vbios_version")}
    texts = {name: value if isinstance(value, str) else None for name, value in versions.items()}
    found = comparison.compare(
        report,
        usable,
        architecture=architecture,
        driver_version=texts["driver_version"],
        vbios_version=texts["vbios_version"],
        at=at,
        device=device.index,
        exact_version=rules is not None,
    )
    device.findings += found.findings
    device.facts |= {"compared": found.count, "mismatches": list(found.mismatches), "security_versions": dict(found.security_versions)}
    if found.count:
        device.facts["comparison"] = Comparison.DIFFERENT if found.findings else Comparison.MATCHED
    if found.count and not found.findings:
        device.facts |= {"secure_boot": True, "debug": "Disabled", "reference_ids": [one.id for one in found.references]}


def _remote(gpus: Sequence[Judged], remote: RemoteCheck | None, limits: list[tuple[datetime, str]]) -> tuple[list[Finding], Answer | None]:
    """The remote service's word about exactly these GPUs: its `ueid` is the serial number of the device's certificate.

    Findings about the answer as a whole, and the answer itself where its signatures hold.
    """
    if remote is None:
        return [Finding.of(_R.NRAS_ANSWER_MISSING, "the rules ask for the remote service's answer, and there is none")], None
    try:
        answer = remote()
    except GpuError as error:
        return [Finding.from_error(error)], None
    limits.append((answer.expires, "nras.exp"))
    mine = {str(gpu.chain.certificates[0].serial_number): gpu for gpu in gpus if gpu.chain is not None and gpu.genuine}
    theirs = {device.ueid: device for device in answer.devices}
    if set(mine) != set(theirs) or len(theirs) != len(answer.devices):
        return [Finding.of(_R.NRAS_SUBMODULE_MISMATCH, "the service's answer is about other GPUs than the reports")], answer
    for ueid, gpu in mine.items():
        stated = (theirs[ueid].driver_version, theirs[ueid].vbios_version.upper())
        if stated != (gpu.facts.get("driver_version"), gpu.facts.get("vbios_version")):
            gpu.add(_R.NRAS_CLAIM_REFUSED, "the service judged other versions than the report states", ", ".join(stated))
            continue
        gpu.facts |= {"comparison": Comparison.MATCHED_BY_SERVICE, "secure_boot": True, "debug": "Disabled"}
    return [], answer


def _set(gpus: Sequence[Judged], any_switch: bool, rules: GpuRules | None, in_use: Collection[str]) -> list[Finding]:
    """How many there are, and whose.  Without rules, switches may stand alone: NVIDIA's tools keep them in a file of their own."""
    findings = []
    if rules is not None and not gpus:
        if rules.required:
            findings.append(Finding.of(_R.GPU_EVIDENCE_MISSING, f"the rules require evidence of {rules.count} GPUs, and there is none"))
    elif rules is not None and len(gpus) != rules.count:
        findings.append(Finding.of(_R.GPU_COUNT_MISMATCH, f"there is evidence of {len(gpus)} GPUs; the rules say {rules.count}"))
    elif rules is None and not gpus and not any_switch:
        findings.append(Finding.of(_R.GPU_EVIDENCE_MISSING, "there is no GPU in the evidence"))
    findings += _unique(gpus, "GPU")
    for gpu in gpus:
        if gpu.facts.get("device_id") in in_use:
            gpu.add(_R.GPU_IN_USE, "the GPU is in another trust domain's live result", str(gpu.facts.get("device_id")))
    return findings


def _unique(devices: Sequence[Judged], what: str) -> list[Finding]:
    """Each device once, by its identity key; a sender's own UUIDs must differ, too."""
    ids = Counter(str(device.facts["device_id"]) for device in devices if "device_id" in device.facts)
    ids += Counter(device.evidence.stated.uuid for device in devices if device.evidence.stated.uuid is not None)
    twice = sorted(name for name, number in ids.items() if number > 1)
    return [Finding.of(_R.GPU_NOT_UNIQUE, f"one {what} is in the evidence more than once", ", ".join(twice)[:300])] if twice else []


def _switches(gpus: Sequence[Judged], switches: Sequence[Judged], rules: GpuRules) -> list[Finding]:
    """Number and topology: all GPUs are linked to the same switches, these are the ones whose reports are there, and each
    of them is linked to the same GPUs, as many as there are."""
    wanted = rules.nvswitch.count if rules.nvswitch is not None else 0
    if len(switches) != wanted:
        return [Finding.of(_R.NVSWITCH_MISSING, f"there is evidence of {len(switches)} NVSwitches; the rules say {wanted}")]
    if not all(device.genuine for device in (*gpus, *switches)):
        return []  # what is not genuine has its own reason, and its links mean nothing
    reported = sorted(str(switch.facts.get("device_pdi")) for switch in switches)
    problems = []
    for gpu in gpus:
        if gpu.facts.get("switch_pdis") != reported:
            problems.append(f"GPU {gpu.index} is linked to other switches than those whose reports are there")
    first = switches[0].facts.get("gpu_pdis")
    for switch in switches:
        linked = switch.facts.get("gpu_pdis")
        if linked != first or not isinstance(linked, list) or len(linked) != len(gpus):
            problems.append(f"switch {switch.index} is not linked to the {len(gpus)} GPUs that the others are linked to")
    if not problems:
        return []
    return [Finding.of(_R.NVSWITCH_TOPOLOGY_MISMATCH, problems[0], "; ".join(problems[1:])[:500])]


def _revocation(devices: Sequence[Judged]) -> Revocation:
    """The weakest of all devices."""
    found = [device.facts.get("revocation", Revocation.NOT_CHECKED) for device in devices]
    if Revocation.REVOKED in found:
        return Revocation.REVOKED
    return Revocation.GOOD if found and all(one == Revocation.GOOD for one in found) else Revocation.NOT_CHECKED


def _ids(device: Judged) -> list[str]:
    found = device.facts.get("reference_ids", [])
    return found if isinstance(found, list) else []
