"""One device: is its report genuine, and what does it say of itself."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from chrysalis.api.policy_gpu import GpuArchitecture, GpuMode
from chrysalis.attestation.gpu import chain as chains
from chrysalis.attestation.gpu import ocsp, spdm
from chrysalis.attestation.gpu.evidence import GpuEvidence
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.attestation.gpu.spdm import Field, Report
from chrysalis.attestation.gpu.verdict import DeviceFacts, Finding, Revocation

FOREVER_YEAR = 9999
"""NVIDIA's device certificates end in it (RFC 5280, section 4.1.2.5: no well-defined end)."""
_FLAG_MODES = {0: GpuMode.ON, 1: GpuMode.ON, 2: GpuMode.PROTECTED_PCIE}
"""FEATURE_FLAG: single-GPU and multi-GPU pass-through are both mode On."""
_R = GpuReason


@dataclass
class Judged:
    """A device on its way through the appraisal; facts are collected, findings added."""

    index: int
    evidence: GpuEvidence
    facts: dict[str, object] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    report: Report | None = None
    chain: chains.Chain | None = None
    genuine: bool = False  # signature and chain hold: what the report says is the device's own word
    until: datetime | None = None  # when the first of its certificates and OCSP answers ends
    until_name: str = ""

    @property
    def architecture(self) -> GpuArchitecture | None:
        """What the certificates say; where there are none to read, what the sender says."""
        return self.chain.architecture if self.chain is not None else self.evidence.stated.architecture

    @property
    def is_switch(self) -> bool:
        """Whether this is an NVSwitch."""
        return self.architecture == GpuArchitecture.LS10

    def add(self, reason: GpuReason, message: str, detail: str = "") -> None:
        """One more finding about this device."""
        self.findings.append(Finding.of(reason, message, detail, self.index))

    def describe(self) -> DeviceFacts:
        """The facts as they stand in the verdict."""
        return DeviceFacts.model_validate({"index": self.index, "architecture": self.architecture, **self.facts})


def judge(
    index: int, evidence: GpuEvidence, *, at: datetime, root_sha256: str, nonce: bytes | None, answers: Sequence[ocsp.Answer]
) -> Judged:
    """Read one device's evidence and check whose it is; never raises for what a stranger sent.

    1. Form of the report; 2. form and signatures of the chain; 3. its root and its validity; 4. the report's signature;
    5. the firmware identifier of report and certificate; 6. the nonce; 7. what the sender states beside the report;
    8. OCSP answers about the certificates, where there are any.
    """
    judged = Judged(index, evidence)
    try:
        judged.report = spdm.parse(evidence.report)
    except GpuError as error:
        judged.findings.append(Finding.from_error(error, index))
    try:
        judged.chain = chains.read(evidence.chain)
    except GpuError as error:
        judged.findings.append(Finding.from_error(error, index))
    report, chain, trusted = judged.report, judged.chain, False
    if chain is not None:
        judged.facts |= {"device_id": chain.device_id, "hardware_model": chain.hardware_model, "chain_valid_to": chain.valid_to}
        _limit(judged, chain.valid_to, "gpuCertificate.notAfter")
        try:
            chain.check(at, root_sha256)
            trusted = True
        except GpuError as error:
            judged.findings.append(Finding.from_error(error, index))
        if chain.architecture is None:
            judged.add(_R.GPU_ARCHITECTURE_NOT_ALLOWED, "the certificates name no kind of device that can be judged", chain.hardware_model)
    if report is None or chain is None:
        return judged
    judged.facts |= {"nonce": report.nonce.hex(), "measurements": len(report.blocks)}
    if not chain.verify(report.signature, report.signed):
        judged.facts["signature"] = "Invalid"
        judged.add(_R.GPU_SIGNATURE_INVALID, "the report's signature does not hold under the device's key")
        return judged
    judged.facts["signature"] = "Valid"
    try:
        _read(judged, report)
    except GpuError as error:
        judged.findings.append(Finding.from_error(error, index))
        return judged
    _firmware_id(judged, report, chain)
    if nonce is not None and not hmac.compare_digest(report.nonce, nonce):
        judged.add(_R.GPU_NONCE_MISMATCH, "the report answers another nonce", f"it answers {report.nonce.hex()}")
    _stated(judged, report)
    _revocation(judged, chain, answers, at)
    judged.genuine = trusted
    return judged


def _read(judged: Judged, report: Report) -> None:
    """The fields of the opaque data, as facts; raises GpuError for a field that is not in its form."""
    facts = judged.facts
    if (fwid := report.opaque.get(Field.FWID)) is not None:
        facts["firmware_id"] = fwid.hex()
    if judged.is_switch:
        facts |= {"vbios_version": report.text(Field.VBIOS_VERSION), "device_pdi": report.switch_pdi, "gpu_pdis": report.switch_gpus}
        return
    facts |= {"driver_version": report.text(Field.DRIVER_VERSION), "vbios_version": report.gpu_vbios_version}
    facts["switch_pdis"] = sorted(set(report.gpu_links))
    facts["mode"] = mode(report)
    report.flag(Field.NVDEC0_STATUS)  # a value that is neither on nor off is refused here, whatever it would be used for


def mode(report: Report) -> GpuMode | None:
    """The confidential-computing mode that a GPU's report states, None where its two statements contradict each other or are
    not known; raises GpuError.  Older firmware states only whether PCIe is protected: under a driver, a GPU reports in no other
    mode than these.  A report without a driver's version is of the GPU's boot processor (FSP), which answers in any mode.
    Devtools is no value here: what tells it apart are the measurements."""
    flag, protected = report.number(Field.FEATURE_FLAG), report.flag(Field.PROTECTED_PCIE_STATUS)
    if flag is None and protected is None and not report.text(Field.DRIVER_VERSION):
        return None
    if flag is None:
        return GpuMode.PROTECTED_PCIE if protected else GpuMode.ON
    stated = _FLAG_MODES.get(flag)
    if stated is None or (protected is not None and protected != (stated == GpuMode.PROTECTED_PCIE)):
        return None
    return stated


def _firmware_id(judged: Judged, report: Report, chain: chains.Chain) -> None:
    stated = report.opaque.get(Field.FWID)
    if stated is None:
        return  # the firmware is of before the field; the device's key is bound to it by the certificate alone
    matched = chain.fwid is not None and hmac.compare_digest(stated, chain.fwid)
    judged.facts["firmware_id_matched"] = matched
    if not matched:
        known = chain.fwid.hex() if chain.fwid is not None else "none"
        judged.add(_R.GPU_FIRMWARE_ID_MISMATCH, "report and certificate name different firmware", f"the certificate's identifier: {known}")


def _stated(judged: Judged, report: Report) -> None:
    """What the sender says beside the report must be what the report says."""
    stated = judged.evidence.stated
    pairs = (
        ("architecture", stated.architecture, judged.architecture),
        ("nonce", stated.nonce, report.nonce),
        ("driver version", stated.driver_version, judged.facts.get("driver_version")),
        ("VBIOS version", stated.vbios_version and stated.vbios_version.upper(), judged.facts.get("vbios_version")),
    )
    for name, said, found in pairs:
        if said is not None and said != found:
            shown = [value.hex() if isinstance(value, bytes) else str(value) for value in (said, found)]
            judged.add(_R.GPU_CLAIM_MISMATCH, f"the sender states another {name} than the report", f"{shown[0]}, not {shown[1]}")
    if stated.devtools:
        judged.add(_R.GPU_DEVTOOLS_MODE, "the trust domain's driver says that the GPU is in devtools mode")


def _revocation(judged: Judged, chain: chains.Chain, answers: Sequence[ocsp.Answer], at: datetime) -> None:
    """Good once every authority's certificate below the root has a good answer; the device's own is not in NVIDIA's OCSP.

    A chain that was sent without its root is not wholly checked: the issuer of its last authority is not at hand to check with.
    """
    checked = 0
    asked = chain.revocable
    for certificate, issuer in asked:
        try:
            until = ocsp.good_until(certificate, issuer, answers, at)
        except GpuError as error:
            if error.reason is _R.GPU_CERTIFICATE_REVOKED:
                judged.facts["revocation"] = Revocation.REVOKED
            judged.findings.append(Finding.from_error(error, judged.index))
            continue
        if until is not None:
            _limit(judged, until, "gpuOcsp.nextUpdate")
            checked += 1
    if asked and checked == len(asked) and chain.complete:
        judged.facts["revocation"] = Revocation.GOOD


def _limit(judged: Judged, until: datetime, name: str) -> None:
    if until.year < FOREVER_YEAR and (judged.until is None or until < judged.until):
        judged.until, judged.until_name = until, name
