"""`chrysalis status`: what it shows of a worker and its pods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.client.exceptions import ApiException

from chrysalis.api import names
from chrysalis.cli.main import main
from chrysalis.cli.status import lines, summarise

pytestmark = pytest.mark.slow


def worker(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "embedder", "namespace": "pool", "generation": 2}, "spec": {"replicas": 1}, "status": status}


def condition(kind: str, status: str, reason: str = "Why", message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


POD: dict[str, Any] = {
    "metadata": {"name": "embedder-1", "uid": "u-1", "annotations": {names.ANNOTATION_ADMITTED: "u-1"}},
    "spec": {"nodeName": "n1"},
    "status": {
        "phase": "Running",
        "conditions": [{"type": names.READINESS_ATTESTED, "status": "True"}, {"type": "Ready", "status": "True"}],
    },
}


def test_a_worker_that_is_ready() -> None:
    found = worker(observedGeneration=2, conditions=[condition("Ready", "True"), condition("Stalled", "False")], earned="1.5 TON")
    summary = summarise(found, [POD])
    assert summary["ready"]
    text = "\n".join(lines(summary))
    assert text.startswith("pool/embedder: ready")
    assert "✓ Ready" in text
    assert "✓ Stalled" in text
    assert "admitted  attested=True" in text
    assert "1.5 TON" in text


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (worker(observedGeneration=1, conditions=[condition("Ready", "True")]), "has not looked"),
        (worker(observedGeneration=2, conditions=[condition("Ready", "False", "TcbOutOfDate", "update")]), "TcbOutOfDate"),
        (worker(observedGeneration=2, conditions=[condition("Stalled", "True", "WalletAddressInvalid")]), "✗ Stalled"),
        (worker(), "not ready"),
    ],
)
def test_a_worker_that_is_not(found: dict[str, Any], word: str) -> None:
    summary = summarise(found, [])
    assert not summary["ready"]
    assert word in "\n".join(lines(summary))


def test_a_pod_that_somebody_else_started_stands_out() -> None:
    foreign = {**POD, "metadata": {"name": "x", "uid": "u-2", "annotations": {}}}
    gated = {"metadata": {"name": "y", "uid": "u-3"}, "spec": {"schedulingGates": [{"name": names.GATE_ATTESTATION}]}}
    text = "\n".join(lines(summarise(worker(), [foreign, gated])))
    assert "NOT admitted by the operator" in text
    assert "waits at its gate" in text


def test_no_kubeconfig_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["status", "cw/embedder", "--kubeconfig", str(tmp_path / "absent")])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("ClusterUnusable: ")
    assert "what to do" in said
    assert f"there is no file {tmp_path}/absent" in said


BAD = {
    "none": None,
    "empty": b"",
    "an empty object": b"{}",
    "a list": b"[]",
    "a text": b"kubeconfig",
    "no YAML": b"not: [a kubeconfig",
    "no UTF-8": b"\xff\xfe\x00",
    "another form": b"{current-context: a, contexts: 7, clusters: [], users: []}",
    "no such context": b"{current-context: a, contexts: [], clusters: [], users: []}",
}


@pytest.mark.parametrize("content", list(BAD.values()), ids=list(BAD))
def test_the_refusal_is_all_that_is_said(tmp_path: Path, content: bytes | None) -> None:
    """In a process of its own: the library warns through a logger that nobody has set up there."""
    file = tmp_path / "config"
    if content is not None:
        file.write_bytes(content)
    words = [sys.executable, "-m", "chrysalis.cli.main", "status", "cw/embedder"]
    done = subprocess.run(words, env=os.environ | {"KUBECONFIG": str(file)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "ClusterUnusable: no kubeconfig can be used"
    assert [line for line in lines[1:] if not line.startswith("  ")] == []


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ApiException(status=404), 2, "WorkerNotFound"),
        (ApiException(status=403, reason="Forbidden"), 3, "ClusterUnusable"),
        (OSError("no route"), 3, "ClusterUnusable"),
    ],
)
def test_a_cluster_that_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, reason: str
) -> None:
    async def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr("chrysalis.cli.status._read", refused)
    with pytest.raises(SystemExit) as caught:
        main(["status", "embedder", "-o", "json"])
    (told,) = json.loads(capsys.readouterr().out)["reasons"]
    assert (caught.value.code, told["reason"], bool(told["remedy"])) == (code, reason, True)
