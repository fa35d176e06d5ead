"""What a quote's own fields say about its trust domain, whoever signed it: the flaws that make a domain readable.

dcap-qvl judges these too, but stops at the first; a domain with three flaws is told all three.  Bits: Intel TDX Module
Base Architecture Specification, "TD attributes" (ATTRIBUTES), as QuotePolicy of dcap-qvl 0.7.0 reads them.
"""

from __future__ import annotations

from chrysalis.attestation.quote import Quote
from chrysalis.attestation.reasons import AttestationReason
from chrysalis.attestation.verdict import Reason

DEBUG = 1 << 0
UNTRUSTED = 0xFF
"""TUD: with any of these bits the domain is not trusted (debugging, profiling, and reserved ones)."""
SEPT_VE_DISABLE = 1 << 28
MIGRATABLE = 1 << 29
_R = AttestationReason


def judge(quote: Quote) -> list[Reason]:
    """Every such flaw of a quote; empty for a domain in production."""
    found = []
    bits = int.from_bytes(quote.td_attributes, "little")
    if bits & DEBUG:
        found.append(Reason.of(_R.TD_DEBUG_ENABLED, "the trust domain runs in debug mode"))
    if bits & UNTRUSTED & ~DEBUG:
        message = "the trust domain has attributes that no production domain has"
        found.append(Reason.of(_R.TD_ATTRIBUTES_NOT_ALLOWED, message, f"TD attributes {quote.td_attributes.hex()}"))
    if not bits & SEPT_VE_DISABLE:
        found.append(Reason.of(_R.SEPT_VE_DISABLE_OFF, "the trust domain runs without SEPT_VE_DISABLE"))
    if bits & MIGRATABLE:
        found.append(Reason.of(_R.TD_MIGRATABLE, "the trust domain may be migrated"))
    if quote.mr_servicetd is not None and any(quote.mr_servicetd):
        found.append(
            Reason.of(_R.SERVICE_TD_PRESENT, "a service domain is bound to the trust domain", f"MR_SERVICETD {quote.mr_servicetd.hex()}")
        )
    return found
