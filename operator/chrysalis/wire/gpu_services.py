"""The clients of NVIDIA's attestation service and OCSP responder.  Blocking; the verifier asks, never the worker (RFC 9334, section 5.2).

An NRAS answer is believed under the keys of the configured service, which come from it over TLS (or from a pinned file); an OCSP
answer under the certificate's issuer.  Whoever asks has proved the evidence before (chrysalis.wire.gpu.awaits).
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as builders

from chrysalis.api.policy_gpu import GpuArchitecture, GpuBackend, GpuRevocation, GpuRules
from chrysalis.attestation.gpu import chain, nras, ocsp
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.clock import Clock
from chrysalis.wire.bounded_http import Bounds, Fault, HttpFault, Request, fetch, fetch_all
from chrysalis.wire.gpu import MAX_KEY_SET_CHARACTERS, MAX_NRAS_CHARACTERS, GpuAnswers, GpuDevice, devices
from chrysalis.wire.gpu_service_settings import GpuServiceSettings, NrasSettings, OcspSettings

ATTEST_PATH = "/v4/attest/gpu"
CLAIMS_VERSION = "3.0"
"""The version that names every claim that is judged here; with it the service answers also where it refuses."""
FRESH_SECONDS = 3600
RETRY_SECONDS = 60
STALE_SECONDS = 24 * 3600
"""A key set is fetched again after the first, not more often than the second, and serves no longer than the third.

A token that names a key which is not in it has it fetched once more, also right after a fetch (the service may have rotated in between),
and then not for that reason before the second has passed: whoever answers with made-up key ids makes nobody ask more often.
"""
NONCE_BYTES = 32
SILENT = frozenset({Fault.UNREACHABLE, Fault.TIMED_OUT, Fault.THROTTLED})
"""Any other fault may be of what was asked: a tenant whose policy names a root of its own has the services asked about anything."""
_R = GpuReason
Pair = tuple[x509.Certificate, x509.Certificate]
"""A certificate and its issuer's."""


class NrasSource(Protocol):
    """Who asks the attestation service.  Thread-safe."""

    def ask(self, sent: Sequence[GpuDevice], nonce: bytes) -> NrasAnswer:
        """Its answer about exactly these GPUs, and the keys to judge it with; raises GpuError."""


class OcspSource(Protocol):
    """Who has current OCSP answers.  Thread-safe."""

    def answers(self, pairs: Sequence[Pair]) -> list[bytes]:
        """A proved answer (DER), good or revoked, about each of the certificates; raises GpuError."""


@dataclass(frozen=True)
class NrasAnswer:
    """What the service said and under which keys; nothing is checked yet."""

    answer: str
    keys: str
    issuer: str


def ask(
    sent: Sequence[GpuDevice], *, rules: GpuRules, nonce: bytes, nras_source: NrasSource | None, ocsp_source: OcspSource | None
) -> GpuAnswers:
    """All that the rules want to be asked about evidence that is proved otherwise.

    Raises GpuError: GpuServiceNotConfigured, GpuServiceUnavailable, or what is wrong with an answer or the evidence.
    """
    found, said = [], None
    if rules.revocation is GpuRevocation.REQUIRED:
        if ocsp_source is None:
            raise GpuError(_R.GPU_SERVICE_NOT_CONFIGURED, "the policy requires OCSP answers, and no responder is configured", "gpu.ocsp")
        _check_checkable(sent)
        found = ocsp_source.answers(authorities(sent))
    if rules.backend is GpuBackend.NRAS:
        if nras_source is None:
            raise GpuError(_R.GPU_SERVICE_NOT_CONFIGURED, "the policy wants NVIDIA's service's word, and none is configured", "gpu.nras")
        said = nras_source.ask(sent, nonce)
    return GpuAnswers(
        nras=said.answer if said else "",
        nras_keys=said.keys if said else "",
        nras_issuer=said.issuer if said else "",
        ocsp=GpuAnswers.of_ocsp(found),
    )


def _check_checkable(sent: Sequence[GpuDevice]) -> None:
    """Ask nobody about a chain that no answer could make wholly checked: raises GpuError (GpuRevocationNotChecked)."""
    for place, device in enumerate(devices(sent)):
        found = chain.read(device.chain)
        if not found.complete or not found.revocable:
            what = "no authority" if found.complete else "no root"
            raise GpuError(_R.GPU_REVOCATION_NOT_CHECKED, f"device {place}: its chain has {what}, so that OCSP cannot check all of it")


def authorities(sent: Sequence[GpuDevice]) -> list[Pair]:
    """The certificates that OCSP is asked about, each once; raises GpuError."""
    return each_once([pair for device in devices(sent) for pair in chain.read(device.chain).revocable])


def each_once(pairs: Sequence[Pair]) -> list[Pair]:
    """The certificates without those that come again; all devices of a make, and all RIMs, share their authorities."""
    return list({certificate.fingerprint(hashes.SHA256()): (certificate, issuer) for certificate, issuer in pairs}.values())


def request_body(sent: Sequence[GpuDevice], nonce: bytes) -> bytes:
    """What is sent to the service: the GPUs of one architecture (NVSwitches are judged here); raises GpuError."""
    gpus, found = [], set()
    for device in devices(sent):
        architecture = chain.read(device.chain).architecture
        if architecture is None or architecture is GpuArchitecture.LS10:
            continue
        found.add(architecture)
        gpus.append({"evidence": base64.b64encode(device.report).decode(), "certificate": base64.b64encode(device.chain).decode()})
    if len(found) != 1:
        raise GpuError(_R.GPU_SERVICE_REFUSED, "NVIDIA's service is asked about GPUs of one architecture", ", ".join(sorted(found)))
    document = {"nonce": nonce.hex(), "arch": found.pop().value.upper(), "claims_version": CLAIMS_VERSION, "evidence_list": gpus}
    return json.dumps(document).encode()


class Unavailable(GpuError):
    """GpuServiceUnavailable: the same request may succeed later.

    word: what strangers may know of the cause; `detail` may hold addresses and a library's own words besides.
    fault: what went wrong on the way, where it did.
    """

    def __init__(self, service: str, word: str, detail: str = "", fault: Fault | None = None) -> None:
        super().__init__(_R.GPU_SERVICE_UNAVAILABLE, f"{service} gave no usable answer", f"{word} ({detail})" if detail else word)
        self.word = word
        self.silent = fault in SILENT
        """Nobody answers, or nobody for now, no matter what is asked."""


def unavailable(service: str, cause: str | HttpFault | GpuError) -> Unavailable:
    """Why there is no answer."""
    if isinstance(cause, HttpFault):
        return Unavailable(service, f"{cause.fault}: {cause.message}", cause.detail, cause.fault)
    return Unavailable(service, cause if isinstance(cause, str) else f"{cause.reason}: {cause.message}")


class NrasClient:
    """Asks NVIDIA's Remote Attestation Service.  Thread-safe."""

    def __init__(self, settings: NrasSettings, clock: Clock, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._transport = transport
        tls = _tls(settings.ca_file)
        self._answers = Bounds(float(settings.timeout_seconds), MAX_NRAS_CHARACTERS, tls)
        self._documents = Bounds(float(settings.timeout_seconds), MAX_KEY_SET_CHARACTERS, tls)
        self._lock = threading.Lock()  # of the members below; held while keys are fetched
        self._keys = ""
        self._ids: frozenset[str] = frozenset()
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._forced_at: float | None = None  # the last time that an unknown key id was the only cause

    def ask(self, sent: Sequence[GpuDevice], nonce: bytes) -> NrasAnswer:
        """Ask about a session's GPUs.  Raises GpuError: GpuServiceUnavailable; GpuServiceRefused where the service does not take
        the evidence."""
        url = self._settings.url.rstrip("/") + ATTEST_PATH
        headers = {"content-type": "application/json", "accept": "application/json"}
        try:
            body = fetch(Request(url, request_body(sent, nonce), headers), self._answers, self._transport)
        except HttpFault as fault:
            if fault.fault is Fault.REFUSED:
                raise GpuError(_R.GPU_SERVICE_REFUSED, "the service refuses to judge this evidence", str(fault)) from fault
            raise unavailable("NVIDIA's attestation service", fault) from fault
        if not body:
            raise unavailable("NVIDIA's attestation service", "its answer is empty")
        text = body.decode(errors="replace")
        try:
            wanted = nras.key_ids(text)
        except GpuError:  # no answer in its form: kept as it is, and judged to be that
            wanted = frozenset()
        return NrasAnswer(text, self._key_set(wanted), self._settings.issuer)

    def _key_set(self, wanted: frozenset[str]) -> str:
        """The key set, fetched again where it is old or lacks one of these ids; raises GpuError (GpuServiceUnavailable)."""
        if self._settings.jwks_file is not None:
            return self._pinned(self._settings.jwks_file)
        with self._lock:
            now = self._clock.monotonic()
            failure: str | HttpFault | GpuError = HttpFault(Fault.UNREACHABLE, "the last fetch failed a moment ago")
            if self._due(now, wanted):
                self._tried_at = now
                try:
                    text = fetch(Request(self._settings.keys_url), self._documents, self._transport).decode()
                    self._ids = frozenset(nras.read_keys(text))
                    self._keys, self._fetched_at = text, now
                except (HttpFault, GpuError) as error:
                    failure = error
                except ValueError:
                    failure = "it is no text"
            if self._fetched_at is None or now - self._fetched_at >= STALE_SECONDS:
                raise unavailable("the key set of NVIDIA's attestation service", failure)
            return self._keys

    def _due(self, now: float, wanted: frozenset[str]) -> bool:
        """Whether the key set is to be fetched now; notes a fetch that is forced by an unknown key id."""
        may = self._tried_at is None or now - self._tried_at >= RETRY_SECONDS
        if self._fetched_at is None or now - self._fetched_at >= FRESH_SECONDS:
            return may
        if wanted <= self._ids:
            return False
        if self._forced_at is not None and now - self._forced_at < RETRY_SECONDS:
            return False
        if self._tried_at != self._fetched_at and not may:  # the last fetch failed a moment ago
            return False
        self._forced_at = now
        return True

    def _pinned(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                text = file.read(MAX_KEY_SET_CHARACTERS).decode()
            nras.read_keys(text)
        except (OSError, ValueError, GpuError) as error:
            raise Unavailable("the pinned key set (jwksFile)", "it cannot be read", f"{type(error).__name__}: {error}"[:512]) from error
        return text


class OcspClient:
    """Asks an OCSP responder.  Thread-safe; remembers nothing."""

    def __init__(self, settings: OcspSettings, clock: Clock, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._transport = transport
        self._bounds = Bounds(float(settings.timeout_seconds), ocsp.MAX_RESPONSE_BYTES, _tls(settings.ca_file))

    def answers(self, pairs: Sequence[Pair]) -> list[bytes]:
        """A proved answer about each certificate; raises GpuError for the first that there is none about."""
        found = self.fetch(pairs)
        for one in found:
            if isinstance(one, GpuError):
                raise one
        return [one for one in found if isinstance(one, bytes)]

    def fetch(self, pairs: Sequence[Pair]) -> list[bytes | GpuError]:
        """For each certificate a proved and current answer, good or revoked, or why there is none; asked all at once."""
        nonces = [secrets.token_bytes(NONCE_BYTES) for _ in pairs]
        headers = {"content-type": "application/ocsp-request", "accept": "application/ocsp-response"}
        requests = [Request(self._settings.url, self._request(*pair, nonce), headers) for pair, nonce in zip(pairs, nonces, strict=True)]
        bodies = fetch_all(requests, self._bounds, self._transport)
        return [self._proved(body, *pair, nonce) for body, pair, nonce in zip(bodies, pairs, nonces, strict=True)]

    def _request(self, certificate: x509.Certificate, issuer: x509.Certificate, nonce: bytes) -> bytes:
        builder = builders.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA384())
        if self._settings.nonce:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        return builder.build().public_bytes(Encoding.DER)

    def _proved(self, body: bytes | HttpFault, certificate: x509.Certificate, issuer: x509.Certificate, nonce: bytes) -> bytes | GpuError:
        if isinstance(body, HttpFault):
            return unavailable("the OCSP responder", body)
        try:
            [answer] = ocsp.read([body])
            answer.check(certificate, issuer, self._clock.now(), nonce if self._settings.nonce else None)
        except GpuError as error:
            if error.reason is _R.GPU_CERTIFICATE_REVOKED:
                return body
            return unavailable("the OCSP responder", error)
        return body


class GpuAsker(Protocol):
    """Who asks what the rules want asked.  Thread-safe."""

    def ask(self, sent: Sequence[GpuDevice], *, rules: GpuRules, nonce: bytes) -> GpuAnswers:
        """See `ask` of the module."""


class GpuServices:
    """Both services, as a client asks them: each time anew.  Thread-safe."""

    def __init__(self, settings: GpuServiceSettings, clock: Clock) -> None:
        """Raises OSError where a caFile cannot be read."""
        self._nras = NrasClient(settings.nras, clock) if settings.nras else None
        self._ocsp = OcspClient(settings.ocsp, clock) if settings.ocsp else None

    def ask(self, sent: Sequence[GpuDevice], *, rules: GpuRules, nonce: bytes) -> GpuAnswers:
        """See `ask` of the module."""
        return ask(sent, rules=rules, nonce=nonce, nras_source=self._nras, ocsp_source=self._ocsp)


class _Nobody:
    """Where no service is configured: says which one the rules want."""

    def ask(self, sent: Sequence[GpuDevice], *, rules: GpuRules, nonce: bytes) -> GpuAnswers:
        return ask(sent, rules=rules, nonce=nonce, nras_source=None, ocsp_source=None)


NOBODY: GpuAsker = _Nobody()


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
