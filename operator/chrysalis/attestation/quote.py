"""The fields of TDX quotes, versions 4 and 5.  Judges form only, trusts nothing; quote_file.py unwraps files.

Layout: Intel, "TDX DCAP: Quote Generation Library and Quote Verification Library", appendix A.3 and A.4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache

import dcap_qvl

from chrysalis.attestation.quote_file import MAX_QUOTE_BYTES, looks_like_cbor, read
from chrysalis.attestation.reasons import AttestationError, AttestationReason

__all__ = ["MAX_QUOTE_BYTES", "Quote", "looks_like_cbor", "parse", "read"]

TEE_TDX = 0x81
KEY_ECDSA_P256 = 2
HEADER_BYTES = 48
TD_REPORT_10_BYTES = 584
TD_REPORT_15_BYTES = 648
TD_REPORT = struct.Struct("16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
"""The fields that both reports begin with, from TEE_TCB_SVN to REPORTDATA."""
BODY_TYPES = {2: TD_REPORT_10_BYTES, 3: TD_REPORT_15_BYTES}
"""Version 5's body types that are TD reports, and their sizes."""
CERT_QE_REPORT = 6
CERT_PCK_CHAIN = 5
QE_REPORT_BYTES = 384
ECDSA_BYTES = 64


@dataclass(frozen=True)
class Quote:
    """A quote's fields; nothing in it is proved."""

    raw: bytes  # the quote without padding
    version: int
    tee_type: int
    body_type: int  # 2 (TD report 1.0) or 3 (1.5)
    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn_2: bytes | None  # only in TD report 1.5, as the next one
    mr_servicetd: bytes | None
    signed: bytes  # header and report, over which the attestation key signs
    signature: bytes  # the signature data behind them: the signature, the key, and who vouches for it
    pck_chain: bytes  # PEM, the platform's own chain, leaf first
    trailing: bytes  # what follows the quote and is not zero padding; empty in every good quote

    @cached_property
    def fmspc(self) -> str:
        """The platform's family as the PCK certificate says it, upper-case hex; empty where it cannot be read."""
        return _platform(self.pck_chain)[0]

    @property
    def ppid(self) -> str:
        """The machine as the PCK certificate says it, lower-case hex; empty where it cannot be read."""
        return _platform(self.pck_chain)[1]

    @property
    def registers(self) -> dict[str, bytes]:
        """The measurements by their names in policies and verdicts."""
        return {
            "mrtd": self.mrtd,
            **{f"rtmr{index}": value for index, value in enumerate(self.rtmrs)},
            "mrseam": self.mrseam,
            "mrconfigid": self.mrconfigid,
            "mrowner": self.mrowner,
            "mrownerconfig": self.mrownerconfig,
        }


@lru_cache(maxsize=256)
def _platform(pck_chain: bytes) -> tuple[str, str]:
    """(FMSPC, PPID) of a chain's leaf: the next quote of that platform finds them here."""
    try:
        extension = dcap_qvl.parse_pck_extension_from_pem(pck_chain.rstrip(b"\0"))
        return extension.fmspc.hex().upper(), extension.ppid.hex()
    except ValueError:
        return "", ""
    except BaseException as error:
        if not is_panic(error):
            raise
        return "", ""


def is_panic(error: BaseException) -> bool:
    """Whether this is a panic in Rust, which arrives as a BaseException: a stranger's bytes must not end the process."""
    return type(error).__name__ == "PanicException"


def parse(raw: bytes) -> Quote:
    """Read the fields of a TDX quote, version 4 or 5; raises AttestationError (QuoteMalformed, QuoteTypeUnsupported)."""
    if len(raw) > MAX_QUOTE_BYTES:
        raise AttestationError(AttestationReason.QUOTE_TOO_LARGE, f"the quote has {len(raw)} bytes; at most {MAX_QUOTE_BYTES} are read")
    if len(raw) < HEADER_BYTES:
        if looks_like_cbor(raw):
            raise _unsupported("the evidence begins like CBOR, as DICE quotes do; only Intel's own binary quotes are judged here")
        raise _malformed(f"the quote has {len(raw)} bytes; its header alone has {HEADER_BYTES}", "truncated")
    version, key_type, tee_type = struct.unpack_from("<HHI", raw)
    if version not in (3, 4, 5):
        if looks_like_cbor(raw):
            raise _unsupported("the evidence begins like CBOR, as DICE quotes do; only Intel's own binary quotes are judged here")
        raise _malformed(f"the quote says version {version}, which does not exist")
    if version == 3 or tee_type != TEE_TDX:
        kind = "SGX" if tee_type == 0 else f"TEE type {tee_type:#x}"
        raise _unsupported(f"the quote is of version {version} and of {kind}, not of a TDX trust domain")
    if key_type != KEY_ECDSA_P256:
        raise _unsupported(f"the quote's attestation key is of type {key_type}, not ECDSA P-256")
    body_type, start, size = _body(raw, version)
    end = start + size
    if len(raw) < end + 4:
        raise _malformed("the quote ends within its report", "truncated")
    (signature_bytes,) = struct.unpack_from("<I", raw, end)
    total = end + 4 + signature_bytes
    if len(raw) < total:
        raise _malformed(f"the quote says it has {total} bytes, but there are {len(raw)}", "truncated")
    signature = raw[end + 4 : total]
    chain = _pck_chain(signature)
    quote = raw[:total]
    body = raw[start:end]
    svn, seam, signer_seam, seam_attributes, attributes, xfam, mrtd, configid, owner, ownerconfig, *rest = TD_REPORT.unpack_from(body)
    r0, r1, r2, r3, report = rest
    return Quote(
        raw=quote,
        version=version,
        tee_type=tee_type,
        body_type=body_type,
        tee_tcb_svn=svn,
        mrseam=seam,
        mrsignerseam=signer_seam,
        seam_attributes=seam_attributes,
        td_attributes=attributes,
        xfam=xfam,
        mrtd=mrtd,
        mrconfigid=configid,
        mrowner=owner,
        mrownerconfig=ownerconfig,
        rtmrs=(r0, r1, r2, r3),
        report_data=report,
        tee_tcb_svn_2=body[584:600] if body_type == 3 else None,
        mr_servicetd=body[600:648] if body_type == 3 else None,
        signed=raw[:end],
        signature=signature,
        pck_chain=chain,
        trailing=raw[total:] if raw[total:].strip(b"\0") else b"",
    )


def _body(raw: bytes, version: int) -> tuple[int, int, int]:
    """(body type, offset, size) of the TD report."""
    if version == 4:
        return 2, HEADER_BYTES, TD_REPORT_10_BYTES
    if len(raw) < HEADER_BYTES + 6:
        raise _malformed("the quote ends within its body descriptor", "truncated")
    body_type, size = struct.unpack_from("<HI", raw, HEADER_BYTES)
    if body_type not in BODY_TYPES:
        raise _unsupported(f"the quote's body is of type {body_type}; 2 and 3 are TD reports")
    if size != BODY_TYPES[body_type]:
        raise _malformed(f"the quote's body of type {body_type} says {size} bytes; it must have {BODY_TYPES[body_type]}")
    return body_type, HEADER_BYTES + 6, size


def _pck_chain(signature: bytes) -> bytes:
    """The PCK certificate chain out of the signature data; every length must fit exactly."""
    outer = 2 * ECDSA_BYTES
    if len(signature) < outer + 6:
        raise _malformed("the quote's signature data is too short", "truncated")
    kind, size = struct.unpack_from("<HI", signature, outer)
    if kind != CERT_QE_REPORT:
        raise _unsupported(f"the quote's certification data is of type {kind}, not a QE report (6)")
    inner = signature[outer + 6 :]
    fixed = QE_REPORT_BYTES + ECDSA_BYTES
    if len(inner) != size or size < fixed + 2:
        raise _malformed("the lengths within the quote's signature data contradict each other")
    (auth_bytes,) = struct.unpack_from("<H", inner, fixed)
    position = fixed + 2 + auth_bytes
    if len(inner) < position + 6:
        raise _malformed("the lengths within the quote's signature data contradict each other")
    kind, size = struct.unpack_from("<HI", inner, position)
    if kind != CERT_PCK_CHAIN:
        raise _unsupported(f"the quote carries PCK data of type {kind}, not a certificate chain (5)")
    chain = inner[position + 6 :]
    if len(chain) != size:
        raise _malformed("the lengths within the quote's signature data contradict each other")
    return chain


def _unsupported(message: str) -> AttestationError:
    return AttestationError(AttestationReason.QUOTE_TYPE_UNSUPPORTED, message)


def _malformed(message: str, detail: str = "") -> AttestationError:
    return AttestationError(AttestationReason.QUOTE_MALFORMED, message, detail)
