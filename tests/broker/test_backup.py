"""Backups hold everything and no secret; what is restored goes on; an owner comes back to its keys without the broker."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyrage import x25519

from chrysalis.broker import audit, backup, rotation, secret_keys, state_keys
from chrysalis.broker.encryption import Keyring, RootKey, read
from chrysalis.broker.encryption_settings import RootKeySettings
from chrysalis.broker.main import assemble
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.settings import Settings
from chrysalis.cli import keys as cli_keys
from chrysalis.clock import unix
from chrysalis.receipts import jws
from chrysalis.sealing import hpke
from chrysalis.wire.broker import ReleaseRequest

World = Any


@pytest.fixture
def used(world: World) -> World:
    """A broker that has judged, released and refused."""
    for tenant in (world.acme, world.rival):
        result = world.attest(world.domain(tenant)).json()["resultId"]
        assert world.release(tenant.name, result).status_code == 200
    world.release("acme", result)
    return world


def save(world: World, path: Path) -> backup.Manifest:
    encryption = secret_keys.keyring(world.deps.settings, world.clock)
    return backup.write(path, database=world.deps.store.database, keys=world.deps.keys, encryption=encryption, clock=world.clock)


def elsewhere(world: World, tmp_path: Path, **changes: Any) -> Settings:
    """The settings of another machine with the same root key."""
    root = tmp_path / "root.key"
    root.write_bytes((world.deps.settings.state_dir / "root.key").read_bytes())
    settings = world.deps.settings.model_copy(update={"state_dir": tmp_path / "new", "root_key_file": root} | changes)
    secret_keys.prepare(settings)
    return Settings.model_validate(settings.model_dump())


def load(world: World, path: Path, settings: Settings, anchor: bytes | None = None) -> None:
    from chrysalis.broker import database_settings
    from chrysalis.broker.database import Database

    database = Database(database_settings.url_of(settings.database, settings.state_dir))
    try:
        backup.restore(
            path,
            anchor=anchor or world.deps.keys.ear_public,
            database=database,
            directory=settings.state_dir,
            keyring=secret_keys.keyring(settings, world.clock),
            clock=world.clock,
            shared=settings.state_keys == "Database",
        )
    finally:
        database.close()


def reason(action: Callable[[], Any]) -> str:
    with pytest.raises(BrokerError) as caught:
        action()
    assert caught.value.remedy
    return str(caught.value.reason)


@pytest.mark.parametrize("where", ["Files", "Database"])
def test_a_restored_broker_goes_on(used: World, tmp_path: Path, where: str) -> None:
    domain = used.domain(used.acme)
    result = used.attest(domain).json()["resultId"]
    made = save(used, tmp_path / "backup.tar")
    settings = elsewhere(used, tmp_path, state_keys=where)
    load(used, tmp_path / "backup.tar", settings)
    deps = assemble(settings, clock=used.clock, fetcher=used.pccs)
    assert deps.keys.ear_public == used.deps.keys.ear_public
    assert deps.keys.tls_spki_sha256 == used.deps.keys.tls_spki_sha256
    assert deps.keys.nonce_key == used.deps.keys.nonce_key
    assert (settings.state_dir / "ear.key").exists() == (where == "Files")
    log = list(deps.store.audit_log())
    assert audit.verify(log) == len(log)
    assert [record.event for record in log[made.audit_seq :]] == ["StateRestored", "ResultRevoked", "ResultRevoked", "ResultRevoked"]
    request = ReleaseRequest(result_id=result)
    assert reason(lambda: deps.results.release("acme", request)) == "ResultRevoked"
    # A worker attests again, at the restored broker, and gets its key.
    nonce, _ = deps.nonces.make()
    fresh = deps.attestor.attest(domain.evidence(nonce.hex()))
    wrapped = deps.results.release("acme", ReleaseRequest(result_id=fresh.result_id))
    info = hpke.model_key_info("acme", "sha256:" + "1" * 64, fresh.result_id)
    assert hpke.unwrap(domain.hpke, base64.b64decode(wrapped.wrapped), info).decode() == used.acme.identity
    again = used.attest(domain).json()["resultId"]  # the old broker's later work is not in the backup
    assert deps.store.result(again) is None
    deps.store.close()


def test_a_restore_that_is_killed_is_run_again(used: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(used, tmp_path / "backup.tar")
    settings = elsewhere(used, tmp_path)
    write = state_keys.replace_file
    written: list[Path] = []

    def dies(path: Path, content: bytes) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    monkeypatch.setattr(state_keys, "replace_file", dies)
    with pytest.raises(KeyboardInterrupt):
        load(used, tmp_path / "backup.tar", settings)
    monkeypatch.undo()
    load(used, tmp_path / "backup.tar", settings)
    deps = assemble(settings, clock=used.clock, fetcher=used.pccs)
    assert deps.keys.ear_public == used.deps.keys.ear_public
    deps.store.close()


def test_a_backup_holds_no_secret(used: World, tmp_path: Path) -> None:
    save(used, tmp_path / "backup.tar")
    raw = (tmp_path / "backup.tar").read_bytes()
    state = used.deps.settings.state_dir
    secrets = [used.acme.identity.encode(), used.rival.identity.encode(), (state / "root.key").read_bytes().strip()]
    secrets += [used.deps.keys.nonce_key, used.deps.keys.nonce_key.hex().encode(), used.deps.keys.ear_key.private_bytes_raw()]
    for name in ("tls.key", "ear.key"):
        secrets += [line for line in (state / name).read_bytes().splitlines() if not line.startswith(b"-")]
    for secret in secrets:
        assert secret not in raw
    assert (tmp_path / "backup.tar").stat().st_mode & 0o077 == 0
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with tarfile.open(path) as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive}
    change(members)
    target = path.with_name("changed.tar")
    with tarfile.open(target, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target


def _sign_anew(members: dict[str, bytes]) -> None:
    claims = jws.peek(members["manifest.jws"].decode()).claims
    stranger = Ed25519PrivateKey.generate()
    claims["anchor"] = stranger.public_key().public_bytes_raw().hex()
    members["manifest.jws"] = jws.sign(backup.TYP, claims, stranger).encode()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.update({"policies.jsonl": m["policies.jsonl"].replace(b'"version":1', b'"version":9')}), id="row changed"),
        pytest.param(lambda m: m.update({"policies.jsonl": b""}), id="rows left out"),
        pytest.param(lambda m: m.pop("audit.jsonl"), id="table left out"),
        pytest.param(lambda m: m.update({"more.jsonl": b""}), id="member added"),
        pytest.param(lambda m: m.pop("manifest.jws"), id="no manifest"),
        pytest.param(lambda m: m.update({"manifest.jws": b"x.y.z"}), id="manifest is junk"),
        pytest.param(_sign_anew, id="signed by a stranger"),
        pytest.param(lambda m: m.update({"state-keys.json": b"{}"}), id="keys left out"),
    ],
)
def test_a_changed_backup_is_refused_and_leaves_nothing(used: World, tmp_path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    save(used, tmp_path / "backup.tar")
    settings = elsewhere(used, tmp_path)
    assert reason(lambda: load(used, rewritten(tmp_path / "backup.tar", change), settings)) == "BackupInvalid"
    load(used, tmp_path / "backup.tar", settings)  # the twin; and nothing was left behind


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.update({"policies.jsonl": m["policies.jsonl"].replace(b'"version":1', b'"version":9')}), id="row changed"),
        pytest.param(lambda m: m.update({"policies.jsonl": b""}), id="rows left out"),
        pytest.param(lambda m: m.update({"key_records.jsonl": m["key_records.jsonl"][:0]}), id="key records left out"),
        pytest.param(lambda m: m.update({"state-keys.json": m["state-keys.json"] + b" "}), id="keys changed"),
    ],
)
def test_what_is_loaded_is_what_was_checked(
    used: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, bytes]], None]
) -> None:
    """Whoever may write where the backup lies exchanges it between the check and the restore."""
    path = tmp_path / "backup.tar"
    save(used, path)
    settings, check, good = elsewhere(used, tmp_path), backup.read, path.read_bytes()

    def checked(*given: Any) -> Any:
        manifest = check(*given)
        path.write_bytes(rewritten(path, change).read_bytes())
        return manifest

    monkeypatch.setattr(backup, "read", checked)
    assert reason(lambda: load(used, path, settings)) == "BackupInvalid"
    if "key_records" in str(change.__code__.co_consts):
        path.write_bytes(good)
        assert reason(lambda: list(backup.recovery_copies(path, None))) == "BackupInvalid"
    monkeypatch.undo()
    path.write_bytes(good)
    load(used, path, settings)  # the twin; and nothing was left behind


@pytest.mark.parametrize("content", [b"", b"x" * 2048, b"\0" * 2048])
def test_foreign_files_are_refused(used: World, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert reason(lambda: backup.read(tmp_path / "file", None)) == "BackupInvalid"
    assert reason(lambda: backup.read(tmp_path / "missing", None)) == "BackupFileUnusable"
    assert reason(lambda: backup.read(tmp_path, None)) == "BackupFileUnusable"


def test_truncated_anywhere(used: World, tmp_path: Path) -> None:
    save(used, tmp_path / "backup.tar")
    raw = (tmp_path / "backup.tar").read_bytes()
    backup.read(tmp_path / "backup.tar", used.deps.keys.ear_public)
    for at in range(1, len(raw) - 10_240 - 1024, max(1, len(raw) // 40)):
        (tmp_path / "cut").write_bytes(raw[:at])
        assert reason(lambda: backup.read(tmp_path / "cut", used.deps.keys.ear_public)) == "BackupInvalid"


def test_another_brokers_backup_is_refused(used: World, tmp_path: Path) -> None:
    save(used, tmp_path / "backup.tar")
    settings = elsewhere(used, tmp_path)
    assert reason(lambda: load(used, tmp_path / "backup.tar", settings, anchor=bytes(32))) == "BackupInvalid"


def test_only_into_an_empty_place(used: World, tmp_path: Path) -> None:
    save(used, tmp_path / "backup.tar")
    assert reason(lambda: load(used, tmp_path / "backup.tar", used.deps.settings)) == "StateNotEmpty"
    settings = elsewhere(used, tmp_path)
    (settings.state_dir / "nonce.key").write_text("00" * 32)
    assert reason(lambda: load(used, tmp_path / "backup.tar", settings)) == "StateNotEmpty"


def test_not_without_the_root_key(used: World, tmp_path: Path) -> None:
    save(used, tmp_path / "backup.tar")
    settings = elsewhere(used, tmp_path)
    (tmp_path / "root.key").write_text("11" * 32)
    assert reason(lambda: load(used, tmp_path / "backup.tar", settings)) == "StateUnusable"


def test_a_backup_is_never_overwritten(used: World, tmp_path: Path) -> None:
    save(used, tmp_path / "backup.tar")
    before = (tmp_path / "backup.tar").read_bytes()
    assert reason(lambda: save(used, tmp_path / "backup.tar")) == "BackupFileUnusable"
    assert reason(lambda: save(used, tmp_path / "nowhere" / "backup.tar")) == "BackupFileUnusable"
    assert (tmp_path / "backup.tar").read_bytes() == before


# Recovery


def test_an_owner_recovers_its_keys_with_its_own_identity_alone(world: World, tmp_path: Path) -> None:
    owners, other = x25519.Identity.generate(), x25519.Identity.generate()
    assert world.put_key(world.acme, version=2, recovery_recipients=[str(owners.to_public())]).status_code == 201
    assert world.put_key(world.rival, version=2, recovery_recipients=[str(other.to_public())]).status_code == 201
    save(world, tmp_path / "backup.tar")
    # The broker is gone, its root key too: only the file and the owner's identity are left.
    (found,) = cli_keys.recovered(tmp_path / "backup.tar", f"# created: today\n{owners}\n", world.deps.keys.ear_public)
    assert (found.key_id, found.key, found.version) == ("acme", world.acme.identity, 2)
    assert cli_keys.recovered(tmp_path / "backup.tar", str(x25519.Identity.generate()), None) == []


def test_without_recipients_there_is_no_copy(world: World, tmp_path: Path) -> None:
    save(world, tmp_path / "backup.tar")
    assert list(backup.recovery_copies(tmp_path / "backup.tar", None)) == []
    stored = world.deps.store.key(world.acme.public.hex(), "acme")
    assert stored.recovery == b""


def test_a_copy_opens_for_each_recipient_and_not_for_the_broker(world: World) -> None:
    two = [x25519.Identity.generate() for _ in range(2)]
    world.put_key(world.acme, version=2, recovery_recipients=[str(one.to_public()) for one in two])
    copy = world.deps.store.key(world.acme.public.hex(), "acme").recovery
    for one in two:
        assert json.loads(pyrage.decrypt(copy, [one]))["key"] == world.acme.identity
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(copy, [x25519.Identity.generate()])


def test_a_recipient_that_is_none_is_refused(world: World, reasons: Callable[[Any], list[str]]) -> None:
    good = str(x25519.Identity.generate().to_public())
    for text, word in (("age1" + "q" * 58, "KeyMalformed"), ("ssh-ed25519 AAAA", "")):
        try:
            record = world.acme.record(version=2, recovery_recipients=[text])
        except ValueError:
            assert not word
            continue
        from chrysalis.wire.broker import PAYLOAD_KEY_RECORD

        assert reasons(world.put("/v1/keys/acme", world.acme.sign(PAYLOAD_KEY_RECORD, record))) == [word]
    assert world.put_key(world.acme, version=2, recovery_recipients=[good]).status_code == 201


# Rotation of the root key


def opened(world: World, current: bytes, *previous: bytes) -> Keyring:
    return Keyring(RootKey(current), [RootKey(key) for key in previous])


@pytest.fixture
def root(world: World) -> bytes:
    return bytes.fromhex((world.deps.settings.state_dir / "root.key").read_text())


def test_everything_is_sealed_again(used: World, root: bytes, tmp_path: Path) -> None:
    database, new = used.deps.store.database, b"n" * 32
    outcome = rotation.rotate(database, opened(used, new, root), unix(used.clock.now()))
    assert (outcome.sealed_again, outcome.already_current, outcome.left) == (4, 0, 0)  # two model keys, two signing keys
    last = list(used.deps.store.audit_log())[-1]
    assert (last.event, last.document["values"]) == ("RootRotated", 4)
    again = rotation.rotate(database, opened(used, new, root), unix(used.clock.now()))
    assert (again.sealed_again, again.already_current) == (0, 4)
    assert [record.event for record in used.deps.store.audit_log()].count("RootRotated") == 1
    (tmp_path / "new.key").write_text(new.hex())
    settings = used.deps.settings.model_copy(update={"root_key_file": tmp_path / "new.key"})
    deps = assemble(settings, clock=used.clock, fetcher=used.pccs)
    stored = deps.store.key(used.acme.public.hex(), "acme")
    assert stored is not None
    assert read(stored.sealed_key).key_id == RootKey(new).key_id
    deps.store.close()


def test_brokers_run_meanwhile_under_both_keys(used: World, root: bytes, tmp_path: Path) -> None:
    (tmp_path / "old.key").write_text(root.hex())
    (tmp_path / "new.key").write_text("ab" * 32)
    settings = used.deps.settings.model_copy(
        update={
            "root_key_file": tmp_path / "new.key",
            "previous_key_encryption": [RootKeySettings(kind="RootKey", file=tmp_path / "old.key")],
        }
    )
    deps = assemble(settings, clock=used.clock, fetcher=used.pccs)
    result = used.attest(used.domain(used.acme)).json()["resultId"]
    assert deps.results.release("acme", ReleaseRequest(result_id=result)).result_id == result
    outcome = rotation.rotate(deps.store.database, secret_keys.keyring(settings, used.clock), unix(used.clock.now()))
    assert (outcome.sealed_again, outcome.left) == (4, 0)
    assert deps.results.release("acme", ReleaseRequest(result_id=result)).result_id == result
    deps.store.close()


def test_a_rotation_that_is_stopped_goes_on(used: World, root: bytes) -> None:
    class Failing(RootKey):
        left = 2

        def wrap(self, secret: bytes, associated: bytes) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("stopped")
            return super().wrap(secret, associated)

    database, now = used.deps.store.database, unix(used.clock.now())
    with pytest.raises(RuntimeError):
        rotation.rotate(database, Keyring(Failing(b"n" * 32), [RootKey(root)]), now, pace=1)
    outcome = rotation.rotate(database, opened(used, b"n" * 32, root), now)
    assert (outcome.sealed_again, outcome.already_current, outcome.left) == (2, 2, 0)


def test_a_rotation_that_cannot_open_everything_changes_nothing(used: World) -> None:
    before = [kept.value for kept in rotation.values(used.deps.store.database)]
    assert reason(lambda: rotation.rotate(used.deps.store.database, opened(used, b"n" * 32), 0)) == "StateUnusable"
    assert [kept.value for kept in rotation.values(used.deps.store.database)] == before


# A new model key


def test_results_from_before_do_not_get_the_new_key(world: World, reasons: Callable[[Any], list[str]]) -> None:
    domain = world.domain(world.acme)
    old = world.attest(domain).json()["resultId"]
    assert world.put_key(world.acme, version=2).status_code == 201  # the same key: results go on
    assert world.release("acme", old).status_code == 200
    world.acme.identity = str(x25519.Identity.generate())
    assert world.put_key(world.acme, version=3).status_code == 201
    answer = world.release("acme", old)
    assert (answer.status_code, reasons(answer)) == (403, ["KeyChanged"])
    fresh = world.attest(domain).json()["resultId"]
    assert world.release("acme", fresh).status_code == 200
    assert world.put_key(world.acme, version=4).status_code == 201
    assert world.release("acme", fresh).status_code == 200
    assert reasons(world.release("acme", old)) == ["KeyChanged"]


def test_ocsp_answers_are_not_brought_back(used: World, tmp_path: Path) -> None:
    digest = "1" * 64
    used.deps.store.note_ocsp([(digest, b"certificate", b"issuer")], unix(used.clock.now()))
    path = tmp_path / "backup.tar.gz"
    save(used, path)
    settings = elsewhere(used, tmp_path)
    load(used, path, settings)
    restored = assemble(settings, clock=used.clock).store
    assert restored.ocsp_rows([digest]) == {}  # a good answer may be of before a revocation
    assert restored.key(used.acme.public.hex(), "acme") is not None
    restored.close()
