"""Inference at Triton over its unix socket, for embedding models of one schema; and the canary.

Schema: input TEXT (BYTES, [n, 1]) and the optional BOOL return_num_input_tokens; outputs EMBEDDING (FP32, [n, d]) and
num_input_tokens (UINT32, [n, 1]), as vLLM names it for Triton.  Triton's own counters are not billable (batch rows, not
tokens), so the count comes with each answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from chrysalis_worker.reasons import WorkerError, WorkerReason

CANARY_TEXT = "canary"
CANARY_SECONDS = 3.0
"""Above 1 s: a model whose stub is dead fails after exactly 1 s, and that answer says more than a time-out."""
STALL_SECONDS = 20.0
"""A canary that only waits behind jobs is excused while one of them ended, or began, within this time."""
MAX_CONCURRENT = 8
"""Requests at Triton at once; what comes on top waits here, where it is seen and can be refused."""
_INPUTS = {"TEXT": "BYTES", "return_num_input_tokens": "BOOL"}
_OUTPUTS = {"EMBEDDING": "FP32", "num_input_tokens": "UINT32"}
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
]


@dataclass(frozen=True)
class Embedded:
    """Vectors [n, d] and the number of input tokens of all texts together."""

    vectors: npt.NDArray[np.float32]
    tokens: int


class Engine(Protocol):
    """What the gateway needs of the model server."""

    @property
    def dimension(self) -> int:
        """The length of a vector; 0 before `load`."""

    async def load(self) -> None:
        """Learn the model's shape once it is ready; raises WorkerError: TritonNotReady, ModelSchemaUnsupported."""

    async def embed(self, texts: Sequence[str], seconds: float) -> Embedded:
        """One vector for each text, all within `seconds`; raises WorkerError: InferenceFailed, InferenceTimeout."""

    async def canary(self) -> None:
        """One small inference; raises WorkerError: CanaryFailed.  A model that is merely busy is not sick."""


class Triton:
    """The real Triton behind a gRPC target."""

    def __init__(self, target: str, model: str) -> None:
        self._model = model
        self._client = triton.InferenceServerClient(target, channel_args=_OPTIONS)
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._running = 0
        self._progress = 0.0  # on the loop's clock: when a batch of a job last ended well, or began on an idle model
        self._batch = 1
        self._dimension = 0

    @property
    def dimension(self) -> int:
        return self._dimension

    async def aclose(self) -> None:
        """Close the channel."""
        await self._client.close()

    async def load(self) -> None:
        try:
            if not await self._client.is_model_ready(self._model, client_timeout=1.0):
                raise _not_ready("the model is not ready")
            config = (await self._client.get_model_config(self._model, as_json=True, client_timeout=1.0))["config"]
        except InferenceServerException as error:
            raise _not_ready(_detail(error)) from error
        inputs = {i["name"]: i["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES") for i in config.get("input", [])}
        outputs = {o["name"]: o["data_type"].removeprefix("TYPE_") for o in config.get("output", [])}
        dims: list[Any] = next((o.get("dims", []) for o in config.get("output", []) if o["name"] == "EMBEDDING"), [])
        if inputs != _INPUTS or outputs != _OUTPUTS or len(dims) != 1 or int(dims[0]) < 1:
            raise WorkerError(
                WorkerReason.MODEL_SCHEMA_UNSUPPORTED,
                f"model {self._model!r} has not the inputs and outputs of an embedding model",
                f"give its config.pbtxt the inputs {_INPUTS} and the outputs {_OUTPUTS}, EMBEDDING with one dimension",
                f"inputs {inputs}, outputs {outputs}"[:512],
            )
        self._batch = max(1, int(config.get("max_batch_size", 1)))
        self._dimension = int(dims[0])

    async def embed(self, texts: Sequence[str], seconds: float) -> Embedded:
        parts: list[Embedded] = []
        try:
            async with asyncio.timeout(seconds):
                for at in range(0, len(texts), self._batch):
                    async with self._slots:
                        parts.append(await self._batch_of_a_job(texts[at : at + self._batch], seconds))
        except TimeoutError as error:
            raise _timeout(seconds) from error
        except InferenceServerException as error:
            if "DEADLINE_EXCEEDED" in str(error.status()):
                raise _timeout(seconds) from error
            raise _failed(str(error.status())) from None  # a model's own words may repeat a prompt
        if len(parts) == 1:
            return parts[0]
        return Embedded(np.concatenate([p.vectors for p in parts]), sum(p.tokens for p in parts))

    async def canary(self) -> None:
        try:
            embedded = await self._infer([CANARY_TEXT], CANARY_SECONDS)
        except (InferenceServerException, WorkerError) as error:
            late = isinstance(error, InferenceServerException) and "DEADLINE_EXCEEDED" in str(error.status())
            if late and self._running and _now() - self._progress < STALL_SECONDS:
                return
            detail = error.detail if isinstance(error, WorkerError) else _detail(error)
            raise _sick(detail) from error
        if embedded.tokens < 1 or not np.isfinite(embedded.vectors).all():
            raise _sick(f"{embedded.tokens} tokens, or numbers that are none")

    async def _batch_of_a_job(self, texts: Sequence[str], seconds: float) -> Embedded:
        if self._running == 0:
            self._progress = _now()
        self._running += 1
        try:
            embedded = await self._infer(texts, seconds)
            self._progress = _now()
            return embedded
        finally:
            self._running -= 1

    async def _infer(self, texts: Sequence[str], seconds: float) -> Embedded:
        rows = [len(texts), 1]
        text = triton.InferInput("TEXT", rows, "BYTES")
        text.set_data_from_numpy(np.array([[t.encode()] for t in texts], dtype=np.object_))
        count = triton.InferInput("return_num_input_tokens", rows, "BOOL")
        count.set_data_from_numpy(np.ones(rows, np.bool_))
        answer = await self._client.infer(self._model, [text, count], client_timeout=seconds)
        vectors, tokens = answer.as_numpy("EMBEDDING"), answer.as_numpy("num_input_tokens")
        if not _is(vectors, (len(texts), self._dimension)) or not _is(tokens, (len(texts), 1)):
            raise _failed("the answer has not the shape that the model's configuration promises")
        return Embedded(vectors, int(tokens.sum()))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is(array: Any, shape: tuple[int, int]) -> bool:
    """Whether this is an array of this shape; the Python backend answers with empty tensors when NumPy does not fit."""
    return isinstance(array, np.ndarray) and array.shape == shape


def _detail(error: InferenceServerException) -> str:
    return str(error)[:512]


def _not_ready(detail: str) -> WorkerError:
    return WorkerError(WorkerReason.TRITON_NOT_READY, "Triton is not ready", "wait; look at the log of container `triton`", detail)


def _failed(detail: str) -> WorkerError:
    return WorkerError(
        WorkerReason.INFERENCE_FAILED,
        "the model did not answer; nothing is billed",
        "send the job again with a new ticket; the worker checks its model and restarts it if need be",
        detail,
    )


def _timeout(seconds: float) -> WorkerError:
    return WorkerError(
        WorkerReason.INFERENCE_TIMEOUT,
        f"the model did not answer within {seconds:g} s; nothing is billed",
        "send fewer or shorter texts in a request, or try another worker",
    )


def _sick(detail: str) -> WorkerError:
    return WorkerError(
        WorkerReason.CANARY_FAILED, "the model does not answer a test inference", "nothing: Triton is restarted by itself", detail
    )
