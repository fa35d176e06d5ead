"""The worker image is a function of the sources: built whole, twice, under different circumstances, and compared by its digest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.cli.main import cli
from chrysalis.wire import dsse
from chrysalis.wire.reference import PAYLOAD_REFERENCE_VALUES
from e2e import cache

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def copy(folder: Path, at: int) -> Path:
    """This checkout's files elsewhere, all with another time."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=cache.REPOSITORY, check=True, capture_output=True, text=True
    )
    for name in done.stdout.split("\n"):
        source = cache.REPOSITORY / name
        if name and source.is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            os.utime(target, (at, at))
    return folder


def built(source: Path, folder: Path, umask: int, **environment: str) -> dict[str, Any]:
    """The image out of an empty cache."""
    paths = os.pathsep.join(str(source / part) for part in ("operator", "worker-image", ""))
    done = subprocess.run(
        [sys.executable, "-m", "e2e.images", "-o", "json", "chrysalis-worker"],
        cwd=source,
        env={**os.environ, "PYTHONPATH": paths, "CACHE": str(folder), **environment},
        umask=umask,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (image,) = json.loads(done.stdout)["images"]
    found: dict[str, Any] = image
    return found


def test_the_worker_image_is_built_twice_to_the_same_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = copy(tmp_path / "one", 1_000_000_000), copy(tmp_path / "two" / "deeper", 1_600_000_000)
    first = built(one, tmp_path / "cache", 0o022, PYTHONHASHSEED="1")
    key = Ed25519PrivateKey.generate()
    values = {
        "version": 1,
        "release": "0.0.0+test",
        "issued": "2026-01-01T00:00:00Z",
        "expires": "2126-01-01T00:00:00Z",
        "workerImages": [{"digest": first["digest"], "layers": first["layers"]}],
        "templateVersions": [first["templateVersion"]],
    }
    signed = tmp_path / "reference.json"
    signed.write_text(dsse.sign(PAYLOAD_REFERENCE_VALUES, json.dumps(values).encode(), key).model_dump_json(by_alias=True))
    against = ["--against", str(signed), "--publisher", key.public_key().public_bytes_raw().hex(), "-o", "json"]

    def rebuild(*more: str) -> tuple[int, dict[str, Any]]:
        said = CliRunner().invoke(cli, ["measure", "--rebuild", "--source", str(two), *against, *more], standalone_mode=False)
        assert said.exception is None, said.exception
        return int(said.return_value), json.loads(said.stdout)

    # everything again: another place, other times, umask, hash seed, time zone and language, from an empty cache
    for name, value in {"PYTHONHASHSEED": "4242", "TZ": "Asia/Tokyo", "LC_ALL": "C"}.items():
        monkeypatch.setenv(name, value)
    before = os.umask(0o077)
    try:
        code, shown = rebuild()
    finally:
        os.umask(before)
    assert (code, shown["verdict"], shown["differences"]) == (0, "Reproduced", []), shown

    # the twin: one changed line of code is another image, and only the last layer differs
    agent = two / "worker-image/chrysalis_worker/paths.py"
    agent.write_text(agent.read_text() + "\nCHANGED = True\n")
    monkeypatch.setenv("CACHE", str(tmp_path / "cache"))
    code, shown = rebuild("--cached")
    assert (code, shown["verdict"]) == (1, "Differs")
    assert len(shown["differences"]) == 2
    assert f"layer {len(first['layers']) - 1} is" in shown["differences"][1]
