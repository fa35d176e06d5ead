"""What docs/broker-keys.md says to type after a rollback is what e2e/replicas types, and each part of it exists."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from chrysalis.cli.main import main
from e2e.replicas.rollback import commands

ROOT = Path(__file__).resolve().parents[2]


def test_the_lines_name_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    accept, delete, restart = commands()
    assert all(words[:3] == ["kubectl", "-n", "chrysalis-system"] for words in (accept, delete, restart))
    assert accept[3:5] == ["debug", "POD"]
    verb = accept[accept.index("--") + 1 :]
    chart = (ROOT / "helm" / "chrysalis" / "templates" / "broker.yaml").read_text()
    assert f"command: [{verb[0]}, " in chart
    assert (verb[1:3], f"- name: {accept[accept.index('-c') + 1]}\n" in chart) == (["-m", "chrysalis.cli.main"], True)
    with pytest.raises(SystemExit) as ended:
        main([*verb[3:-1], yaml.safe_load(verb[-1]), "--help"])
    assert (ended.value.code, "accept-rollback" in capsys.readouterr().out) == (0, True)
    assert f"--copy-to={delete[5]}" in accept
    assert restart[3:] == ["rollout", "restart", "deployment/chrysalis-broker"]
    assert "kind: Deployment\nmetadata:\n  name: chrysalis-broker\n" in chart
