"""Fetching collateral from a PCCS, or from Intel's PCS: paths of version 4, the documents byte for byte.

TCB info and QE identity are cut out of the answer as they stand in it: one changed space would break their signatures.
Whoever answers is not trusted: sizes are bounded, redirects are not followed, compressed answers are not unpacked, and a
document has to be complete within `collateral.timeoutSeconds`, however slowly its pieces drip.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import unquote, urlsplit

import httpx

from chrysalis.attestation import exact_json
from chrysalis.attestation.anchor import TrustAnchor
from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.broker.collateral_reasons import Answer, CollateralReason, DocumentKey, Failure
from chrysalis.broker.collateral_settings import CollateralSettings
from chrysalis.wire import bounded_http
from chrysalis.wire.bounded_http import Fault, HttpFault

MAX_DOCUMENT_BYTES = 1024 * 1024
"""TCB infos have about 10 KiB, the largest known PCK CRL about 100 KiB."""
MAX_CHAIN_CHARACTERS = 32 * 1024
MAX_DETAIL = 512
TCB_INFO_CHAIN_HEADERS = ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
"""The second is that of version 3, which some caches still send."""
_HEX = re.compile(rb"\s*[0-9a-fA-F\s]+\s*")
_C = CollateralReason
_FAULTS = {
    Fault.REDIRECTED: (_C.REDIRECTED, "the answer is a redirection, which is not followed"),
    Fault.THROTTLED: (_C.THROTTLED, "the source is asked more often than it allows"),
    Fault.SERVER_ERROR: (_C.SERVER_ERROR, "the source says that it has failed"),
    Fault.CONTENT_UNEXPECTED: (_C.CONTENT_UNEXPECTED, "the answer is a page, or compressed, which was not asked for"),
    Fault.ANSWER_TOO_LARGE: (_C.ANSWER_TOO_LARGE, "the answer has more bytes than any document"),
}
_ANY_OTHER = (_C.STATUS_UNEXPECTED, "the source answers with another status than 200")


class CollateralFetcher(Protocol):
    """Where fresh documents come from.  Thread-safe."""

    def fetch(self, keys: Sequence[DocumentKey], anchor: TrustAnchor) -> Mapping[DocumentKey, Answer]:
        """Each of these documents, all of this anchor, or why not; never raises for what a server does.

        Nothing about them is proved.
        """


class _Refused(Exception):
    def __init__(self, reason: CollateralReason | AttestationReason, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.failure = Failure(reason, message, detail[:MAX_DETAIL])


class PccsFetcher:
    """Over HTTP(S), from the address in the settings."""

    def __init__(self, settings: CollateralSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        if settings.url is None:
            raise ValueError("a fetcher needs collateral.url")
        self._base = settings.url.rstrip("/")
        self._root_crl_url = settings.root_crl_url
        self._allowed_hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._seconds = float(settings.timeout_seconds)
        self._transport = transport
        self._tls = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)

    def fetch(self, keys: Sequence[DocumentKey], anchor: TrustAnchor) -> Mapping[DocumentKey, Answer]:
        # An event loop of its own: only there a deadline ends a step that waits, wherever it waits.
        return bounded_http.run(self._fetch(keys, anchor))

    async def _fetch(self, keys: Sequence[DocumentKey], anchor: TrustAnchor) -> dict[DocumentKey, Answer]:
        async with httpx.AsyncClient(
            timeout=self._seconds,
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            transport=self._transport,
            headers={"accept-encoding": "identity", "user-agent": "chrysalis-broker"},
        ) as http:
            answers = await asyncio.gather(*(self._answer(http, key, anchor) for key in keys))
        return dict(zip(keys, answers, strict=True))

    async def _answer(self, http: httpx.AsyncClient, key: DocumentKey, anchor: TrustAnchor) -> Answer:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._document(http, key, anchor)
        except _Refused as refused:
            return refused.failure
        except HttpFault as fault:
            return _failure(key, fault)
        except (TimeoutError, httpx.TimeoutException):
            return Failure(_C.TIMED_OUT, f"the {key.kind.value} did not arrive within {self._seconds:g} s")
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.DecodingError) as error:
            return Failure(_C.ANSWER_BROKEN, f"the answer for the {key.kind.value} broke off or is no HTTP", str(error)[:MAX_DETAIL])
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            detail = f"{type(error).__name__}: {error}"[:MAX_DETAIL]
            return Failure(_C.UNREACHABLE, f"the source of the {key.kind.value} cannot be reached", detail)
        except (AttestationError, ValueError, KeyError, RecursionError) as error:
            detail = f"{type(error).__name__}: {error}"[:MAX_DETAIL]
            return Failure(AttestationReason.COLLATERAL_MALFORMED, f"what answers for the {key.kind.value} is not that document", detail)

    async def _document(self, http: httpx.AsyncClient, key: DocumentKey, anchor: TrustAnchor) -> SignedDocument:
        match key.kind:
            case DocumentKind.TCB_INFO:
                query = {"fmspc": key.name, "update": key.update}
                body, issuers = await self._get(
                    http, "/tdx/certification/v4/tcb", query, ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
                )
                document = _signed(key.kind, body, "tcbInfo", issuers)
            case DocumentKind.QE_IDENTITY:
                path, query = "/tdx/certification/v4/qe/identity", {"update": key.update}
                body, issuers = await self._get(http, path, query, ("sgx-enclave-identity-issuer-chain",))
                document = _signed(key.kind, body, "enclaveIdentity", issuers)
            case DocumentKind.PCK_CRL:
                query = {"ca": key.name, "encoding": "der"}
                body, issuers = await self._get(http, "/sgx/certification/v4/pckcrl", query, ("sgx-pck-crl-issuer-chain",))
                document = SignedDocument(key.kind, binary(body), b"", issuers)
            case DocumentKind.ROOT_CRL:
                document = SignedDocument(key.kind, binary(await self._root_crl(http, anchor)), b"", "")
        _ = document.number, document.issued, document.ends  # it can be read: raises AttestationError
        return document

    async def _root_crl(self, http: httpx.AsyncClient, anchor: TrustAnchor) -> bytes:
        """From the settings' address, else the PCCS; Intel's PCS has none: then from where the root certificate says it is."""
        if self._root_crl_url:
            return (await self._get(http, self._root_crl_url, {}, ()))[0]
        try:
            return (await self._get(http, "/sgx/certification/v4/rootcacrl", {}, ()))[0]
        except _Refused as refused:
            if refused.failure.reason is not _C.NOT_FOUND or not anchor.crl_url:
                raise
        target = urlsplit(anchor.crl_url)
        schemes = {"https", urlsplit(self._base).scheme}
        if target.scheme not in schemes or target.netloc.lower() not in self._allowed_hosts:
            words = f"the root certificate says that its CRL is at {anchor.crl_url[:256]!r}"
            raise _Refused(_C.HOST_NOT_ALLOWED, "the root CRL's distribution point is not among the allowed hosts", words)
        return (await self._get(http, anchor.crl_url, {}, ()))[0]

    async def _get(self, http: httpx.AsyncClient, path: str, query: dict[str, str], chain_headers: Sequence[str]) -> tuple[bytes, str]:
        """The body and the issuer chain (PEM; empty where no header is asked for)."""
        url = f"{self._base}{path}" if path.startswith("/") else path
        async with http.stream("GET", url, params=query or None) as response:
            if response.status_code in (404, 410):
                raise _Refused(_C.NOT_FOUND, "the source says that it has no such document", response.request.url.path)
            body = await bounded_http.read(response, MAX_DOCUMENT_BYTES)
            found = next((response.headers[name] for name in chain_headers if response.headers.get(name)), "")
            issuers = unquote(found) if len(found) <= 3 * MAX_CHAIN_CHARACTERS else ""
            if chain_headers and not 0 < len(issuers) <= MAX_CHAIN_CHARACTERS:
                raise _Refused(_C.ISSUER_CHAIN_MISSING, f"the answer has no usable header {chain_headers[0]}")
        return body, issuers


def _failure(key: DocumentKey, fault: HttpFault) -> Failure:
    reason, said = _FAULTS.get(fault.fault, _ANY_OTHER)
    return Failure(reason, f"{key.kind.value}: {said}", f"{fault.message} {fault.detail}".strip()[:MAX_DETAIL])


def _signed(kind: DocumentKind, body: bytes, member: str, issuers: str) -> SignedDocument:
    found = exact_json.members(body.decode())
    signature = json.loads(found["signature"])
    if not isinstance(signature, str):
        raise ValueError("the signature is not text")
    return SignedDocument(kind, found[member].encode(), bytes.fromhex(signature), issuers)


def binary(body: bytes) -> bytes:
    """A revocation list as DER, whether it came as that or as hex text (some PCCS paths)."""
    return bytes.fromhex(body.decode()) if _HEX.fullmatch(body) else body
