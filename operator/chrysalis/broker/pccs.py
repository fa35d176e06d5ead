"""Fetching collateral from a PCCS, or from Intel's PCS: paths of version 4, the documents byte for byte.

TCB info and QE identity are cut out of the answer as they stand in it: one changed space would break their signatures.
Sizes and times are bounded, redirects are not followed.
"""

from __future__ import annotations

import json
import re
import ssl
from json.decoder import JSONDecoder
from typing import Protocol
from urllib.parse import unquote

import httpx

from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.reasons import AttestationError
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.settings import CollateralSettings

MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_CHAIN_CHARACTERS = 32 * 1024
_HEX = re.compile(rb"\s*[0-9a-fA-F\s]+\s*")
_SPACE = re.compile(r"[ \t\r\n]*")


class CollateralFetcher(Protocol):
    """Where fresh collateral comes from."""

    def fetch(self, fmspc: str, ca: str) -> Collateral:
        """The collateral of a platform (FMSPC in hex) and PCK authority (platform, processor).

        Raises BrokerError (CollateralUnavailable).
        """


class PccsFetcher:
    """Over HTTP(S), from the address in the settings."""

    def __init__(self, settings: CollateralSettings, transport: httpx.BaseTransport | None = None) -> None:
        if settings.url is None:
            raise ValueError("a fetcher needs collateral.url")
        self._base = settings.url.rstrip("/")
        self._root_crl_url = settings.root_crl_url
        self._update = settings.update
        verify = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
        self._http = httpx.Client(timeout=settings.timeout_seconds, verify=verify, trust_env=False, transport=transport)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def fetch(self, fmspc: str, ca: str) -> Collateral:
        try:
            tcb, tcb_chain = self._get(
                f"{self._base}/tdx/certification/v4/tcb", {"fmspc": fmspc, "update": self._update}, "TCB-Info-Issuer-Chain"
            )
            qe, qe_chain = self._get(
                f"{self._base}/tdx/certification/v4/qe/identity", {"update": self._update}, "SGX-Enclave-Identity-Issuer-Chain"
            )
            crl, crl_chain = self._get(
                f"{self._base}/sgx/certification/v4/pckcrl", {"ca": ca, "encoding": "der"}, "SGX-PCK-CRL-Issuer-Chain"
            )
            root_crl, _ = self._get(self._root_crl_url or f"{self._base}/sgx/certification/v4/rootcacrl", {}, "")
            tcb_members, qe_members = members(tcb.decode()), members(qe.decode())
            document = {
                "pck_crl_issuer_chain": crl_chain,
                "root_ca_crl": binary(root_crl).hex(),
                "pck_crl": binary(crl).hex(),
                "tcb_info_issuer_chain": tcb_chain,
                "tcb_info": tcb_members["tcbInfo"],
                "tcb_info_signature": json.loads(tcb_members["signature"]),
                "qe_identity_issuer_chain": qe_chain,
                "qe_identity": qe_members["enclaveIdentity"],
                "qe_identity_signature": json.loads(qe_members["signature"]),
            }
            return Collateral.from_json(json.dumps(document))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, RecursionError, AttestationError) as error:
            raise BrokerError(
                BrokerReason.COLLATERAL_UNAVAILABLE,
                f"no collateral for FMSPC {fmspc} from the PCCS",
                "check collateral.url, the way to it and that it knows this platform; or preload the collateral from files",
                f"{type(error).__name__}: {error}",
            ) from error

    def _get(self, url: str, query: dict[str, str], chain_header: str) -> tuple[bytes, str]:
        body = bytearray()
        with self._http.stream("GET", url, params=query) as response:
            if response.status_code != 200:
                raise ValueError(f"{url} answered {response.status_code}")
            chain = unquote(response.headers.get(chain_header, "")) if chain_header else ""
            if chain_header and not 0 < len(chain) <= MAX_CHAIN_CHARACTERS:
                raise ValueError(f"{url} answered without a usable {chain_header}")
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise ValueError(f"{url} answered over {MAX_DOCUMENT_BYTES} bytes")
        return bytes(body), chain


def members(text: str) -> dict[str, str]:
    """The members of a JSON object, each as the exact text of its value; raises ValueError for anything else."""
    decoder, found = JSONDecoder(), {}
    position = _after(text, 0, "{")
    while True:
        name, position = decoder.raw_decode(text, position)
        if not isinstance(name, str) or name in found:
            raise ValueError("a member without a name of its own")
        position = _after(text, position, ":")
        _, end = decoder.raw_decode(text, position)
        found[name] = text[position:end]
        position = _skip(text, end)
        if text[position : position + 1] == "}":
            if _skip(text, position + 1) != len(text):
                raise ValueError("something follows the object")
            return found
        position = _after(text, position, ",")


def binary(body: bytes) -> bytes:
    """A revocation list as DER, whether it came as that or as hex text (some PCCS paths)."""
    return bytes.fromhex(body.decode()) if _HEX.fullmatch(body) else body


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _after(text: str, position: int, sign: str) -> int:
    position = _skip(text, position)
    if text[position : position + 1] != sign:
        raise ValueError(f"{sign!r} expected at {position}")
    return _skip(text, position + 1)
