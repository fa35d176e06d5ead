"""The opinion of `tinfoil`, a verifier in pure Python: its clock, its HTTP, its cache and its trust anchor are replaced.

Its own policy (which measurements, which TDX modules) stays out of it, as does its minimum evaluation data number: those are
its operators' choices, not verification.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, tzinfo
from unittest import mock
from urllib.parse import quote as url_quote

import requests
from cryptography import x509
from tinfoil.attestation import attestation_tdx, cert_utils, collateral_tdx
from tinfoil.attestation.validate_tdx import PolicyOptions

from e2e.opinions import Case, Opinion

SUPPORTED_VERSION = 4


def opinions(cases: Sequence[Case]) -> list[Opinion]:
    """The verdicts on these cases, in their order."""
    return [_opinion(case) for case in cases]


def _opinion(case: Case) -> Opinion:
    if struct.unpack_from("<H", case.quote)[0] == 5:
        return Opinion(None, "quotes of version 5 are not supported")
    config = attestation_tdx.TdxVerificationConfig(min_tcb_evaluation_data_number=0, policy_options=PolicyOptions())
    with _in_the_case(case):
        try:
            attestation_tdx.verify_tdx_attestation(base64.b64encode(case.quote).decode(), is_compressed=False, config=config)
        except attestation_tdx.TdxAttestationError as error:
            return Opinion(False, str(error))
        except Exception as error:  # a verifier that fails does not accept; the table shows its words
            return Opinion(False, f"{type(error).__name__}: {error}")
    return Opinion(True)


@contextmanager
def _in_the_case(case: Case) -> Iterator[None]:
    """The case's time, documents and anchor in place of the machine's clock, Intel's service and Intel's root."""
    clock = _standing_clock(case.at)
    anchor = x509.load_der_x509_certificate(case.root)
    documents = json.loads(case.collateral)

    def get(url: str, **_: object) -> requests.Response:
        return _answer(url, documents)

    with ExitStack() as stack:
        for target, name, replacement in (
            (cert_utils, "datetime", clock),
            (collateral_tdx, "datetime", clock),
            (cert_utils, "get_intel_root_ca", lambda: anchor),
            (collateral_tdx, "get_intel_root_ca", lambda: anchor),
            (collateral_tdx, "_read_cache", lambda path: None),
            (collateral_tdx, "_write_cache", lambda path, entry: None),
            (collateral_tdx.requests, "get", get),
        ):
            stack.enter_context(mock.patch.object(target, name, replacement))
        yield


def _standing_clock(at: datetime) -> type[datetime]:
    class Standing(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Standing:
            return cls.fromtimestamp(at.timestamp(), tz)

    return Standing


def _answer(url: str, documents: dict[str, str]) -> requests.Response:
    """What Intel's service would say, from the case's documents."""

    def signed(member: str, document: str) -> bytes:
        return f'{{"{member}":{documents[document]},"signature":"{documents[f"{document}_signature"]}"}}'.encode()

    response = requests.Response()
    response.status_code = 200
    if "/tdx/certification/v4/tcb?" in url:
        response._content = signed("tcbInfo", "tcb_info")
        response.headers["TCB-Info-Issuer-Chain"] = _header(documents["tcb_info_issuer_chain"])
    elif "/tdx/certification/v4/qe/identity" in url:
        response._content = signed("enclaveIdentity", "qe_identity")
        response.headers["SGX-Enclave-Identity-Issuer-Chain"] = _header(documents["qe_identity_issuer_chain"])
    elif "/sgx/certification/v4/pckcrl?" in url:
        response._content = _pem_crl(bytes.fromhex(documents["pck_crl"]))
        response.headers["SGX-PCK-CRL-Issuer-Chain"] = _header(documents["pck_crl_issuer_chain"])
    elif url.endswith("IntelSGXRootCA.der"):
        response._content = bytes.fromhex(documents["root_ca_crl"])
    else:
        response.status_code = 404
    return response


def _header(pem: str) -> str:
    return url_quote(pem.rstrip("\0"))


def _pem_crl(der: bytes) -> bytes:
    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"
