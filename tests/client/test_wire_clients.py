"""The settler's clients on the wire: pinned to one key, bounded, and every failure with a reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chrysalis.wire import settler_client
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.settler import LatestEpoch
from chrysalis.wire.worker_client import WorkerClient


def ask(served: Any, work: Callable[[WorkerClient], Any], pin: bytes | None = None) -> Any:
    async def run() -> Any:
        async with await WorkerClient.connect(served.endpoint, pin or served.worker.spki, lambda: "bearer") as worker:
            return await work(worker)

    return asyncio.run(run())


def test_pages_and_the_list_go_over_the_pinned_key_with_a_bearer(serve: Callable[..., Any]) -> None:
    served = serve()
    page = ask(served, lambda w: w.receipts(6))
    assert (page.wrk, page.receipts, page.last) == (served.worker.wrk, ["a.b.c"], 7)
    ask(served, lambda w: w.put_clients("x.y.z"))
    assert served.worker.requests[0] == "Bearer bearer"
    assert json.loads(served.worker.requests[1])["clients"] == "x.y.z"


def test_another_key_is_not_spoken_to(serve: Callable[..., Any]) -> None:
    served = serve()
    with pytest.raises(WireError) as caught:
        ask(served, lambda w: w.receipts(0), pin=b"p" * 32)
    assert (caught.value.reason, served.worker.requests) == (WireReason.PIN_MISMATCH, [])


@pytest.mark.parametrize(
    ("bends", "reason"),
    [
        ({"status": lambda s: 401}, WireReason.REFUSED_BY_SERVICE),
        ({"page": lambda p: p[:-1]}, WireReason.ANSWER_MALFORMED),
        ({"page": lambda p: p.replace("chrysalis/v1", "chrysalis/v2")}, WireReason.ANSWER_MALFORMED),
        ({"page": lambda p: " " * (8 * 1024 * 1024) + p}, WireReason.ANSWER_TOO_LARGE),
    ],
    ids=["refused", "truncated", "another version", "too large"],
)
def test_an_unusable_answer_has_a_reason(serve: Callable[..., Any], bends: dict[str, Any], reason: WireReason) -> None:
    served = serve()
    served.worker.bends = bends
    with pytest.raises(WireError) as caught:
        ask(served, lambda w: w.receipts(0))
    assert caught.value.reason == reason


def test_a_folder_serves_published_epochs(tmp_path: Path) -> None:
    statement = LatestEpoch(
        set="none", epoch=1, content_hash="0" * 64, root="0" * 64, earned_nanoton="1", fees_nanoton="0", log_root="0" * 64, log_size=1
    )
    (tmp_path / "latest.json").write_text(statement.model_dump_json(by_alias=True))
    source = settler_client.epoch_source(str(tmp_path))
    assert settler_client.latest(source) == statement
    with pytest.raises(WireError) as caught:
        source.read("epochs/1/content.boc")
    assert caught.value.reason == WireReason.SERVICE_UNREACHABLE
    (tmp_path / "latest.json").write_text("{}")
    with pytest.raises(WireError) as caught:
        settler_client.latest(source)
    assert caught.value.reason == WireReason.ANSWER_MALFORMED


def test_a_settler_that_is_not_there_is_unreachable() -> None:
    source = settler_client.epoch_source("http://127.0.0.1:9")
    with pytest.raises(WireError) as caught:
        source.read("latest.json")
    assert caught.value.reason == WireReason.SERVICE_UNREACHABLE
