"""`chrysalis broker …` and `chrysalis keys recover` on a broker's configuration, as an administrator types them."""

from __future__ import annotations

import importlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyrage import x25519

from chrysalis.broker import settings
from chrysalis.broker.main import assemble
from chrysalis.broker.reasons import BrokerError
from chrysalis.cli.main import main
from chrysalis.clock import SystemClock
from chrysalis.errors import ChrysalisError
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, KeyRecord
from tests.broker.conftest import brokers_end  # noqa: F401 - a fixture
from tests.cli.documented import told as documented

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return int(caught.value.code or 0), output.out, output.err

    return go


class Broker:
    """A broker's configuration and state, with one stored key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner = Ed25519PrivateKey.generate()
        self.recovery = x25519.Identity.generate()
        self.model_key = str(x25519.Identity.generate())
        (folder / "root").write_text("ab" * 32)
        (folder / "elsewhere").mkdir()
        self.public = self.owner.public_key().public_bytes_raw().hex()
        tenant = {"name": "acme", "owners": [self.public], "namespaces": ["pool"]}
        self.members: dict[str, Any] = {
            "stateDir": str(folder / "state"),
            "placement": "Development",
            "rootKeyFile": str(folder / "root"),
            "tenants": [tenant],
            "anchor": {"file": str(folder / "elsewhere" / "anchor.json")},
        }
        self.config = self.write()
        self.put(1)

    def write(self, name: str = "broker.yaml", **changes: Any) -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(self.members | changes))
        return path

    def put(self, version: int) -> None:
        deps = assemble(settings.load(self.config), clock=SystemClock())
        record = KeyRecord(
            key_id="minilm",
            model_digest="sha256:" + "1" * 64,
            owner_public_key=self.public,
            policy_name="p",
            key=self.model_key,
            version=version,
            recovery_recipients=[str(self.recovery.to_public())],
        )
        deps.records.put_key("minilm", dsse.sign(PAYLOAD_KEY_RECORD, record.model_dump_json(by_alias=True).encode(), self.owner))
        self.ear_key = deps.keys.ear_public.hex()
        deps.store.close()

    def start(self, config: Path | None = None) -> None:
        assemble(settings.load(config or self.config), clock=SystemClock()).store.close()


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    return Broker(tmp_path)


def test_backup_and_restore(run: Run, broker: Broker, tmp_path: Path) -> None:
    code, out, _ = run("broker", "backup", tmp_path / "b.tar", "--config", broker.config, "-o", "json")
    made = json.loads(out)
    assert documented(made, "broker backup")
    assert run("broker", "backup", tmp_path / "b.tar", "--config", broker.config)[0] == 2, "never over what is there"
    empty = broker.write("empty.yaml", stateDir=str(tmp_path / "empty"))
    ended, _, err = run("broker", "restore", tmp_path / "missing", "--config", empty, "--ear-key", broker.ear_key)
    assert (ended, err.split(":")[0]) == (2, "BackupFileUnusable")
    assert (code, made["outcome"], made["anchor"], made["rows"]["key_records"]) == (0, "Done", broker.ear_key, 1)
    new = broker.write("new.yaml", stateDir=str(tmp_path / "new"))
    code, _, err = run("broker", "restore", tmp_path / "b.tar", "--config", new)
    assert code == 2, "without the pinned key"
    assert "--ear-key" in err
    code, out, _ = run("broker", "restore", tmp_path / "b.tar", "--config", new, "--ear-key", "00" * 32, "-o", "json")
    assert (code, json.loads(out)["reasons"][0]["reason"]) == (1, "BackupInvalid")
    code, _, err = run("broker", "restore", tmp_path / "b.tar", "--config", new, "--ear-key", broker.ear_key)
    assert (code, err) == (0, "")
    broker.start(new)
    code, out, _ = run("broker", "restore", tmp_path / "b.tar", "--config", new, "-o", "json")
    assert (code, json.loads(out)["reasons"][0]["reason"]) == (1, "StateNotEmpty")


def test_a_restored_older_state_is_accepted_explicitly(run: Run, broker: Broker, tmp_path: Path) -> None:
    run("broker", "backup", tmp_path / "b.tar", "--config", broker.config)
    broker.put(2)
    broker.start()  # the anchor follows
    new = broker.write("new.yaml", stateDir=str(tmp_path / "new"))
    assert run("broker", "restore", tmp_path / "b.tar", "--config", new, "--ear-key", broker.ear_key)[0] == 0
    with pytest.raises(BrokerError) as caught:
        broker.start(new)
    assert caught.value.reason == "StateRolledBack"
    assert "accept-rollback" in caught.value.remedy
    assert run("broker", "accept-rollback", "--config", new)[0] == 2, "a reason is asked for"
    code, out, _ = run("broker", "accept-rollback", "--config", new, "--reason", "the disk is lost", "-o", "json")
    assert code == 0
    assert documented(json.loads(out), "broker accept-rollback")
    assert any("/minilm has version 1; version 2" in line for line in json.loads(out)["accepted"])
    broker.start(new)
    assert json.loads(run("broker", "accept-rollback", "--config", new, "--reason", "x", "-o", "json")[1])["accepted"] == []


def test_rotate_root(run: Run, broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "new-root").write_text("cd" * 32)
    previous = [{"kind": "RootKey", "file": str(tmp_path / "root")}]
    without = broker.write("without.yaml", rootKeyFile=str(tmp_path / "new-root"))
    code, out, _ = run("broker", "rotate-root", "--config", without, "-o", "json")
    assert (code, json.loads(out)["reasons"][0]["reason"]) == (1, "StateUnusable")
    both = broker.write("both.yaml", rootKeyFile=str(tmp_path / "new-root"), previousKeyEncryption=previous)
    code, out, _ = run("broker", "rotate-root", "--config", both, "-o", "json")
    assert documented(json.loads(out), "broker rotate-root")
    assert (code, json.loads(out)["sealedAgain"], json.loads(out)["left"]) == (0, 1, 0)
    assert "0 values sealed again" in run("broker", "rotate-root", "--config", both)[1]
    broker.start(without)


def test_recall_ear_key(run: Run, broker: Broker) -> None:
    first = json.loads(run("broker", "rotate-ear-key", "--config", broker.config, "-o", "json")[1])["kid"]
    assert run("broker", "recall-ear-key", "--config", broker.config)[0] == 2, "a reason is asked for"
    recall = ("broker", "recall-ear-key", "--config", broker.config, "--reason", "stolen")
    code, out, _ = run(*recall, "-o", "json")
    assert documented(json.loads(out), "broker recall-ear-key")
    assert (code, json.loads(out)) == (0, {"schemaVersion": "chrysalis/v1", "outcome": "Done", "kids": [first], "ended": 0})
    assert "nothing was changed" in run(*recall, "--kid", first)[1]
    assert len(json.loads(run(*recall, "--all", "-o", "json")[1])["kids"]) == 3  # the old one, the one that signs, the next
    assert run(*recall, "--all", "--kid", first)[0] == 2
    assert run(*recall, "--kid", "short")[0] == 2


def test_audit_verify(run: Run, broker: Broker) -> None:
    code, out, _ = run("broker", "audit-verify", "--config", broker.config, "-o", "json")
    assert documented(json.loads(out), "broker audit-verify")
    assert (code, json.loads(out)["seq"]) == (0, 2)  # the anchor begins; the key
    with sqlite3.connect(broker.folder / "state" / "broker.db") as db:
        db.execute("DROP TRIGGER audit_no_update")
        db.execute("UPDATE audit SET document = '{}' WHERE seq = 1")
    code, out, _ = run("broker", "audit-verify", "--config", broker.config, "-o", "json")
    assert (code, json.loads(out)["reasons"][0]["reason"]) == (1, "AuditBroken")


def test_a_lost_anchor_is_accepted(run: Run, broker: Broker) -> None:
    (broker.folder / "elsewhere" / "anchor.json").write_text("x")
    accept = ("broker", "accept-rollback", "--config", broker.config, "--reason", "the volume is lost", "-o", "json")
    with pytest.raises(BrokerError, match="AnchorInvalid"):
        broker.start()
    assert len(json.loads(run(*accept)[1])["accepted"]) == 1
    broker.start()
    assert json.loads(run(*accept)[1])["accepted"] == []


def test_rotate_ear_key(run: Run, broker: Broker) -> None:
    kids = [json.loads(run("broker", "rotate-ear-key", "--config", broker.config, "-o", "json")[1])["kid"] for _ in range(2)]
    assert kids[0] != kids[1]


def test_a_key_service_that_is_down(run: Run, broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    vault = {"kind": "Vault", "url": "http://127.0.0.1:1", "key": "k", "tokenFile": str(tmp_path / "token"), "attempts": 1}
    config = broker.write("vault.yaml", keyEncryption=vault, previousKeyEncryption=[{"kind": "RootKey", "file": str(tmp_path / "root")}])
    code, out, _ = run("broker", "rotate-root", "--config", config, "-o", "json")
    assert (code, json.loads(out)["reasons"][0]["reason"]) == (3, "KeyServiceUnavailable")


def test_a_configuration_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("placement: Nowhere")
    for verb in (
        ["backup", tmp_path / "b"],
        ["rotate-root"],
        ["rotate-ear-key"],
        ["recall-ear-key", "--reason", "r"],
        ["audit-verify"],
        ["accept-rollback", "--reason", "r"],
        ["restore", tmp_path],
    ):
        code, _, err = run("broker", *verb, "--config", tmp_path / "c.yaml")
        assert code == 2
        assert "SettingsInvalid" in err


@pytest.mark.parametrize("name", ["controller", "broker", "settlement"])
@pytest.mark.parametrize("content", [b"[" * 5000, b"9" * 5000, b"\xff", b"", "endless"], ids=["deep", "long", "binary", "empty", "endless"])
def test_settings_that_are_hostile(tmp_path: Path, name: str, content: bytes | str) -> None:
    path = Path("/dev/zero") if content == "endless" else tmp_path / "settings.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ChrysalisError) as refused:
        importlib.import_module(f"chrysalis.{name}.settings").load(path)
    assert refused.value.reason == "SettingsInvalid"
    assert refused.value.remedy


def test_keys_recover(run: Run, broker: Broker, tmp_path: Path) -> None:
    run("broker", "backup", tmp_path / "b.tar", "--config", broker.config)
    (tmp_path / "id").write_text(f"# public key: {broker.recovery.to_public()}\n{broker.recovery}\n")
    arguments = ["keys", "recover", tmp_path / "b.tar", "--identity", tmp_path / "id", "--ear-key", broker.ear_key]
    code, out, _ = run(*arguments, "--out", tmp_path / "mine", "-o", "json")
    assert code == 0
    assert documented(json.loads(out), "keys recover")
    assert json.loads(out)["keys"] == [{"keyId": "minilm", "version": 1, "modelDigest": "sha256:" + "1" * 64}]
    assert (tmp_path / "mine" / "minilm.identity").read_text().strip() == broker.model_key
    assert "key" not in yaml.safe_load((tmp_path / "mine" / "minilm.yaml").read_text())
    assert broker.model_key not in out
    assert run(*arguments, "--out", tmp_path / "mine")[0] == 2, "never over what is there"
    (tmp_path / "id").write_text(str(x25519.Identity.generate()))
    code, out, err = run(*arguments, "--out", tmp_path / "none", "-o", "json")
    assert (code, json.loads(out)["reasons"][0]["reason"]) == (1, "NothingRecovered")
    assert err.startswith("NothingRecovered: ")
    assert not (tmp_path / "none").exists()
    other = [*arguments[:-1], "00" * 32]
    code, out, _ = run(*other, "--out", tmp_path / "none", "-o", "json")
    assert (code, json.loads(out)["reasons"][0]["reason"]) == (1, "BackupInvalid")
    (tmp_path / "id").write_text("no identity")
    assert run(*arguments, "--out", tmp_path / "bad")[0] == 2
