"""Why GPU evidence is refused: one stable word each, and one sentence that says what to do about it."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class GpuReason(StrEnum):
    """Reasons of a refusal, and of input that cannot be read.  Never renamed."""

    # Input
    GPU_EVIDENCE_UNREADABLE = "GpuEvidenceUnreadable"
    GPU_EVIDENCE_TOO_LARGE = "GpuEvidenceTooLarge"
    GPU_CHAIN_UNREADABLE = "GpuChainUnreadable"
    GPU_RULES_UNREADABLE = "GpuRulesUnreadable"
    GPU_ROOT_UNREADABLE = "GpuRootUnreadable"
    GPU_FILE_UNREADABLE = "GpuFileUnreadable"
    # The report
    GPU_REPORT_MALFORMED = "GpuReportMalformed"
    GPU_REPORT_TRAILING_DATA = "GpuReportTrailingData"
    GPU_SIGNATURE_INVALID = "GpuSignatureInvalid"
    GPU_NONCE_MISMATCH = "GpuNonceMismatch"
    GPU_CLAIM_MISMATCH = "GpuClaimMismatch"
    # The certificates
    GPU_CERTIFICATE_INVALID = "GpuCertificateInvalid"
    GPU_CERTIFICATE_EXPIRED = "GpuCertificateExpired"
    GPU_TRUST_ROOT_MISMATCH = "GpuTrustRootMismatch"
    GPU_FIRMWARE_ID_MISMATCH = "GpuFirmwareIdMismatch"
    # Revocation
    GPU_REVOCATION_NOT_CHECKED = "GpuRevocationNotChecked"
    GPU_OCSP_INVALID = "GpuOcspInvalid"
    GPU_OCSP_EXPIRED = "GpuOcspExpired"
    GPU_CERTIFICATE_REVOKED = "GpuCertificateRevoked"
    # The device
    GPU_ARCHITECTURE_NOT_ALLOWED = "GpuArchitectureNotAllowed"
    GPU_DRIVER_NOT_ALLOWED = "GpuDriverNotAllowed"
    GPU_VBIOS_NOT_ALLOWED = "GpuVbiosNotAllowed"
    GPU_MODE_NOT_ALLOWED = "GpuModeNotAllowed"
    GPU_DEVTOOLS_MODE = "GpuDevtoolsMode"
    GPU_STATE_UNPROVED = "GpuStateUnproved"
    # Reference values
    GPU_REFERENCE_MISSING = "GpuReferenceMissing"
    GPU_REFERENCE_EXPIRED = "GpuReferenceExpired"
    GPU_REFERENCE_CONFLICT = "GpuReferenceConflict"
    GPU_REFERENCE_VERSION_MISMATCH = "GpuReferenceVersionMismatch"
    GPU_MEASUREMENT_MISSING = "GpuMeasurementMissing"
    GPU_MEASUREMENT_MISMATCH = "GpuMeasurementMismatch"
    GPU_SECURITY_VERSION_TOO_LOW = "GpuSecurityVersionTooLow"
    RIM_MALFORMED = "RimMalformed"
    RIM_SIGNATURE_INVALID = "RimSignatureInvalid"
    RIM_SIGNER_INVALID = "RimSignerInvalid"
    RIM_EXPIRED = "RimExpired"
    RIM_SIGNER_REVOKED = "RimSignerRevoked"
    RIM_REVOCATION_NOT_CHECKED = "RimRevocationNotChecked"
    # The set of devices
    GPU_EVIDENCE_MISSING = "GpuEvidenceMissing"
    GPU_COUNT_MISMATCH = "GpuCountMismatch"
    GPU_NOT_UNIQUE = "GpuNotUnique"
    GPU_IN_USE = "GpuInUse"
    NVSWITCH_MISSING = "NvSwitchMissing"
    NVSWITCH_BIOS_NOT_ALLOWED = "NvSwitchBiosNotAllowed"
    NVSWITCH_TOPOLOGY_MISMATCH = "NvSwitchTopologyMismatch"
    # NVIDIA's Remote Attestation Service
    NRAS_MALFORMED = "NrasTokenMalformed"
    NRAS_ALGORITHM_NOT_ALLOWED = "NrasAlgorithmNotAllowed"
    NRAS_KEY_UNKNOWN = "NrasKeyUnknown"
    NRAS_SIGNATURE_INVALID = "NrasSignatureInvalid"
    NRAS_ISSUER_MISMATCH = "NrasIssuerMismatch"
    NRAS_EXPIRED = "NrasTokenExpired"
    NRAS_NONCE_MISMATCH = "NrasNonceMismatch"
    NRAS_SUBMODULE_MISMATCH = "NrasSubmoduleMismatch"
    NRAS_CLAIM_REFUSED = "NrasClaimRefused"
    NRAS_ANSWER_MISSING = "NrasAnswerMissing"
    # Asking NVIDIA's services
    GPU_SERVICE_NOT_CONFIGURED = "GpuServiceNotConfigured"
    GPU_SERVICE_UNAVAILABLE = "GpuServiceUnavailable"
    GPU_SERVICE_REFUSED = "GpuServiceRefused"


_R = GpuReason
_NEW_REPORT = "get a new report from the GPU and keep its bytes as the driver gave them"
_ASK_AGAIN = "ask NVIDIA's attestation service again, with this session's nonce"

REMEDIES: dict[GpuReason, str] = {
    _R.GPU_EVIDENCE_UNREADABLE: "give NVIDIA SDK evidence (a JSON list), or an SPDM report in binary or hexadecimal with --chain",
    _R.GPU_EVIDENCE_TOO_LARGE: "give the reports of one machine and nothing else; a report has about 4,000 bytes",
    _R.GPU_CHAIN_UNREADABLE: "give the device's certificates as PEM, the device's own first, the root last",
    _R.GPU_RULES_UNREADABLE: "give the policy's `gpu` rules, or a whole AttestationPolicy that has them, as YAML or JSON",
    _R.GPU_ROOT_UNREADABLE: "give one root certificate as DER or PEM",
    _R.GPU_FILE_UNREADABLE: "give the path of a file that can be opened and is not larger than the stated limit",
    _R.GPU_REPORT_MALFORMED: _NEW_REPORT,
    _R.GPU_REPORT_TRAILING_DATA: "cut off what follows the report; only zero padding is accepted there",
    _R.GPU_SIGNATURE_INVALID: "treat the report as forged or damaged, or give the certificate chain that belongs to it",
    _R.GPU_NONCE_MISMATCH: "get a new report over this session's nonce; this one answers another question",
    _R.GPU_CLAIM_MISMATCH: "send what the report itself says, or leave the unsigned copy out",
    _R.GPU_CERTIFICATE_INVALID: "get the certificate chain from the GPU again, the device's own certificate first",
    _R.GPU_CERTIFICATE_EXPIRED: "check the stated time; NVIDIA's device certificates do not expire",
    _R.GPU_TRUST_ROOT_MISMATCH: "check the trust root: the device's chain ends at another root than the one that is trusted here",
    _R.GPU_FIRMWARE_ID_MISMATCH: "reset the GPU and get report and certificate chain together, of one boot",
    _R.GPU_REVOCATION_NOT_CHECKED: "attest again, or give an OCSP answer for each authority of a chain with its root; or allow Optional",
    _R.GPU_OCSP_INVALID: "ask NVIDIA's OCSP service again and keep its answer byte for byte",
    _R.GPU_OCSP_EXPIRED: "ask NVIDIA's OCSP service again; this answer is not current at the stated time",
    _R.GPU_CERTIFICATE_REVOKED: "do not trust this GPU: NVIDIA revoked a certificate of it",
    _R.GPU_ARCHITECTURE_NOT_ALLOWED: "run on a GPU that the policy's gpu.architectures lists",
    _R.GPU_DRIVER_NOT_ALLOWED: "install a driver that the policy's gpu.driverVersions lists, or add this one after reading its notes",
    _R.GPU_VBIOS_NOT_ALLOWED: "flash a VBIOS that the policy's gpu.vbiosVersions lists, or add this one after reading its notes",
    _R.GPU_MODE_NOT_ALLOWED: "put the GPU into a confidential-computing mode that the policy's gpu.ccMode lists, then reset it",
    _R.GPU_DEVTOOLS_MODE: "put the GPU into production mode (CC on, devtools off) and reset it; its memory can be read by tools now",
    _R.GPU_STATE_UNPROVED: "get the measurements to match their reference values: only they prove secure boot and that debugging is off",
    _R.GPU_REFERENCE_MISSING: "digest NVIDIA's RIM of this version with `chrysalis gpu rim` and add it to gpu.measurements",
    _R.GPU_REFERENCE_EXPIRED: "get the RIM that NVIDIA signed anew, digest it, and replace these reference values",
    _R.GPU_REFERENCE_CONFLICT: "do not use these two RIMs together: both claim the same measurement or security version",
    _R.GPU_REFERENCE_VERSION_MISMATCH: "give the RIM of the version that runs on the GPU",
    _R.GPU_MEASUREMENT_MISSING: "get a report with all measurement blocks (SPDM operation 0xFF)",
    _R.GPU_MEASUREMENT_MISMATCH: "do not trust this GPU as it is: what it runs is not what NVIDIA published for these versions",
    _R.GPU_SECURITY_VERSION_TOO_LOW: (
        "update the GPU's firmware and driver until each security version reaches the least one of NVIDIA's RIMs, then attest again"
    ),
    _R.RIM_MALFORMED: "fetch the RIM again from NVIDIA's RIM service and keep it byte for byte",
    _R.RIM_SIGNATURE_INVALID: "do not use this RIM: its signature does not match its bytes",
    _R.RIM_SIGNER_INVALID: "do not use this RIM: it was not signed under the trusted RIM root",
    _R.RIM_EXPIRED: "get the RIM that NVIDIA signed anew, or judge at a time within its certificates' validity",
    _R.RIM_SIGNER_REVOKED: "use neither this RIM nor values digested from it; get the one that NVIDIA signed anew under other certificates",
    _R.RIM_REVOCATION_NOT_CHECKED: (
        "give the RIM as NVIDIA signed it, with an OCSP answer for each certificate below its root (--ocsp), or a responder to ask"
        " (--ocsp-url); or allow Optional"
    ),
    _R.GPU_EVIDENCE_MISSING: "send evidence of every GPU that the trust domain sees; the policy requires it",
    _R.GPU_COUNT_MISMATCH: "give the trust domain as many GPUs as gpu.count says, and send evidence of each",
    _R.GPU_NOT_UNIQUE: "send each GPU's report once",
    _R.GPU_IN_USE: "end the other worker, or wait until its result expires: one GPU cannot serve two trust domains",
    _R.NVSWITCH_MISSING: "send evidence of every NVSwitch; the policy demands as many as gpu.nvswitch.count says",
    _R.NVSWITCH_BIOS_NOT_ALLOWED: "flash a switch BIOS that the policy's gpu.nvswitch.biosVersions lists",
    _R.NVSWITCH_TOPOLOGY_MISMATCH: "send the reports of one machine: GPUs and switches must name each other",
    _R.NRAS_MALFORMED: _ASK_AGAIN,
    _R.NRAS_ALGORITHM_NOT_ALLOWED: "use tokens of NVIDIA's service; a local verifier's unsigned ones prove nothing",
    _R.NRAS_KEY_UNKNOWN: "fetch the service's key set (JWKS) again; the token's key is not in the one that was given",
    _R.NRAS_SIGNATURE_INVALID: "treat the token as forged or damaged; " + _ASK_AGAIN,
    _R.NRAS_ISSUER_MISMATCH: "use tokens of the attestation service that is configured",
    _R.NRAS_EXPIRED: _ASK_AGAIN,
    _R.NRAS_NONCE_MISMATCH: _ASK_AGAIN,
    _R.NRAS_SUBMODULE_MISMATCH: "send the whole answer of the service: its overall token and the token of every GPU, unchanged",
    _R.NRAS_CLAIM_REFUSED: "read which claim the service denied, and correct that on the machine",
    _R.NRAS_ANSWER_MISSING: "attest again: the service is asked once everything else holds; from files, give --nras and --nras-keys",
    _R.GPU_SERVICE_NOT_CONFIGURED: (
        "set gpu.nras or gpu.ocsp in the broker's settings (a client: gpu_services, or --nras-url, --ocsp-url of `chrysalis infer`), or"
        " let the policy's gpu.backend be Local and its gpu.revocation Optional"
    ),
    _R.GPU_SERVICE_REFUSED: "compare what the machine sends with what NVIDIA's service takes, or let the policy's gpu.backend be Local",
    _R.GPU_SERVICE_UNAVAILABLE: "try again; if it stays, look at the service that the settings or options name, and at the way to it",
}


class GpuError(ChrysalisError):
    """GPU evidence, or what it is judged with, that cannot be read or judged."""

    reason: GpuReason

    def __init__(self, reason: GpuReason, message: str, detail: str = "") -> None:
        super().__init__(reason, message, REMEDIES[reason], detail)
