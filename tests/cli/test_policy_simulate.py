"""`chrysalis policy simulate`: what it prints and how it ends, against an answer of the broker's own form."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from chrysalis.api.policy import SignedPolicy
from chrysalis.cli.main import cli, main
from chrysalis.wire.broker import NamedReason, Problem
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.changes import PolicySimulation, SimulatedChange
from chrysalis.wire.reasons import Refused
from tests.cli.documented import told as documented

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig", "mrconfigid")
POLICY: dict[str, Any] = {
    "apiVersion": "chrysalis.dev/v1alpha1",
    "kind": "AttestationPolicy",
    "metadata": {"name": "workers"},
    "spec": {
        "version": 2,
        "trustRoot": "Intel",
        "tdx": {
            "tcb": {"allowedStatuses": ["UpToDate"]},
            "measurements": [{"name": "m", **{name: "ab" * 48 for name in REGISTERS}}],
            "tdAttributes": {"value": "00" * 8, "mask": "ff" * 8},
            "xfam": {"value": "00" * 8, "mask": "ff" * 8},
        },
    },
}


def report(**changes: Any) -> PolicySimulation:
    members = {"policy_name": "workers", "policy_version": 2, "stored_version": 1, "at": AT, "judged": 3, "complete": True, "keeping": 3}
    return PolicySimulation.model_validate(members | changes)


def change(when: str, *reasons: NamedReason) -> SimulatedChange:
    members = {"result_id": "r", "namespace": "pool", "worker_name": "w", "pod_name": "w-0", "pod_uid": "u", "when": when, "at": AT}
    return SimulatedChange.model_validate(members | {"reasons": list(reasons)})


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    policy, owner = tmp_path / "policy.yaml", tmp_path / "owner.key"
    policy.write_text(yaml.safe_dump(POLICY))
    assert CliRunner().invoke(cli, ["keys", "new-owner", str(owner)]).exit_code == 0
    return policy, owner


def run(files: tuple[Path, Path], *more: str) -> Result:
    policy, owner = files
    arguments = ["policy", "simulate", "-f", str(policy), "--broker", "https://broker:8443", "--pin", "00" * 32, "--owner-key", str(owner)]
    return CliRunner().invoke(cli, [*arguments, *more], standalone_mode=False)


def answer(monkeypatch: pytest.MonkeyPatch, result: PolicySimulation | Refused) -> list[SignedPolicy]:
    asked: list[SignedPolicy] = []

    async def simulate(client: BrokerClient, policy: SignedPolicy) -> PolicySimulation:
        assert client._token is not None
        assert client._token()
        asked.append(policy)
        if isinstance(result, Refused):
            raise result
        return result

    monkeypatch.setattr(BrokerClient, "simulate", simulate)
    return asked


def test_nobody_loses(monkeypatch: pytest.MonkeyPatch, files: tuple[Path, Path]) -> None:
    asked = answer(monkeypatch, report())
    found = run(files)
    assert found.return_value == 0
    assert "3 keep their admission, 0 lose it" in found.output
    assert (asked[0].name, asked[0].spec.version) == ("workers", 2)


def test_somebody_loses(monkeypatch: pytest.MonkeyPatch, files: tuple[Path, Path]) -> None:
    reason = NamedReason(reason="TcbOutOfDate", message="the platform is out of date", remedy="update it")
    losing = [change("Immediately", reason), change("AtExpiry", reason)]
    answer(monkeypatch, report(losing=losing, gaining=[change("Immediately")], keeping=0))
    found = run(files)
    assert found.return_value == 1
    for words in ("pool/w pod w-0 at once", "at 2026-11-01T12:00:00Z, when its result ends", "TcbOutOfDate", "update it", "gains: pool/w"):
        assert words in found.output
    as_json = run(files, "-o", "json")
    assert as_json.return_value == 1
    assert documented(json.loads(as_json.output), "policy simulate")
    assert json.loads(as_json.output)["losing"][0]["reasons"][0]["reason"] == "TcbOutOfDate"


@pytest.mark.parametrize("changes", [{"unjudged": ["r9"]}, {"complete": False}])
def test_an_unfinished_answer_is_no_yes(monkeypatch: pytest.MonkeyPatch, files: tuple[Path, Path], changes: dict[str, Any]) -> None:
    answer(monkeypatch, report(**changes))
    assert run(files).return_value == 1


def test_a_refusal_says_why(monkeypatch: pytest.MonkeyPatch, files: tuple[Path, Path]) -> None:
    reason = NamedReason(reason="CallerUnauthenticated", message="no", remedy="be an owner")
    answer(monkeypatch, Refused(Problem(title="t", status=401, reason=reason.reason, reasons=[reason])))
    found = run(files)
    assert found.return_value == 1
    assert "CallerUnauthenticated" in found.stderr


@pytest.mark.parametrize("text", ["{", "kind: Pod", "apiVersion: chrysalis.dev/v1alpha1\nkind: AttestationPolicy\nspec: {}"])
def test_unreadable_input(files: tuple[Path, Path], text: str) -> None:
    policy, owner = files
    policy.write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["policy", "simulate", "-f", str(policy), "--broker", "https://b", "--pin", "00" * 32, "--owner-key", str(owner)])
    assert caught.value.code == 2
