"""schemathesis against the OpenAPI document, in the process: whatever is sent, the answer is a documented one, soon, and small."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from chrysalis.broker import openapi
from tests.stopwatch import Stopwatch

World = Any
EXAMPLES = int(os.environ.get("CHRYSALIS_FUZZ_EXAMPLES", "12"))
SEED = int(os.environ.get("SEED") or 20261122)
MAX_SECONDS = 1.0
MAX_GROWTH_KIB = 50 * 1024
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
CASES = [
    pytest.param(operation, mode, id=f"{operation.name}-{mode.value}")
    for operation in openapi.OPERATIONS
    for mode in GenerationMode
    if operation.name != "openapi"  # where schemathesis reads it from
    # what takes no input cannot be given a wrong one
    if mode is GenerationMode.POSITIVE or operation.body or operation.query or "{" in operation.path
]


@pytest.mark.fuzz
@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_every_answer_is_a_documented_one(world: World, operation: openapi.Operation, mode: GenerationMode) -> None:
    world.attest(world.domain(world.acme))  # there is something to find
    schema = schemathesis.openapi.from_asgi("/v1/openapi.json", world.http.app)
    described = next(found.ok() for found in schema.get_all_operations() if found.ok().definition.raw.get("operationId") == operation.name)
    slowest, growth = 0.0, 0

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=described.as_strategy(mode), bearer=st.sampled_from([None, "owner", "x"]))
    def check(case: Any, bearer: str | None) -> None:
        nonlocal slowest, growth
        token = world.token(world.acme) if bearer == "owner" else bearer  # a new one: each is good for one change
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        _ends(case)
        held = _reset_peak()
        with Stopwatch() as taken:
            worked = time.process_time()
            answer = case.call(headers=headers)
            worked = time.process_time() - worked
        slowest = max(slowest, taken.seconds, worked - taken.stolen)
        growth = max(growth, _memory("VmHWM") - held)
        case.validate_response(answer, checks=CHECKS)
        assert "Traceback" not in answer.text

    check()
    assert slowest < MAX_SECONDS
    assert growth < MAX_GROWTH_KIB


def _reset_peak() -> int:
    """Let the process's peak of memory begin anew (proc(5), clear_refs); returns what it holds now in KiB.

    Only so the broker's part can be told from what making the examples takes.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(name + ":")))


def _ends(case: Any) -> None:
    """A watch is meant not to end; every other request is."""
    query = case.query or {}
    if query.get("watch") == "true":
        del query["watch"]
    if str(query.get("wait", "0")).isdigit():
        query.pop("wait", None)
