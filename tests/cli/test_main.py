"""The command line as a program: what the shell sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chrysalis.cli.main import main
from e2e.simtd import eventlog as boot

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_full_disk_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(boot.EVENT_LOG)
    with FULL.open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "chrysalis.cli.main", "eventlog", "replay", str(tmp_path / "log"), "-o", "json"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 2
    assert "No space left on device" in ended.stderr
    assert "what to do:" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [["--help"], ["verify", "--help"], ["gpu", "verify", "-h"], ["--version"]])
def test_help_is_zero(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("words", [["nonsense"], ["verify"], ["gpu"], ["gpu", "verify"], ["eventlog", "replay"], ["--nonsense"]])
def test_usage_is_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
