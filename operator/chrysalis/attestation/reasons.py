"""Why evidence is refused: one stable word each, and one sentence that says what to do about it."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class AttestationReason(StrEnum):
    """Reasons of a refusal, and of input that cannot be read.  Never renamed."""

    # The quote's form
    QUOTE_UNREADABLE = "QuoteUnreadable"
    QUOTE_TOO_LARGE = "QuoteTooLarge"
    QUOTE_MALFORMED = "QuoteMalformed"
    QUOTE_TYPE_UNSUPPORTED = "QuoteTypeUnsupported"
    QUOTE_TRAILING_DATA = "QuoteTrailingData"
    # Collateral
    COLLATERAL_MISSING = "CollateralMissing"
    COLLATERAL_MALFORMED = "CollateralMalformed"
    COLLATERAL_EXPIRED = "CollateralExpired"
    COLLATERAL_NOT_YET_VALID = "CollateralNotYetValid"
    COLLATERAL_MISMATCH = "CollateralMismatch"
    COLLATERAL_SIGNATURE_INVALID = "CollateralSignatureInvalid"
    COLLATERAL_SIGNER_INVALID = "CollateralSignerInvalid"
    # Genuineness
    TRUST_ROOT_MISMATCH = "TrustRootMismatch"
    SIGNATURE_INVALID = "SignatureInvalid"
    CERTIFICATE_INVALID = "CertificateInvalid"
    CERTIFICATE_EXPIRED = "CertificateExpired"
    CERTIFICATE_REVOKED = "CertificateRevoked"
    QE_IDENTITY_MISMATCH = "QeIdentityMismatch"
    TDX_MODULE_MISMATCH = "TdxModuleMismatch"
    VERIFICATION_FAILED = "VerificationFailed"
    # TCB and platform
    TCB_OUT_OF_DATE = "TcbOutOfDate"
    TCB_CONFIGURATION_NEEDED = "TcbConfigurationNeeded"
    TCB_SW_HARDENING_NEEDED = "TcbSwHardeningNeeded"
    TCB_RELAUNCH_ADVISED = "TcbRelaunchAdvised"
    TCB_STATUS_NOT_ALLOWED = "TcbStatusNotAllowed"
    TCB_REVOKED = "TcbRevoked"
    TCB_LEVEL_NOT_FOUND = "TcbLevelNotFound"
    TCB_EVALUATION_TOO_OLD = "TcbEvaluationTooOld"
    ADVISORY_NOT_ALLOWED = "AdvisoryNotAllowed"
    ADVISORY_DENIED = "AdvisoryDenied"
    SMT_NOT_ALLOWED = "SmtNotAllowed"
    CACHED_KEYS_NOT_ALLOWED = "CachedKeysNotAllowed"
    DYNAMIC_PLATFORM_NOT_ALLOWED = "DynamicPlatformNotAllowed"
    FMSPC_NOT_ALLOWED = "FmspcNotAllowed"
    PPID_NOT_ALLOWED = "PpidNotAllowed"
    # The trust domain
    TD_DEBUG_ENABLED = "TdDebugEnabled"
    SEPT_VE_DISABLE_OFF = "SeptVeDisableOff"
    TD_MIGRATABLE = "TdMigratable"
    TD_ATTRIBUTES_NOT_ALLOWED = "TdAttributesNotAllowed"
    XFAM_NOT_ALLOWED = "XfamNotAllowed"
    SERVICE_TD_PRESENT = "ServiceTdPresent"
    MEASUREMENT_NOT_ALLOWED = "MeasurementNotAllowed"
    MEASUREMENT_EXPIRED = "MeasurementExpired"
    INITDATA_MISSING = "InitdataMissing"
    INITDATA_MISMATCH = "InitdataMismatch"
    INITDATA_MALFORMED = "InitdataMalformed"
    INITDATA_NOT_ALLOWED = "InitdataNotAllowed"
    ISOLATION_NOT_ALLOWED = "IsolationNotAllowed"
    PLACEMENT_NOT_ALLOWED = "PlacementNotAllowed"
    EVENT_LOG_MISSING = "EventLogMissing"
    EVENT_LOG_MALFORMED = "EventLogMalformed"
    EVENT_LOG_MISMATCH = "EventLogMismatch"
    EVENT_LOG_SEPARATOR_INVALID = "EventLogSeparatorInvalid"
    EVENT_LOG_RULE_UNMET = "EventLogRuleUnmet"
    EVENT_DATA_UNPROVEN = "EventDataUnproven"
    EVENT_NOT_ALLOWED = "EventNotAllowed"
    REPORT_DATA_MISMATCH = "ReportDataMismatch"
    # Session binding and files
    BINDING_INVALID = "BindingInvalid"
    RA_TLS_INVALID = "RaTlsInvalid"
    FILE_UNREADABLE = "FileUnreadable"
    POLICY_UNREADABLE = "PolicyUnreadable"
    ROOT_UNREADABLE = "RootUnreadable"


_R = AttestationReason
_UPDATE_PLATFORM = "update the machine's firmware (BIOS, microcode, TDX module) as the advisories say, or allow this status in the policy"

REMEDIES: dict[AttestationReason, str] = {
    _R.QUOTE_UNREADABLE: "give the quote as binary, as hexadecimal text, or as JSON with a member `quote`",
    _R.QUOTE_TOO_LARGE: "give one quote and nothing else; a TDX quote has about 5,000 bytes",
    _R.QUOTE_MALFORMED: "get the quote again from its source; it must be complete and unchanged",
    _R.QUOTE_TYPE_UNSUPPORTED: "give an Intel TDX quote of version 4 or 5 that is signed with an ECDSA P-256 key",
    _R.QUOTE_TRAILING_DATA: "cut off what follows the quote; only zero padding is accepted there",
    _R.COLLATERAL_MISSING: "give Intel's collateral for this platform with --collateral FILE (QuoteCollateralV3 JSON)",
    _R.COLLATERAL_MALFORMED: "fetch the collateral again; it must be QuoteCollateralV3 JSON with the documents as Intel served them",
    _R.COLLATERAL_EXPIRED: "fetch fresh collateral from the PCCS, or judge at a time within its validity",
    _R.COLLATERAL_NOT_YET_VALID: "check the clock of this machine; the collateral was issued after the stated time",
    _R.COLLATERAL_MISMATCH: "fetch the collateral of this quote's platform (by its FMSPC and PCK certificate authority)",
    _R.COLLATERAL_SIGNATURE_INVALID: "fetch the collateral again and keep its documents byte for byte",
    _R.COLLATERAL_SIGNER_INVALID: "do not use this collateral: Intel's TCB signing certificate did not sign it",
    _R.TRUST_ROOT_MISMATCH: "check the trust root: the evidence chains to another root than the one that is trusted here",
    _R.SIGNATURE_INVALID: "treat the quote as forged or damaged; get a new one from the trust domain",
    _R.CERTIFICATE_INVALID: "get quote and collateral again; their certificates must chain to the trusted root",
    _R.CERTIFICATE_EXPIRED: "renew the platform's PCK certificate (re-provision it), then get a new quote",
    _R.CERTIFICATE_REVOKED: "do not trust this platform: Intel revoked its certificate",
    _R.QE_IDENTITY_MISMATCH: "update the machine's quoting enclave (DCAP packages), then get a new quote",
    _R.TDX_MODULE_MISMATCH: "boot the machine with a TDX module that Intel signed and lists for this platform",
    _R.VERIFICATION_FAILED: "read the detail; get quote and collateral again",
    _R.TCB_OUT_OF_DATE: _UPDATE_PLATFORM,
    _R.TCB_CONFIGURATION_NEEDED: "change the machine's BIOS settings as the listed advisories say, or let the policy allow this status",
    _R.TCB_SW_HARDENING_NEEDED: "apply the software mitigations that the advisories name, then let the policy allow this status",
    _R.TCB_RELAUNCH_ADVISED: "restart the trust domain on the updated platform, then get a new quote",
    _R.TCB_STATUS_NOT_ALLOWED: _UPDATE_PLATFORM,
    _R.TCB_REVOKED: "do not trust this platform at this level; update its firmware or replace it",
    _R.TCB_LEVEL_NOT_FOUND: "update the machine's firmware: it is older than every level that Intel lists for this platform",
    _R.TCB_EVALUATION_TOO_OLD: "use newer collateral (update=early where Intel offers it), or lower tcb.minEvaluationDataNumber",
    _R.ADVISORY_NOT_ALLOWED: "mitigate the advisory on the machine, or list it in tcb.advisories.allow",
    _R.ADVISORY_DENIED: "mitigate the advisory on the machine; the policy denies it by name",
    _R.SMT_NOT_ALLOWED: "turn off hyper-threading in the BIOS and re-register the platform, or set tcb.allowSmt",
    _R.CACHED_KEYS_NOT_ALLOWED: "register the platform without key caching, or set tcb.allowCachedKeys",
    _R.DYNAMIC_PLATFORM_NOT_ALLOWED: "use a platform that cannot be extended, or set tcb.allowDynamicPlatform",
    _R.FMSPC_NOT_ALLOWED: "run on a platform that the policy lists, or add this one to tdx.fmspcs",
    _R.PPID_NOT_ALLOWED: "run on a machine that the policy lists, or add this one to tdx.ppids",
    _R.TD_DEBUG_ENABLED: "start the trust domain without debugging; its memory can be read by the host now",
    _R.SEPT_VE_DISABLE_OFF: "start the trust domain with SEPT_VE_DISABLE set (a current QEMU and guest firmware do)",
    _R.TD_MIGRATABLE: "start the trust domain without migration",
    _R.TD_ATTRIBUTES_NOT_ALLOWED: "start the trust domain with the attributes that the policy's tdx.tdAttributes demands",
    _R.XFAM_NOT_ALLOWED: "start the trust domain with the CPU features that the policy's tdx.xfam demands",
    _R.SERVICE_TD_PRESENT: "start the trust domain without a service domain bound to it",
    _R.MEASUREMENT_NOT_ALLOWED: "start what the policy allows, or add this tuple to tdx.measurements (`chrysalis measure` prints it)",
    _R.MEASUREMENT_EXPIRED: "move to an image whose reference values are still current, or extend their expiry in the policy",
    _R.INITDATA_MISSING: "send the initdata's TOML bytes with the evidence; the policy judges them",
    _R.INITDATA_MISMATCH: "send exactly the initdata that the trust domain was started with",
    _R.INITDATA_MALFORMED: "render the initdata with `chrysalis measure`, or let the operator do it",
    _R.INITDATA_NOT_ALLOWED: "change the worker to what the policy's initdata rule allows, or extend that rule",
    _R.ISOLATION_NOT_ALLOWED: "run the worker in an isolation profile that the policy's `isolation` lists",
    _R.PLACEMENT_NOT_ALLOWED: "use a broker in a placement that the policy's `brokerPlacement` lists",
    _R.EVENT_LOG_MISSING: "send the boot event log (CCEL) with the evidence; the policy requires it",
    _R.EVENT_LOG_MALFORMED: "send the event log as the firmware wrote it (TCG2 crypto-agile, with SHA-384 digests)",
    _R.EVENT_LOG_MISMATCH: "send the event log of the same boot as the quote",
    _R.EVENT_LOG_SEPARATOR_INVALID: "boot firmware that measures each separator once and without an error, and send its log unchanged",
    _R.EVENT_LOG_RULE_UNMET: "boot what the rule of eventLog.rules demands, or change the rule (`chrysalis eventlog replay`)",
    _R.EVENT_DATA_UNPROVEN: "send the log as the firmware wrote it; a datum whose digest is not its hash proves nothing",
    _R.EVENT_NOT_ALLOWED: "boot without the event that no rule of eventLog.rules lists, or list it",
    _R.REPORT_DATA_MISMATCH: "get a quote over this session: nonce, keys and identity must be the ones that were sent",
    _R.BINDING_INVALID: "use keys and nonces of the documented lengths (docs/wire/binding.json)",
    _R.RA_TLS_INVALID: "connect to a worker that serves RA-TLS with the interoperable evidence extension",
    _R.FILE_UNREADABLE: "give the path of a file that can be opened and is not larger than the stated limit",
    _R.POLICY_UNREADABLE: "give an AttestationPolicy as YAML or JSON, or its bare spec",
    _R.ROOT_UNREADABLE: "give one root certificate as DER or PEM",
}


class AttestationError(ChrysalisError):
    """Input of an appraisal that cannot be read or judged."""

    reason: AttestationReason

    def __init__(self, reason: AttestationReason, message: str, detail: str = "") -> None:
        super().__init__(reason, message, REMEDIES[reason], detail)
