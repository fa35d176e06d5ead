"""OpenAI's request and answer shapes, as far as this gateway offers them: models, embeddings, errors."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chrysalis.errors import ChrysalisError
from chrysalis_worker.inference import Embedded
from chrysalis_worker.reasons import WorkerError, WorkerReason

MAX_INPUTS = 256
MAX_TEXT_CHARACTERS = 1 << 20
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)]


class EmbeddingsRequest(BaseModel):
    """POST /v1/embeddings.  Lists of token ids are refused: tokens are the model's own affair, and are counted there."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None  # OpenAI's; ignored

    @property
    def texts(self) -> list[str]:
        """The inputs as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


def parse_embeddings(body: bytes) -> EmbeddingsRequest:
    """Read a request's body; raises WorkerError: RequestMalformed, naming the first field that is wrong."""
    try:
        return EmbeddingsRequest.model_validate_json(body)
    except (ValidationError, RecursionError) as error:
        detail = ""
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            detail = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".lstrip(": ")[:512]
        raise WorkerError(
            WorkerReason.REQUEST_MALFORMED,
            f"the request is not one that this gateway takes: {detail or 'not JSON'}",
            f"send model, input (a text or up to {MAX_INPUTS} texts) and, if you like, encoding_format and user",
        ) from error


def embeddings(request: EmbeddingsRequest, embedded: Embedded) -> bytes:
    """The answer's bytes."""
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(_values(request, embedded))]
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return _json({"object": "list", "data": data, "model": request.model, "usage": usage})


def models(name: str, created: int) -> bytes:
    """The answer of GET /v1/models."""
    return _json({"object": "list", "data": [{"id": name, "object": "model", "created": created, "owned_by": "chrysalis"}]})


def error(failure: ChrysalisError, status: int) -> bytes:
    """An error in OpenAI's form with reason and remedy; details stay in the worker's log unless they are the client's own."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    reason = str(failure.reason)
    code = "model_not_found" if reason == WorkerReason.MODEL_NOT_FOUND else reason
    detail = failure.detail if status < 500 else ""
    document = {
        "message": failure.message,
        "type": kind,
        "param": None,
        "code": code,
        "reason": reason,
        "remedy": failure.remedy,
        "detail": detail,
    }
    return _json({"error": document})


def _values(request: EmbeddingsRequest, embedded: Embedded) -> list[Any]:
    if request.encoding_format == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in embedded.vectors]
    rows: list[Any] = embedded.vectors.tolist()
    return rows


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
