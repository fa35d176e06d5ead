"""seal, unseal, inspect, keys and policy, as an owner uses them: from a model to a key at a real broker process."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from chrysalis.api.policy import Envelope
from chrysalis.attestation.policy_file import read_policy
from chrysalis.cli.main import cli, main
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_POLICY
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.broker_views import KeyRecordView
from e2e.mortal import mortal
from e2e.ports import free_port
from e2e.simtd.pki import SimulatedPlatform
from tests.cli.documented import told as documented

pytestmark = pytest.mark.slow

POLICY: dict[str, Any] = {
    "apiVersion": "chrysalis.dev/v1alpha1",
    "kind": "AttestationPolicy",
    "metadata": {"name": "workers", "namespace": "pool"},
    "spec": {
        "version": 1,
        "trustRoot": "Intel",
        "tdx": {
            "tcb": {"allowedStatuses": ["UpToDate"]},
            "measurements": [
                {
                    "name": "m",
                    **{name: "ab" * 48 for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")},
                    "mrconfigid": "ab" * 48,
                }
            ],
            "tdAttributes": {"value": "0000001000000000", "mask": "ff" * 8},
            "xfam": {"value": "00" * 8, "mask": "ff" * 8},
        },
    },
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


def code(*arguments: str | Path) -> int:
    """The exit code of the whole program."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "config.pbtxt").write_text("name: 'm'")
    (root / "m" / "1" / "weights").write_bytes(bytes(100_000))
    return root


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(POLICY))
    return path


def test_a_model_goes_in_and_comes_out(tmp_path: Path, model: Path) -> None:
    sealed = run("seal", model, "-o", tmp_path / "m.age", "--identity-out", tmp_path / "m.key", "-o", "json")
    facts = json.loads(sealed.output)
    assert (tmp_path / "m.key").stat().st_mode & 0o077 == 0
    seen = json.loads(run("inspect", tmp_path / "m.age", "-o", "json").output)
    assert (seen["packageDigest"], seen["sizeBytes"]) == (facts["packageDigest"], facts["sizeBytes"])
    opened = run("unseal", tmp_path / "m.age", "--identity", tmp_path / "m.key", "--digest", facts["modelDigest"], "-o", tmp_path / "out")
    assert opened.exception is None
    assert (tmp_path / "out/m/1/weights").read_bytes() == bytes(100_000)


def test_seal_shows_what_the_worker_needs(tmp_path: Path, model: Path) -> None:
    output = run("seal", model, "-o", tmp_path / "m.age", "--identity-out", tmp_path / "m.key").output
    assert "sizeBytes" in output
    assert "AGE-SECRET-KEY" not in output


def test_seal_overwrites_no_key_and_leaves_none_behind(tmp_path: Path, model: Path) -> None:
    (tmp_path / "m.key").write_text("precious")
    assert code("seal", model, "-o", tmp_path / "m.age", "--identity-out", tmp_path / "m.key") == 2
    assert (tmp_path / "m.key").read_text() == "precious"
    (model / "link").symlink_to("m")
    assert code("seal", model, "-o", tmp_path / "m.age", "--identity-out", tmp_path / "n.key") == 2
    assert not (tmp_path / "n.key").exists()
    assert code("seal", model, "--identity-out", tmp_path / "n.key", "-o", "json") == 2


@pytest.mark.parametrize("change", ["flip", "truncate", "digest", "key"])
def test_unseal_refuses_and_leaves_nothing(tmp_path: Path, model: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(run("seal", model, "-o", tmp_path / "m.age", "--identity-out", tmp_path / "m.key", "-o", "json").output)
    run("seal", model, "-o", tmp_path / "other.age", "--identity-out", tmp_path / "other.key")
    data = bytearray((tmp_path / "m.age").read_bytes())
    if change == "flip":
        data[5000] ^= 1
    (tmp_path / "m.age").write_bytes(data[:-1] if change == "truncate" else data)
    key = tmp_path / ("other.key" if change == "key" else "m.key")
    digest = "sha256:" + "0" * 64 if change == "digest" else facts["modelDigest"]
    assert code("unseal", tmp_path / "m.age", "--identity", key, "--digest", digest, "-o", tmp_path / "out") == 2
    reason = {"digest": "ModelDigestMismatch", "key": "PackageKeyWrong"}.get(change, "PackageDamaged")
    assert reason in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_an_owner_signs_a_policy(tmp_path: Path, policy: Path) -> None:
    public = run("keys", "new-owner", tmp_path / "owner").output.strip()
    assert run("keys", "show-owner", tmp_path / "owner").output.strip() == public
    assert (tmp_path / "owner").stat().st_mode & 0o077 == 0
    assert code("keys", "new-owner", tmp_path / "owner") == 2  # never overwritten
    signed = run("policy", "sign", "-f", policy, "--owner-key", tmp_path / "owner").output
    resource = yaml.safe_load(signed)
    assert resource["spec"]["ownerPublicKey"] == public
    assert resource["metadata"] == POLICY["metadata"]
    read_policy(signed.encode())  # the readable copy is that of the envelope
    assert json.loads(run("policy", "sign", "-f", policy, "--owner-key", tmp_path / "owner", "-o", "json").output) == resource
    assert json.loads(run("keys", "show-owner", tmp_path / "owner", "-o", "json").output) == {
        "schemaVersion": "chrysalis/v1",
        "ownerPublicKey": public,
    }
    envelope = Envelope.model_validate(resource["spec"]["envelope"])
    payload = json.loads(dsse.verify(envelope, PAYLOAD_POLICY, [bytes.fromhex(public)]).payload)
    assert (payload["name"], payload["spec"]["version"]) == ("workers", 1)
    (tmp_path / "signed.yaml").write_text(signed)
    again = yaml.safe_load(run("policy", "sign", "-f", tmp_path / "signed.yaml", "--owner-key", tmp_path / "owner").output)
    assert again == resource  # signing a signed policy changes nothing
    resource["spec"]["version"] = 2
    with pytest.raises(Exception, match="differs"):
        read_policy(yaml.safe_dump(resource).encode())
    assert base64.b64decode(envelope.payload)


@pytest.mark.parametrize(
    ("path", "value", "exit_code", "line"),
    [
        (["spec", "tdx", "measurements"], [], 1, "measurements is empty"),
        (["spec", "isolation"], [], 1, "isolation is empty"),
        (["spec", "tdx", "fmspcs"], [], 1, "fmspcs is empty"),
        (["spec", "isolation"], ["PodTD", "NodeTD"], 0, "NodeTD"),
        (["spec", "tdx", "tcb", "allowedStatuses"], ["UpToDate", "OutOfDate"], 0, "OutOfDate"),
        (["spec", "tdx", "xfam", "mask"], "00" * 8, 0, "mask leaves bits open"),
        (["spec", "trustRoot"], {"der": base64.b64encode(SimulatedPlatform.create().root_der).decode()}, 0, "simulated"),
        (["spec", "trustRoot"], {"der": "AAAA"}, 1, "nothing chains to it"),
        (["spec", "tdx", "tdAttributes", "value"], "00" * 8, 1, "SEPT_VE_DISABLE off"),
        (["spec", "freshness"], {"maxResultAgeSeconds": 90_000}, 0, "90000 s"),
        (["spec", "version"], 1, 0, "ppids is absent"),
    ],
)
def test_lint(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: list[str], value: Any, exit_code: int, line: str) -> None:
    document = json.loads(json.dumps(POLICY))
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    assert code("policy", "lint", "-f", tmp_path / "p.yaml") == exit_code
    shown = capsys.readouterr().out
    assert line in shown
    assert shown.startswith("not usable  (" if exit_code else "usable  (")
    assert code("policy", "lint", "--strict", "-f", tmp_path / "p.yaml") == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "kind: AttestationPolicy",
        yaml.safe_dump(POLICY | {"spec": {"version": 1}}),
        yaml.safe_dump(POLICY | {"metadata": {}}),
    ],
)
def test_what_is_no_policy(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    assert code("policy", "lint", "-f", tmp_path / "p.yaml") == 2


class Broker:
    """A broker process of its own."""

    def __init__(self, folder: Path, owner: str) -> None:
        ports = [free_port() for _ in range(3)]
        self.folder, self.url = folder, f"https://127.0.0.1:{ports[0]}"
        settings = {
            "stateDir": str(folder / "state"),
            "placement": "Development",
            "host": "127.0.0.1",
            **dict(zip(("port", "healthPort", "metricsPort"), ports, strict=True)),
            "tenants": [{"name": "acme", "owners": [owner]}],
        }
        (folder / "broker.yaml").write_text(yaml.safe_dump(settings))
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(mortal(sys.executable, "-m", "chrysalis.broker.main", "--config", self.folder / "broker.yaml"))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            if run("keys", "pin", self.url).return_value == 0:
                return
            time.sleep(0.1)
        raise AssertionError("the broker did not start")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        os.kill(self.process.pid, how)
        return self.process.wait(60)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    owner = run("keys", "new-owner", tmp_path / "owner").output.strip()
    server = Broker(tmp_path, owner)
    yield server
    if server.process.poll() is None:
        server.stop()


@pytest.mark.parametrize("first", [True, False])
def test_who_comes_second_with_an_id_and_model_is_told(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    async def put_key(_: BrokerClient, key_id: str, envelope: Any) -> None:
        assert key_id == "minilm"

    async def key(_: BrokerClient, key_id: str, *, owner: str = "") -> KeyRecordView:
        members = {"key_id": key_id, "model_digest": facts["modelDigest"], "owner_public_key": owner, "policy_name": "workers"}
        return KeyRecordView.model_validate(members | {"meant_without_owner": first})

    monkeypatch.setattr(BrokerClient, "put_key", put_key)
    monkeypatch.setattr(BrokerClient, "key", key)
    owner = run("keys", "new-owner", tmp_path / "owner").output.strip()
    facts = json.loads(run("seal", model, "-o", tmp_path / "m.age", "--identity-out", tmp_path / "m.key", "-o", "json").output)
    record = tmp_path / "record.yaml"
    record.write_text(yaml.safe_dump({"keyId": "minilm", "modelDigest": facts["modelDigest"], "policyName": "workers"}))
    put = ("keys", "put", "--broker", "https://broker:8443", "--pin", "00" * 32, "--record", record, "--owner-key", tmp_path / "owner")
    assert (f"spec.model.keyOwner: {owner}" in run(*put, "--identity", tmp_path / "m.key").stdout) is not first
    told = json.loads(run(*put, "--identity", tmp_path / "m.key", "-o", "json").stdout)
    assert documented(told, "keys put")
    assert told["keyOwnerNeeded"] is not first


def test_storing_at_a_broker_survives_its_kill(tmp_path: Path, model: Path, policy: Path, broker: Broker, capsys: Any) -> None:
    pin = yaml.safe_load(run("keys", "pin", broker.url).output)
    assert pin["url"] == broker.url
    facts = json.loads(run("seal", model, "-o", tmp_path / "m.age", "--identity-out", tmp_path / "m.key", "-o", "json").output)
    record = tmp_path / "record.yaml"
    record.write_text(yaml.safe_dump({"keyId": "minilm", "modelDigest": facts["modelDigest"], "policyName": "workers"}))
    put_key = ("keys", "put", "--broker", broker.url, "--pin", pin["spkiSha256"], "--record", record, "--owner-key", tmp_path / "owner")
    put_policy = ("policy", "sign", "-f", policy, "--put", broker.url, "--pin", pin["spkiSha256"])
    assert code(*put_policy, "--owner-key", tmp_path / "owner") == 0
    stored = json.loads(run(*put_key, "--identity", tmp_path / "m.key", "-o", "json").stdout)
    assert documented(stored, "keys put")

    assert broker.stop(signal.SIGKILL) == -signal.SIGKILL
    broker.start()
    assert yaml.safe_load(run("keys", "pin", broker.url).output) == pin
    assert code(*put_key, "--identity", tmp_path / "m.key") == 0  # the same again
    capsys.readouterr()
    run("keys", "new-owner", tmp_path / "stranger")
    assert code(*put_policy, "--owner-key", tmp_path / "stranger") == 1
    assert "OwnerNotAllowed" in capsys.readouterr().err
    changed = yaml.safe_load(record.read_text()) | {"evidenceClass": ["Simulated"]}
    record.write_text(yaml.safe_dump(changed))
    assert code(*put_key, "--identity", tmp_path / "m.key") == 1  # a change needs a higher version
    assert "VersionNotHigher" in capsys.readouterr().err
    record.write_text(yaml.safe_dump(changed | {"version": 2}))
    assert code(*put_key, "--identity", tmp_path / "m.key") == 0
    record.write_text(yaml.safe_dump(changed | {"key": "x"}))
    assert code(*put_key, "--identity", tmp_path / "m.key") == 2
    wrong = ["00" * 32 if argument == pin["spkiSha256"] else argument for argument in put_key]
    assert code(*wrong, "--identity", tmp_path / "m.key") == 2  # the record is read first
    record.write_text(yaml.safe_dump(changed))
    assert code(*wrong, "--identity", tmp_path / "m.key") == 3
    assert "PinMismatch" in capsys.readouterr().err
    assert broker.stop() == 0
    assert code("keys", "pin", broker.url) == 3
