"""all-MiniLM-L6-v2 (int8) for Triton's Python backend: mean-pooled, normalised sentence embeddings.

The names of the token count follow vLLM's schema for Triton, so that the gateway's metering is the same for other models.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_TOKENS = 256
"""What the model was trained with; longer texts are cut there, as sentence-transformers does."""
THREADS = 2


class Encoder:
    """Texts to vectors; used by Triton below, and by tests without Triton."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def encode(self, texts: list[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint32]]:
        """Vectors [n, 384] of length 1, and how many tokens each text took [n, 1]."""
        encodings = self._tokenizer.encode_batch(texts)
        ids = np.array([e.ids for e in encodings], np.int64)
        mask = np.array([e.attention_mask for e in encodings], np.int64)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, {name: value for name, value in feed.items() if name in self._inputs})[0]
        weights = mask[..., None].astype(np.float32)
        vectors = (hidden * weights).sum(1) / weights.sum(1)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32), mask.sum(1, keepdims=True).astype(np.uint32)


class TritonPythonModel:
    """The interface of Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the files that stand beside this one."""
        self._encoder = Encoder(Path(args["model_repository"]) / args["model_version"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request; all their texts run as one batch, and a bad request fails alone."""
        read = [_texts(request) for request in requests]
        texts = [text for part in read if part is not None for text in part]
        vectors, tokens = self._encoder.encode(texts) if texts else (np.zeros((0, 0), np.float32), np.zeros((0, 1), np.uint32))
        responses: list[Any] = []
        at = 0
        for request, part in zip(requests, read, strict=True):
            if part is None:
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("a text is not UTF-8")))
                continue
            rows = slice(at, at + len(part))
            at = rows.stop
            outputs = [pb_utils.Tensor("EMBEDDING", vectors[rows])]
            wanted = pb_utils.get_input_tensor_by_name(request, "return_num_input_tokens")
            if wanted is not None and bool(wanted.as_numpy().any()):
                outputs.append(pb_utils.Tensor("num_input_tokens", tokens[rows]))
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses


def _texts(request: Any) -> list[str] | None:
    try:
        return [row.decode() for row in pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)]
    except ValueError:
        return None
