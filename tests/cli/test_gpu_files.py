"""`chrysalis gpu verify` with files that cannot be used: exit 2 and the reason, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chrysalis.cli.main import main
from e2e.simtd.gpu import SimulatedGpus


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["missing"], "GpuFileUnreadable"),
        (["report", "--rules", "junk"], "GpuRulesUnreadable"),
        (["report", "--root", "junk"], "GpuRootUnreadable"),
        (["raw", "--chain", "junk"], "GpuChainUnreadable"),
        (["raw", "--chain", "empty"], "GpuChainUnreadable"),
    ],
)
def test_unusable_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    vendor = SimulatedGpus.create()
    (tmp_path / "report").write_text(json.dumps([vendor.device().evidence(bytes(32))]))
    (tmp_path / "junk").write_bytes(b"a: [")
    (tmp_path / "raw").write_bytes(vendor.device().report(bytes(32)))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "root").write_bytes(vendor.root_der)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["gpu", "verify", *words])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert "Traceback" not in captured.err
    with pytest.raises(SystemExit) as ended:  # the twin
        main(["gpu", "verify", "report", "--root", "root", "--at", "2026-11-01T12:00:00Z"])
    assert ended.value.code in (0, 1)
