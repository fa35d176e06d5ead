"""What Triton's answers become: a model that is not ready, of another form, late or sick, each beside one that is well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from chrysalis_worker.inference import Triton
from chrysalis_worker.orders import Orders
from chrysalis_worker.reasons import WorkerError

CONFIG: dict[str, Any] = {
    "input": [{"name": "TEXT", "data_type": "TYPE_STRING"}, {"name": "return_num_input_tokens", "data_type": "TYPE_BOOL"}],
    "output": [
        {"name": "EMBEDDING", "data_type": "TYPE_FP32", "dims": ["4"]},
        {"name": "num_input_tokens", "data_type": "TYPE_UINT32", "dims": ["1"]},
    ],
    "max_batch_size": 8,
}


class Client:
    """A gRPC client without a server."""

    def __init__(self) -> None:
        self.ready, self.config, self.failure = True, CONFIG, ""
        self.vectors: Any = np.zeros((1, 4), np.float32)

    async def is_model_ready(self, model: str, client_timeout: float) -> bool:
        return self.ready

    async def get_model_config(self, model: str, as_json: bool, client_timeout: float) -> dict[str, Any]:
        return {"config": self.config}

    async def infer(self, model: str, inputs: Any, client_timeout: float) -> Client:
        if self.failure:
            raise InferenceServerException(self.failure, status=self.failure)
        return self

    def as_numpy(self, name: str) -> Any:
        return self.vectors if name == "EMBEDDING" else np.ones((1, 1), np.uint32)


def asked(bend: Callable[[Client], None], call: str) -> str:
    """The reason that a call ends with, empty when it succeeds."""

    async def inside() -> str:
        engine, client = Triton("unix:/nowhere:1", "m"), Client()
        await engine.aclose()
        engine._client = client
        await engine.load()
        bend(client)
        try:
            await {"load": engine.load, "canary": engine.canary, "embed": lambda: engine.embed(["x"], 1.0)}[call]()
        except WorkerError as error:
            return str(error.reason)
        return ""

    return asyncio.run(inside())


@pytest.mark.parametrize(
    ("call", "member", "value", "expected"),
    [
        ("load", "ready", True, ""),
        ("load", "ready", False, "TritonNotReady"),
        ("load", "config", {**CONFIG, "input": []}, "ModelSchemaUnsupported"),
        ("load", "config", {**CONFIG, "output": [{"name": "EMBEDDING", "data_type": "TYPE_FP32", "dims": []}]}, "ModelSchemaUnsupported"),
        ("embed", "failure", "", ""),
        ("embed", "failure", "StatusCode.DEADLINE_EXCEEDED", "InferenceTimeout"),
        ("embed", "failure", "StatusCode.INTERNAL", "InferenceFailed"),
        ("embed", "vectors", np.zeros((0,), np.float32), "InferenceFailed"),
        ("canary", "failure", "", ""),
        ("canary", "failure", "StatusCode.INTERNAL", "CanaryFailed"),
        ("canary", "vectors", np.full((1, 4), np.nan, np.float32), "CanaryFailed"),
    ],
)
def test_each_way_to_fail(call: str, member: str, value: Any, expected: str) -> None:
    assert asked(lambda client: setattr(client, member, value), call) == expected


def test_no_supervisor(tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        asyncio.run(Orders(tmp_path / "none.sock").order("stop"))
    assert caught.value.reason == "SupervisorUnreachable"
