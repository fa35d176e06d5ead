"""The configuration file: unknown keys and unreadable files are refused with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from chrysalis.controller.main import main
from chrysalis.controller.reasons import ControllerError
from chrysalis.controller.settings import load

GOOD = "broker: {url: 'https://broker:8443'}\nlease: {namespace: system}\n"


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "controller.yaml"
    path.write_text(GOOD)
    settings = load(path)
    assert (settings.health_port, settings.metrics_port, settings.lease.name) == (8081, 9090, "chrysalis-operator")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", GOOD + "colour: red\n", "broker: {url: ftp://x}\nlease: {namespace: s}", GOOD + "concurrency: 0\n"]
)
def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "controller.yaml"
    path.write_text(text)
    with pytest.raises(ControllerError) as caught:
        load(path)
    assert caught.value.reason == "SettingsInvalid"
    assert main(["--config", str(path)]) == 2
    assert "what to do" in capsys.readouterr().err


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ControllerError):
        load(tmp_path / "absent.yaml")
