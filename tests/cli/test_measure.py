"""`chrysalis measure`: prints what the operator will render; unreadable input is exit 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from chrysalis.api.account import SettlementAccountSpec
from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.cli.main import main
from chrysalis.rendering import render
from tests.cli.documented import told as documented

ACCOUNT: dict[str, Any] = {
    "apiVersion": "chrysalis.dev/v1alpha1",
    "kind": "SettlementAccount",
    "metadata": {"name": "pool", "namespace": "pool"},
    "spec": {
        "funding": "OwnerFunded",
        "globalId": -217,
        "contract": "0:" + "c0" * 32,
        "liteservers": [{"host": "192.0.2.7", "port": 4443, "key": "1a" * 32}],
        "reservationKeys": ["2b" * 32],
    },
}
WORKER: dict[str, Any] = {
    "apiVersion": "chrysalis.dev/v1alpha1",
    "kind": "ConfidentialWorker",
    "metadata": {"name": "embedder", "namespace": "pool"},
    "spec": {
        "runtimeClassName": "chrysalis-simtd",
        "image": "registry.example/chrysalis-worker@sha256:" + "11" * 32,
        "model": {
            "name": "minilm",
            "package": {"url": "http://packages.example/minilm.age", "digest": "sha256:" + "22" * 32, "sizeBytes": 1},
            "digest": "sha256:" + "33" * 32,
            "keyId": "minilm-key",
        },
        "policyRef": {"name": "minilm-policy"},
        "broker": {"url": "https://broker.example:8443", "spkiSha256": "ab" * 32, "earKey": "cd" * 32},
        "settlementAccountRef": {"name": "pool"},
        "payout": {"wallet": "UQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJKZ"},
    },
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / f"{name}.yaml" for name in ("worker", "account", "both")}
    found["worker"].write_text(yaml.safe_dump(WORKER))
    found["account"].write_text(json.dumps(ACCOUNT))
    found["both"].write_text(yaml.safe_dump_all([WORKER, ACCOUNT]))
    found["firmware"] = tmp_path / "firmware.json"
    found["firmware"].write_text(json.dumps({key: "aa" * 48 for key in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam")}))
    return found


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["measure", *(str(a) for a in arguments)])
    return int(caught.value.code or 0)


def test_it_prints_what_the_operator_renders(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-f", files["worker"], "-f", files["account"], "-o", "json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert documented(printed, "measure")
    spec, account = ConfidentialWorkerSpec.model_validate(WORKER["spec"]), SettlementAccountSpec.model_validate(ACCOUNT["spec"])
    rendered = render("embedder", "pool", spec, account)
    assert printed["mrconfigid"] == rendered.mrconfigid.hex()
    assert printed["policyDigest"] == rendered.policy_digest
    assert printed["wallet"] == "0:" + "00" * 32
    assert run("-f", files["both"], "-o", "initdata") == 0
    assert capsys.readouterr().out.encode() == rendered.toml


@pytest.mark.parametrize(("judge", "member"), [("exact", "mrconfigid"), ("rule", "initdata")])
def test_it_prints_an_entry_for_a_policy(files: dict[str, Path], capsys: pytest.CaptureFixture[str], judge: str, member: str) -> None:
    assert run("-f", files["both"], "-o", "policy", "--firmware", files["firmware"], "--judge", judge) == 0
    (entry,) = yaml.safe_load(capsys.readouterr().out)
    assert member in entry
    assert entry["mrtd"] == "aa" * 48


def broken(tmp_path: Path, **members: Any) -> Path:
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump_all([{**WORKER, "spec": {**WORKER["spec"], **members}}, ACCOUNT]))
    return path


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"payout": {"wallet": "UQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJKA"}}, "WalletAddressInvalid"),
        ({"image": "registry.example/chrysalis-worker:1"}, "spec.image"),
        ({"prices": {"prompt": -1}}, "spec.prices.prompt"),
        ({"colour": "red"}, "spec.colour"),
        ({"payout": None}, "spec.payout.wallet"),
        ({"settlementAccountRef": {"name": "other"}}, "AccountNotFound"),
    ],
)
def test_bad_input_is_exit_2_with_a_reason(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], members: dict[str, Any], word: str
) -> None:
    assert run("-f", broken(tmp_path, **members)) == 2
    assert word in capsys.readouterr().err
    assert run("-f", broken(tmp_path)) == 0  # the twin


def test_unreadable_files_are_exit_2(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"kind: Nothing")
    assert run("-f", bad) == 2
    assert capsys.readouterr().err.startswith("ManifestInvalid: ")
    for content in (b"\xff\xfe", b"{", b"[[[[", b"a: b: c", b"", b"5", b"9" * 5000, b"x" * (5 << 20)):
        bad.write_bytes(content)
        assert run("-f", bad) == 2
    assert run("-f", tmp_path / "absent") == 2
    assert run("-f", files["both"], "-o", "policy") == 2
    assert "Traceback" not in capsys.readouterr().err
