"""Is this a genuine quote, and at which TCB level: dcap-qvl under a trust anchor, plus the checks that it leaves to us.

dcap-qvl checks signatures, certificate chains, both CRLs, dates, QE and TDX module identity and the TD attributes that
make a domain readable.  It accepts a TCB info signed by any certificate under the root, a PCE id that differs, and a CRL
from the future; those are refused here.  Its verdict on the TCB status is not used: rules.py judges the status.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import dcap_qvl
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic_core import from_json

from chrysalis.api.policy import INTEL_ROOT_SHA256
from chrysalis.attestation import proved
from chrysalis.attestation.collateral import Collateral, Expiry, chain, is_below_its_root
from chrysalis.attestation.proved import ProvedPlatforms
from chrysalis.attestation.quote import Quote, is_panic
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.attestation.verdict import EvidenceClass, Reason, VerifiedClaims
from chrysalis.clock import from_unix, parse_rfc3339, rfc3339, unix

INTEL: bytes = b""
"""Stands for Intel's root, which is dcap-qvl's built-in anchor, wherever a list of DER trust anchors is taken."""
TCB_SIGNER = "Intel SGX TCB Signing"
TCB_INFO_ID = "TDX"
TCB_INFO_VERSION, QE_IDENTITY_VERSION = 3, 2
"""Of the documents of PCS version 4 for TDX."""

_R = AttestationReason
_FRAGMENTS: tuple[tuple[str, AttestationReason, str], ...] = (
    # dcap-qvl 0.7.0's words, its causes included; the first that occurs decides.
    ("Debug mode is enabled", _R.TD_DEBUG_ENABLED, "the trust domain runs in debug mode"),
    ("SEPT_VE_DISABLE is not enabled", _R.SEPT_VE_DISABLE_OFF, "the trust domain runs without SEPT_VE_DISABLE"),
    ("TD migration is enabled", _R.TD_MIGRATABLE, "the trust domain may be migrated"),
    ("Reserved bits in TD attributes", _R.TD_ATTRIBUTES_NOT_ALLOWED, "the trust domain has attributes that no production domain has"),
    ("Invalid MR service TD", _R.SERVICE_TD_PRESENT, "a service domain is bound to the trust domain"),
    ("TCB status is invalid: Revoked", _R.TCB_REVOKED, "Intel revoked the platform's TCB level"),
    ("No matching TCB level found", _R.TCB_LEVEL_NOT_FOUND, "the platform is older than every TCB level that Intel lists"),
    ("below minimum required from TDX module", _R.TCB_LEVEL_NOT_FOUND, "the TDX module is older than every level that Intel lists"),
    ("from QE Identity", _R.TCB_LEVEL_NOT_FOUND, "the quoting enclave is older than every level that Intel lists"),
    ("Fmspc mismatch", _R.COLLATERAL_MISMATCH, "the collateral is of another platform"),
    ("with non-TDX TCB info", _R.COLLATERAL_MISMATCH, "the collateral is for SGX, not for TDX"),
    ("Unsupported QE Identity id/version", _R.COLLATERAL_MISMATCH, "the QE identity is not that of TDX's quoting enclave"),
    ("InvalidCrlSignatureForPublicKey", _R.COLLATERAL_MISMATCH, "a revocation list is not of this platform's certificate authority"),
    ("UnknownRevocationStatus", _R.COLLATERAL_MISMATCH, "a revocation list is not of the authority that issued the certificates"),
    ("issue date is in the future", _R.COLLATERAL_NOT_YET_VALID, "the collateral was issued after the stated time"),
    ("CertNotValidYet", _R.COLLATERAL_NOT_YET_VALID, "a certificate is not valid yet at the stated time"),
    ("CrlExpired", _R.COLLATERAL_EXPIRED, "a revocation list has expired at the stated time"),
    ("TCBInfo expired", _R.COLLATERAL_EXPIRED, "the TCB info has expired at the stated time"),
    ("QE Identity expired", _R.COLLATERAL_EXPIRED, "the QE identity has expired at the stated time"),
    ("Collateral expired", _R.COLLATERAL_EXPIRED, "the collateral has expired at the stated time"),
    ("CertExpired", _R.CERTIFICATE_EXPIRED, "a certificate has expired at the stated time"),
    ("CertRevoked", _R.CERTIFICATE_REVOKED, "Intel revoked a certificate that the evidence rests on"),
    ("Signature is invalid for tcb_info", _R.COLLATERAL_SIGNATURE_INVALID, "the TCB info's signature does not match its bytes"),
    ("Signature is invalid for qe_identity", _R.COLLATERAL_SIGNATURE_INVALID, "the QE identity's signature does not match its bytes"),
    ("signature is invalid", _R.SIGNATURE_INVALID, "the quote's signature does not match its bytes"),
    ("Signature is invalid", _R.SIGNATURE_INVALID, "the quoting enclave's report is not signed by the platform's key"),
    ("QE report hash mismatch", _R.SIGNATURE_INVALID, "the quoting enclave does not vouch for the key that signed the quote"),
    ("key hash mismatch", _R.SIGNATURE_INVALID, "the quoting enclave does not vouch for the key that signed the quote"),
    ("Failed to parse TCB", _R.COLLATERAL_MALFORMED, "the collateral's TCB info or its signer cannot be read"),
    ("Failed to parse QE Identity", _R.COLLATERAL_MALFORMED, "the collateral's QE identity or its signer cannot be read"),
    ("QE ", _R.QE_IDENTITY_MISMATCH, "the quoting enclave is not the one that Intel lists"),
    ("TDX module", _R.TDX_MODULE_MISMATCH, "the TDX module is not one that Intel lists for this platform"),
    ("Failed to decode TcbInfo", _R.COLLATERAL_MALFORMED, "the collateral's TCB info cannot be read"),
    ("Failed to decode QE Identity", _R.COLLATERAL_MALFORMED, "the collateral's QE identity cannot be read"),
    ("Failed to decode QeIdentity", _R.COLLATERAL_MALFORMED, "the collateral's QE identity cannot be read"),
    ("Failed to parse root CA CRL", _R.COLLATERAL_MALFORMED, "the collateral's root CA CRL cannot be read"),
    ("Failed to parse PCK CRL", _R.COLLATERAL_MALFORMED, "the collateral's PCK CRL cannot be read"),
    ("chain is too short for", _R.COLLATERAL_MALFORMED, "an issuer chain of the collateral is too short"),
    ("Unsupported DCAP attestation key type", _R.QUOTE_TYPE_UNSUPPORTED, "the quote's attestation key is not ECDSA P-256"),
    ("Failed to decode quote", _R.QUOTE_MALFORMED, "the quote cannot be read"),
    ("Unsupported Quote format version", _R.QUOTE_TYPE_UNSUPPORTED, "the quote is of a version that is not supported"),
    ("PCK certificate", _R.CERTIFICATE_INVALID, "the quote's PCK certificates cannot be read"),
    ("certificate chain", _R.CERTIFICATE_INVALID, "the certificates do not form a chain to the trusted root"),
)


@dataclass(frozen=True)
class Claims:
    """What is proved about a genuine quote's platform."""

    evidence_class: EvidenceClass
    tcb_status: str
    advisory_ids: tuple[str, ...]
    evaluation_data_number: int  # the smaller one of TCB info and QE identity
    tcb_date: datetime  # the oldest one of the platform's levels and the quoting enclave's
    fmspc: str  # upper-case hex
    ppid: str  # lower-case hex
    smt: bool  # the three flags are True unless the certificate says False
    cached_keys: bool
    dynamic_platform: bool
    certificate_expiry: Expiry
    pce_id: str  # lower-case hex, as the next two
    cpu_svn: str
    pce_svn: int
    qe_status: str  # of the quoting enclave's level


class NotGenuine(Exception):
    """The quote is not genuine, or that cannot be established."""

    def __init__(self, reasons: list[Reason], tcb_status: str | None = None) -> None:
        super().__init__(str(reasons[0].reason))
        self.reasons = reasons
        self.tcb_status = tcb_status


def verified(quote: Quote, claims: Claims, collateral: Collateral) -> VerifiedClaims:
    """The claims as a verdict shows them."""
    return VerifiedClaims(
        quote_version=quote.version,
        tee_tcb_svn=quote.tee_tcb_svn.hex(),
        tee_tcb_svn2=None if quote.tee_tcb_svn_2 is None else quote.tee_tcb_svn_2.hex(),
        ppid=claims.ppid,
        pce_id=claims.pce_id,
        cpu_svn=claims.cpu_svn,
        pce_svn=claims.pce_svn,
        smt=claims.smt,
        cached_keys=claims.cached_keys,
        dynamic_platform=claims.dynamic_platform,
        evaluation_data_number=claims.evaluation_data_number,
        tcb_date=claims.tcb_date,
        qe_status=claims.qe_status,
        collateral_sha256=collateral.digest.hex(),
    )


def mismatches(quote: Quote, collateral: Collateral) -> list[Reason]:
    """Whether the collateral is of the quote's platform; raises AttestationError for collateral that cannot be read."""
    found = []
    if collateral.tcb.id != TCB_INFO_ID:
        found.append(Reason.of(_R.COLLATERAL_MISMATCH, f"the collateral's TCB info is for {collateral.tcb.id[:16]!r}, not for TDX"))
    if quote.fmspc and collateral.tcb.fmspc != quote.fmspc:
        message = f"the collateral is of platform {collateral.tcb.fmspc[:16]}, the quote of platform {quote.fmspc}"
        found.append(Reason.of(_R.COLLATERAL_MISMATCH, message))
    return found


def authority(collateral: Collateral, at: datetime) -> list[Reason]:
    """Who signed the collateral, that its versions are known, and that no list is from the future; raises AttestationError."""
    found = []
    for what, version, known in (
        ("TCB info", collateral.tcb.version, TCB_INFO_VERSION),
        ("QE identity", collateral.qe.version, QE_IDENTITY_VERSION),
    ):
        if version != known:
            found.append(Reason.of(_R.COLLATERAL_MISMATCH, f"the {what} is of version {version}; only version {known} is known"))
    for what, name, certificates in (
        ("TCB info", collateral.tcb_signer, collateral.tcb_chain),
        ("QE identity", collateral.qe_signer, collateral.qe_chain),
    ):
        if name != TCB_SIGNER:
            found.append(Reason.of(_R.COLLATERAL_SIGNER_INVALID, f"the {what} was signed by {name[:64]!r}, not by {TCB_SIGNER!r}"))
        elif not is_below_its_root(certificates):
            found.append(Reason.of(_R.COLLATERAL_SIGNER_INVALID, f"the {what}'s signer was not appointed by the root itself"))
    for what, crl in (("root CA", collateral.root_crl_facts), ("PCK", collateral.pck_crl_facts)):
        if crl.this_update > at:
            message = f"the {what} CRL was issued after the stated time"
            found.append(Reason.of(_R.COLLATERAL_NOT_YET_VALID, message, f"thisUpdate {rfc3339(crl.this_update)}"))
    return found


def expired(collateral: Collateral, at: datetime) -> list[Reason]:
    """The documents that are not current; raises AttestationError for collateral that cannot be read.

    A JSON document's nextUpdate is its last second, a revocation list's the first one after it.
    """
    tcb, qe, root_crl, pck_crl = collateral.tcb, collateral.qe, collateral.root_crl_facts, collateral.pck_crl_facts
    late = [name for name, end in (("TCB info", tcb.next_update), ("QE identity", qe.next_update)) if end < at]
    late += [name for name, end in (("root CA CRL", root_crl.next_update), ("PCK CRL", pck_crl.next_update)) if end <= at]
    early = [name for name, begin in (("TCB info", tcb.issue_date), ("QE identity", qe.issue_date)) if begin > at]
    found = []
    if late:
        found.append(Reason.of(_R.COLLATERAL_EXPIRED, f"expired at the stated time: {', '.join(late)}"))
    if early:
        found.append(Reason.of(_R.COLLATERAL_NOT_YET_VALID, f"issued after the stated time: {', '.join(early)}"))
    return found


def verify(quote: Quote, collateral: Collateral, at: datetime, roots: Sequence[bytes]) -> Claims:
    """Verify a quote under the first of these DER roots that it chains to (INTEL stands for Intel's); raises NotGenuine."""
    if not roots:
        raise ValueError("at least one trust anchor is needed: an empty list would trust nothing or, worse, a default")
    seconds = unix(at)
    refusal: NotGenuine | None = None
    for root in roots:
        anchor = None if _is_intel(root) else root
        known = proved.name(quote, collateral.digest, anchor or INTEL)
        claims = _PROVED.find(known, quote, seconds)
        if claims is not None:
            return claims
        try:
            claims = _claims(_library(quote.raw, collateral, seconds, anchor), quote, collateral, anchor)
            _remember(known, quote, collateral, claims, seconds)
            return claims
        except _LibraryRefusal as error:
            found = _explain(quote.raw, collateral, seconds, anchor, str(error))
            if refusal is None or found.reasons[0].reason != _R.TRUST_ROOT_MISMATCH:
                refusal = found
    assert refusal is not None
    raise refusal


_PROVED: ProvedPlatforms[Claims] = ProvedPlatforms()


def forget() -> None:
    """Forget what was proved of platforms: the next appraisal asks the library again."""
    _PROVED.clear()


def _remember(name: bytes, quote: Quote, collateral: Collateral, claims: Claims, seconds: int) -> None:
    try:
        ends = [expiry.at for expiry in (*collateral.expiries, claims.certificate_expiry, collateral.issuer_expiry)]
    except AttestationError:  # an end that we cannot read: the library is asked each time
        return
    _PROVED.keep(name, quote, claims, seconds, unix(min(ends)))


class _LibraryRefusal(Exception):
    pass


@lru_cache(maxsize=64)
def _is_intel(root: bytes) -> bool:
    return root == INTEL or hashlib.sha256(root).hexdigest() == INTEL_ROOT_SHA256


def same_root(one: bytes, other: bytes) -> bool:
    """Whether two anchors are the same certificate; INTEL is Intel's."""
    return one == other or (_is_intel(one) and _is_intel(other))


def _library(raw: bytes, collateral: Collateral, seconds: int, anchor: bytes | None) -> dict[str, Any]:
    """dcap-qvl's claims; raises _LibraryRefusal with its words."""
    try:
        verifier = dcap_qvl.QuoteVerifier(anchor)
        claims = verifier.verify_with_policy(raw, collateral.qvl, seconds, dcap_qvl.QuotePolicy.claims_only(seconds))
        document: dict[str, Any] = from_json(claims.to_json())
        return document
    except (ValueError, OverflowError) as error:
        raise _LibraryRefusal(str(error)) from error
    except BaseException as error:
        if is_panic(error):
            raise _LibraryRefusal(f"the library failed: {error}") from error
        raise


def _explain(raw: bytes, collateral: Collateral, seconds: int, anchor: bytes | None, words: str) -> NotGenuine:
    """The library's refusal in our words; only its older entry point tells the causes."""
    try:
        if anchor is None:
            dcap_qvl.verify(raw, collateral.qvl, seconds)
        else:
            dcap_qvl.verify_with_root_ca(raw, collateral.qvl, anchor, seconds)
    except (ValueError, OverflowError) as error:
        words = str(error)
    except BaseException as error:
        if not is_panic(error):
            raise
    detail = " ".join(words.split())[:1000]
    if "Failed to parse root CA CRL" in words and "InvalidCrlSignatureForPublicKey" in words:
        root = "Intel's" if anchor is None else "the given"
        return NotGenuine([Reason.of(_R.TRUST_ROOT_MISMATCH, f"the evidence does not chain to {root} root certificate", detail)])
    # "QE report validation failed: Debug mode" is about the enclave, not the trust domain.
    if "QE report validation failed" in words:
        return NotGenuine([Reason.of(_R.QE_IDENTITY_MISMATCH, "the quoting enclave's own report is not acceptable", detail)])
    for fragment, reason, message in _FRAGMENTS:
        if fragment in words:
            return NotGenuine([Reason.of(reason, message, detail)], "Revoked" if reason == _R.TCB_REVOKED else None)
    return NotGenuine([Reason.of(_R.VERIFICATION_FAILED, "the quote could not be verified", detail)])


def _claims(document: dict[str, Any], quote: Quote, collateral: Collateral, anchor: bytes | None) -> Claims:
    """The library's claims, typed; refuses a PCE id that differs and a report that is not the one we parsed."""
    try:
        pck = document["platform"]["pck"]
        report = next(iter(document["report"].values()))
        if report.get("report_data") is None and "base" in report:
            report = report["base"]
        if bytes.fromhex(report["mr_td"]) != quote.mrtd or bytes.fromhex(report["report_data"]) != quote.report_data:
            raise NotGenuine([Reason.of(_R.QUOTE_MALFORMED, "two parsers read different reports out of the quote")])
        pce_id = bytes(pck["pce_id"]).hex()
        if pce_id != collateral.tcb.pce_id:
            message = f"the collateral is for PCE id {collateral.tcb.pce_id[:16]!r}, the quote's platform has {pce_id!r}"
            raise NotGenuine([Reason.of(_R.COLLATERAL_MISMATCH, message)])
        enclave = document["qe"]
        if any(bytes.fromhex(enclave["report"]["report_data"])[32:]):
            raise NotGenuine(
                [Reason.of(_R.QE_IDENTITY_MISMATCH, "the quoting enclave's report binds more than the key that signed the quote")]
            )
        levels = [enclave["tcb_level"], *_levels_of_now(document)]
        status = document["tcb"]["status"]
        for level in levels:
            status = _both_statuses(status, level["tcbStatus"])
        advisories = [name for level in levels for name in level["advisoryIDs"]]
        return Claims(
            evidence_class=EvidenceClass.HARDWARE if anchor is None else EvidenceClass.SIMULATED,
            tcb_status=status,
            advisory_ids=tuple(dict.fromkeys([*document["tcb"]["advisory_ids"], *advisories])),
            evaluation_data_number=min(document["tcb"]["eval_data_number"], document["qe"]["tcb_eval_data_number"]),
            tcb_date=min(from_unix(document["platform"]["tcb_date_tag"]), *(parse_rfc3339(level["tcbDate"]) for level in levels)),
            fmspc=bytes(pck["fmspc"]).hex().upper(),
            ppid=bytes(pck["ppid"]).hex(),
            smt=pck["smt_enabled"] != "False",
            cached_keys=pck["cached_keys"] != "False",
            dynamic_platform=pck["dynamic_platform"] != "False",
            certificate_expiry=_certificate_expiry(quote, anchor),
            pce_id=pce_id,
            cpu_svn=bytes(pck["cpu_svn"]).hex(),
            pce_svn=int(pck["pce_svn"]),
            qe_status=str(document["qe"]["tcb_level"]["tcbStatus"]),
        )
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise NotGenuine([Reason.of(_R.VERIFICATION_FAILED, "the library's claims are of an unknown form", detail)]) from error


def _levels_of_now(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The level at which the platform runs now, where the quote says it (TEE_TCB_SVN_2 of TD report 1.5); none otherwise.

    The library takes the level at the domain's start, and looks at this one only where the other is out of date: a domain that was
    started on a newer module than the one that serves it now would pass.  TDRelaunchAdvised says of both what there is to say.
    """
    now = document["platform"]["current_tcb_level"]
    return [] if now is None or "Relaunch" in document["tcb"]["status"] else [now]


def _both_statuses(platform: str, enclave: str) -> str:
    """The status of a platform with this quoting enclave.  The library merges only some: an enclave that needs configuration
    leaves its status as it was (Intel, "Appraisal of TCB": each part's weakness is one of the whole)."""
    if enclave in ("UpToDate", platform):
        return platform
    both = platform + enclave
    if "Revoked" in both:
        return "Revoked"
    configuration, hardening = "Configuration" in both, "SWHardening" in both
    if "OutOfDate" in both:
        return "OutOfDateConfigurationNeeded" if configuration else "OutOfDate"
    if configuration:
        return "ConfigurationAndSWHardeningNeeded" if hardening else "ConfigurationNeeded"
    return "SWHardeningNeeded" if hardening else enclave


def _certificate_expiry(quote: Quote, anchor: bytes | None) -> Expiry:
    """When the first certificate of the quote's chain ends; refuses a chain with bytes that no signature covers.

    The library builds its own path to the anchor, so it overlooks a changed root certificate and junk between the
    certificates.  Neither helps an attacker, but a quote then has many forms; every real one is in this form.
    """
    facts = _chain_facts(quote.pck_chain)
    if facts.count > 2 and not same_root(INTEL if anchor is None else anchor, facts.root):
        raise NotGenuine([Reason.of(_R.CERTIFICATE_INVALID, "the root certificate in the quote is not the trust anchor")])
    return facts.expiry


@dataclass(frozen=True)
class _ChainFacts:
    """What the appraisal needs of a PCK certificate chain."""

    count: int
    root: bytes  # the last certificate, DER
    expiry: Expiry


@lru_cache(maxsize=64)
def _chain_facts(pck_chain: bytes) -> _ChainFacts:
    """Read a chain; raises NotGenuine.  It is the platform's own, so the next appraisal of that platform finds it here."""
    try:
        certificates = chain(pck_chain, "PCK certificate chain")
    except AttestationError as error:
        raise NotGenuine([Reason.of(_R.CERTIFICATE_INVALID, "the quote's PCK certificate chain cannot be read", error.detail)]) from error
    canonical = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    if _unwrapped(canonical) != _unwrapped(pck_chain.rstrip(b"\0")):
        raise NotGenuine([Reason.of(_R.CERTIFICATE_INVALID, "the quote's PCK certificate chain holds more than its certificates")])
    first_end = min(certificate.not_valid_after_utc for certificate in certificates)
    return _ChainFacts(len(certificates), certificates[-1].public_bytes(Encoding.DER), Expiry(first_end, "pckCertificate.notAfter"))


def _unwrapped(pem: bytes) -> bytes:
    return pem.replace(b"\r", b"").replace(b"\n", b"")
