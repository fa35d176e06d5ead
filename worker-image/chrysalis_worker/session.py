"""One attestation: from a challenge of the pinned broker to a TLS context that carries the evidence.

Steps (architecture.md, the way of one worker):
 1. a new TLS key; a nonce from the broker
 2. reports of the GPUs, where there are any, over a nonce made of nonce, keys and identity; the binding of all these
    gives report_data
 3. a quote over report_data; it must carry report_data, and the hash of our initdata as MRCONFIGID
 4. the broker appraises; its answer must verify under the measured EAR key and name our keys
 5. an RA-TLS certificate that ends with the result
The result's life is counted by the monotonic clock from before the question, so setting the host's clock gains nothing.
"""

from __future__ import annotations

import base64
import os
import ssl
from dataclasses import dataclass, field
from typing import Any, Protocol

from chrysalis.attestation import binding, quote
from chrysalis.clock import Clock
from chrysalis.wire import gpu
from chrysalis.wire.broker import AttestResult, Challenge, Evidence, ResultStanding, WrappedKey
from chrysalis_worker import results
from chrysalis_worker.evidence import EvidenceSource, GpuEvidenceSource, NoGpus
from chrysalis_worker.keys import DomainKeys, TlsKey
from chrysalis_worker.podinfo import PodInfo
from chrysalis_worker.reasons import WorkerError, WorkerReason

RENEW_AFTER = 2 / 3
"""The part of a result's life after which a new one is asked for."""


class Broker(Protocol):
    """What the agent asks of the broker; `wire.broker_client.BrokerClient` is it."""

    async def challenge(self) -> Challenge:
        """A fresh nonce."""

    async def attest(self, evidence: Evidence) -> AttestResult:
        """The result for accepted evidence; raises Refused."""

    async def release(self, key_id: str, result_id: str) -> WrappedKey:
        """The wrapped model key; raises Refused."""

    async def standing(self, result_id: str) -> ResultStanding:
        """Whether a result still counts; raises Refused."""


@dataclass(frozen=True)
class Appraisable:
    """Evidence over one nonce with everything that goes into report_data."""

    evidence: Evidence
    claims_buffer: bytes
    quote: bytes

    @property
    def claims_base64(self) -> str:
        """The claims-buffer as JSON carries it."""
        return base64.b64encode(self.claims_buffer).decode()


@dataclass(frozen=True, eq=False)
class Session:
    """An accepted attestation and the TLS context that serves under it."""

    tls: TlsKey
    stored: Appraisable
    """Over the broker's nonce."""
    result: AttestResult
    context: ssl.SSLContext
    asked_at: float
    """On the monotonic clock: its evidence is not older."""
    deadline: float
    """On the monotonic clock: no job starts at or after this."""
    renew_at: float


@dataclass(frozen=True)
class Attester:
    """Everything that stays the same from one attestation of a domain to the next."""

    pod: PodInfo
    domain: DomainKeys
    broker: Broker
    source: EvidenceSource
    clock: Clock
    gpus: GpuEvidenceSource = field(default_factory=NoGpus)

    async def attest(self) -> Session:
        """Do the steps above; raises WorkerError, or WireError and Refused from the broker."""
        tls = TlsKey()  # 1
        challenge = await self.broker.challenge()
        appraisable = await self.appraisable(bytes.fromhex(challenge.nonce), tls)  # 2, 3
        asked_at = self.clock.monotonic()
        result = await self.broker.attest(appraisable.evidence)  # 4
        now = self.clock.now()
        life = results.check(result, identity=self.pod.initdata.identity, evidence=appraisable.evidence, now=now)
        certificate = tls.certificate(appraisable.quote, appraisable.claims_buffer, now, result.expires_at)  # 5
        return Session(
            tls=tls,
            stored=appraisable,
            result=result,
            context=server_context(certificate, tls.private_pem()),
            asked_at=asked_at,
            deadline=asked_at + life,
            renew_at=asked_at + life * RENEW_AFTER,
        )

    async def appraisable(self, nonce: bytes, tls: TlsKey) -> Appraisable:
        """A fresh quote over this nonce and the keys of this TLS key's session; raises WorkerError."""
        keys = tls.public(self.domain)
        identity = {
            "measured": self.pod.initdata.identity.to_json_dict(),
            "claimed": self.pod.claimed.to_json_dict(),
        }
        parts: dict[str, Any] = {
            "nonce": nonce,
            "tls_spki_sha256": tls.spki_sha256,
            "hpke": self.domain.hpke_public,
            "receipt": self.domain.receipt_public,
            "identity": identity,
        }
        devices = await self.gpus.gpus(binding.gpu_nonce(**parts))
        bound = binding.bind(**parts, gpu_digest=gpu.digest(devices))
        raw = await self.source.evidence(bound.report_data)
        own = self._own_quote(raw.quote, bound.report_data)
        evidence = Evidence(
            nonce=nonce.hex(),
            quote=base64.b64encode(own).decode(),
            event_log=base64.b64encode(raw.event_log).decode(),
            initdata=base64.b64encode(self.pod.toml).decode(),
            keys=keys,
            claimed=self.pod.claimed,
            gpu=devices,
        )
        return Appraisable(evidence=evidence, claims_buffer=bound.claims_buffer, quote=own)

    def _own_quote(self, raw: bytes, report_data: bytes) -> bytes:
        """The quote without the padding that some guests add; a worker with somebody else's configuration stops here."""
        parsed = quote.parse(raw)
        if parsed.report_data != report_data:
            raise WorkerError(
                WorkerReason.EVIDENCE_MISMATCH,
                "the quote does not carry the report data that was asked for",
                "the guest's attestation service is broken, or is not this domain's own",
            )
        if parsed.mrconfigid != self.pod.mrconfigid:
            raise WorkerError(
                WorkerReason.INITDATA_MISMATCH,
                "the pod's initdata is not what the trust domain was started with",
                "the annotation was changed after the pod was made; delete the pod",
                f"MRCONFIGID {parsed.mrconfigid.hex()}, SHA-384 of the initdata {self.pod.mrconfigid.hex()}",
            )
        return parsed.raw


def server_context(certificate_der: bytes | None, private_pem: bytes | None) -> ssl.SSLContext:
    """A server's context: TLS 1.3 only, no session tickets, so no resumption past the evidence."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.set_alpn_protocols(["http/1.1"])
    if certificate_der is not None and private_pem is not None:
        # ssl loads keys from files only; this one exists in memory alone and is gone with its descriptor.
        descriptor = os.memfd_create("ra-tls", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(private_pem + ssl.DER_cert_to_PEM_cert(certificate_der).encode())
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    return context
