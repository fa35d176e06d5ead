"""Whether a RIM's signers were revoked, by OCSP answers (RFC 6960).  Pure: whoever digests a RIM gets the answers.

Asked when a RIM is digested, and not again when an appraisal compares with its values: those do not say who signed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

from cryptography import x509

from chrysalis.api.policy_gpu import GpuRevocation
from chrysalis.attestation.gpu import ocsp
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.attestation.gpu.verdict import Revocation

_R = GpuReason


def revocable(signers: Sequence[x509.Certificate]) -> list[tuple[x509.Certificate, x509.Certificate]]:
    """The certificates below the root, each with its issuer; the signer's own is among them, since NVIDIA's OCSP knows it."""
    return list(pairwise(signers))


def revocation(
    signers: Sequence[x509.Certificate],
    answers: Sequence[ocsp.Answer],
    *,
    at: datetime,
    rule: GpuRevocation = GpuRevocation.OPTIONAL,
) -> Revocation:
    """Good once every certificate below the root has a good answer at the stated time, else NotChecked; answers about others do not count.

    signers: of a RIM that holds (`rim.read`).  Raises GpuError: RimSignerRevoked where an answer says so, whatever the others say;
    GpuOcspInvalid or GpuOcspExpired where no answer about a certificate counts; RimRevocationNotChecked in place of NotChecked where
    the rule is Required.
    """
    failures: list[GpuError] = []
    unknown: list[str] = []
    for certificate, issuer in revocable(signers):
        try:
            if ocsp.good_until(certificate, issuer, answers, at) is None:
                unknown.append(certificate.subject.rfc4514_string())
        except GpuError as error:
            if error.reason is _R.GPU_CERTIFICATE_REVOKED:
                name = certificate.subject.rfc4514_string()
                raise GpuError(_R.RIM_SIGNER_REVOKED, f"a certificate of the RIM's signer was revoked: {name}", error.detail) from error
            failures.append(error)
    if failures:
        raise failures[0]
    if not unknown:
        return Revocation.GOOD
    if rule is GpuRevocation.REQUIRED:
        said = f"no OCSP answer about {'; '.join(unknown)}"[:600]
        raise GpuError(_R.RIM_REVOCATION_NOT_CHECKED, "not every certificate of the RIM's signer has a good OCSP answer", said)
    return Revocation.NOT_CHECKED
