"""Where a domain gets its evidence from.  It is never judged here: the broker and the clients do that."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Protocol

import httpx

from chrysalis.wire.broker import MAX_EVENT_LOG_BYTES, MAX_QUOTE_BYTES
from chrysalis.wire.gpu import GpuDevice
from chrysalis_worker.reasons import WorkerError, WorkerReason

REPORT_DATA_BYTES = 64
COCO_REST = "http://127.0.0.1:8006"
MAX_ANSWER_BYTES = (MAX_QUOTE_BYTES + MAX_EVENT_LOG_BYTES) * 4 // 3 + 4096


@dataclass(frozen=True)
class RawEvidence:
    """What the hardware and the firmware say."""

    quote: bytes
    event_log: bytes


class EvidenceSource(Protocol):
    """Something that can produce a quote over 64 bytes."""

    async def evidence(self, report_data: bytes) -> RawEvidence:
        """A fresh quote that carries report_data (64 bytes), and the boot event log; raises WorkerError."""


class GpuEvidenceSource(Protocol):
    """Something that can produce evidence of every GPU and NVSwitch that the domain sees."""

    async def gpus(self, nonce: bytes) -> list[GpuDevice]:
        """SPDM reports over a nonce of 32 bytes, with certificate chains; raises WorkerError."""


class Gpus(GpuEvidenceSource, Protocol):
    """The domain's GPUs: their evidence, and whether they take work."""

    async def ready(self) -> bool | None:
        """Whether the GPUs take work; None where there are none.  Raises WorkerError."""

    async def set_ready(self, ready: bool) -> None:
        """Let them take work, or no longer; raises WorkerError."""


class NoGpus:
    """A domain without GPUs."""

    async def gpus(self, nonce: bytes) -> list[GpuDevice]:
        return []

    async def ready(self) -> bool | None:
        return None

    async def set_ready(self, ready: bool) -> None:
        raise ValueError("there are no GPUs")


class CocoRest:
    """The REST service of a Kata guest (Confidential Containers' api-server-rest), on the pod's loopback."""

    def __init__(self, base_url: str = COCO_REST, *, timeout: float = 30.0) -> None:
        self._url = base_url.rstrip("/") + "/aa/evidence"
        self._timeout = timeout

    async def evidence(self, report_data: bytes) -> RawEvidence:
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"report_data has {REPORT_DATA_BYTES} bytes, not {len(report_data)}")
        query = {"runtime_data": base64.b64encode(report_data).decode(), "encoding": "base64"}
        status, raw = await _get(self._url, query, self._timeout)
        if status != httpx.codes.OK:
            raise _unavailable(f"HTTP {status}")
        return _parse(raw)


async def _get(url: str, query: dict[str, str], seconds: float) -> tuple[int, bytes]:
    """Status and body of the guest's answer; raises WorkerError where there is none, or one that is too large."""
    raw = bytearray()
    try:
        async with (
            httpx.AsyncClient(timeout=seconds, trust_env=False) as http,
            http.stream("GET", url, params=query) as response,
        ):
            async for chunk in response.aiter_bytes():
                raw += chunk
                if len(raw) > MAX_ANSWER_BYTES:
                    raise _unavailable(f"the answer is over {MAX_ANSWER_BYTES} bytes")
            return response.status_code, bytes(raw)
    except httpx.HTTPError as error:
        raise _unavailable(f"{type(error).__name__}: {error}") from error


def _parse(raw: bytes) -> RawEvidence:
    try:
        answer = json.loads(raw)
        quote = base64.b64decode(answer["quote"], validate=True)
        event_log = base64.b64decode(answer.get("cc_eventlog") or "", validate=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unavailable(f"the answer is not the JSON that is expected: {type(error).__name__}") from error
    if not quote or len(quote) > MAX_QUOTE_BYTES or len(event_log) > MAX_EVENT_LOG_BYTES:
        raise _unavailable(f"a quote of {len(quote)} bytes, an event log of {len(event_log)} bytes")
    return RawEvidence(quote=quote, event_log=event_log)


def _unavailable(detail: str) -> WorkerError:
    return WorkerError(
        WorkerReason.EVIDENCE_UNAVAILABLE,
        "the trust domain's evidence service gives no quote",
        "check that the pod's runtime class starts a trust domain and that its guest offers the attestation API",
        detail,
    )
