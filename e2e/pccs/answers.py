"""How a PCCS answers: paths and headers of version 4, made from QuoteCollateralV3 documents byte for byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, urlsplit

TCB, QE_IDENTITY = "/tdx/certification/v4/tcb", "/tdx/certification/v4/qe/identity"
PCK_CRL, ROOT_CRL = "/sgx/certification/v4/pckcrl", "/sgx/certification/v4/rootcacrl"
DOCUMENTS = {"tcbInfo": TCB, "qeIdentity": QE_IDENTITY, "pckCrl": PCK_CRL, "rootCrl": ROOT_CRL}
"""The paths by the documents' names."""


@dataclass(frozen=True)
class HttpAnswer:
    """Status, body and headers."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What a request asks for; members of the query that are absent are empty."""

    path: str
    fmspc: str
    ca: str
    update: str
    der: bool


def asked(target: str) -> Asked:
    """Read a request's target."""
    parts = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return Asked(
        path=parts.path,
        fmspc=query.get("fmspc", "").upper(),
        ca=query.get("ca", ""),
        update=query.get("update", "standard"),
        der=query.get("encoding", "") == "der",
    )


def answer(request: Asked, bundle: Mapping[str, str]) -> HttpAnswer:
    """The answer out of one platform's documents; 404 where they are of another platform, or the path is unknown."""
    if request.path == TCB:
        if request.fmspc != str(json.loads(bundle["tcb_info"])["fmspc"]).upper():
            return missing(f"no TCB info for platform {request.fmspc[:16]!r}")
        body = f'{{"tcbInfo":{bundle["tcb_info"]},"signature":"{bundle["tcb_info_signature"]}"}}'
        return HttpAnswer(200, body.encode(), headers={"TCB-Info-Issuer-Chain": quote(bundle["tcb_info_issuer_chain"])})
    if request.path == QE_IDENTITY:
        body = f'{{"enclaveIdentity":{bundle["qe_identity"]},"signature":"{bundle["qe_identity_signature"]}"}}'
        chain = quote(bundle["qe_identity_issuer_chain"])
        return HttpAnswer(200, body.encode(), headers={"SGX-Enclave-Identity-Issuer-Chain": chain})
    if request.path == PCK_CRL:
        headers = {"SGX-PCK-CRL-Issuer-Chain": quote(bundle["pck_crl_issuer_chain"])}
        if request.der:
            return HttpAnswer(200, bytes.fromhex(bundle["pck_crl"]), "application/pkix-crl", headers)
        return HttpAnswer(200, bundle["pck_crl"].encode(), "text/plain", headers)
    if request.path == ROOT_CRL:
        return HttpAnswer(200, bundle["root_ca_crl"].encode(), "text/plain")
    return missing("unknown path")


def missing(words: str) -> HttpAnswer:
    """404 with a sentence."""
    return HttpAnswer(404, json.dumps({"error": words}).encode())
