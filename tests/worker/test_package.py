"""Fetching and opening a package, and the guest's evidence service, over loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from chrysalis.api.worker import ModelPackage, ModelSpec
from chrysalis.errors import ChrysalisError
from chrysalis.sealing.package import Sealed, seal
from chrysalis_worker import package
from chrysalis_worker.evidence import CocoRest
from chrysalis_worker.reasons import WorkerError


class Served:
    """An HTTP server whose answer is set by the test."""

    def __init__(self) -> None:
        self.status, self.body, self.paths = 200, b"", []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                self.send_response(outer.status)
                if outer.status == 302:
                    self.send_header("location", "/again")
                self.send_header("content-length", str(len(outer.body)))
                self.end_headers()
                try:
                    self.wfile.write(outer.body)
                except ConnectionError:
                    pass

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


def spec(url: str, data: bytes, **changes: Any) -> ModelPackage:
    good = {"url": url + "/p.age", "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    return ModelPackage(**(good | changes))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: None, None),
        (lambda s: setattr(s, "body", s.body[:-1]), "PackageSizeMismatch"),
        (lambda s: setattr(s, "body", s.body + b"x"), "PackageSizeMismatch"),
        (lambda s: setattr(s, "body", s.body * 1000), "PackageSizeMismatch"),
        (lambda s: setattr(s, "body", b"y" + s.body[1:]), "PackageDigestMismatch"),
        (lambda s: setattr(s, "status", 404), "PackageUnreachable"),
        (lambda s: setattr(s, "status", 302), "PackageUnreachable"),
    ],
)
def test_exactly_the_measured_bytes(served: Served, tmp_path: Path, change: Any, expected: str | None) -> None:
    served.body = data = b"x" * 10_000
    change(served)
    path = tmp_path / "p.age"
    if expected is None:
        asyncio.run(package.fetch(spec(served.url, data), path))
        assert path.read_bytes() == data
        return
    with pytest.raises(WorkerError) as caught:
        asyncio.run(package.fetch(spec(served.url, data), path))
    assert caught.value.reason == expected
    assert not path.exists()


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[Path, Sealed]:
    model = tmp_path / "source/minilm/1"
    model.mkdir(parents=True)
    (model / "model.py").write_text("pass\n")
    (model.parent / "config.pbtxt").write_text("name: 'minilm'\n")
    path = tmp_path / "p.age"
    return path, seal(tmp_path / "source", path)


def model_spec(made: Sealed, name: str = "minilm", digest: str | None = None) -> ModelSpec:
    measured = ModelPackage(url="http://127.0.0.1/p", digest=made.package_digest, size_bytes=made.size_bytes)
    return ModelSpec(name=name, package=measured, digest=digest or made.model_digest, key_id="key")


def test_a_package_is_opened_into_a_mount_that_was_used_before(sealed: tuple[Path, Sealed], tmp_path: Path) -> None:
    repository = tmp_path / "run-model"
    (repository / "old/1").mkdir(parents=True)
    (repository / "file").touch()
    inode = repository.stat().st_ino
    path, made = sealed
    assert asyncio.run(package.open_model(path, made.identity, model_spec(made), repository)) == ["minilm"]
    assert sorted(p.name for p in repository.iterdir()) == ["minilm"]
    assert (repository / "minilm/1/model.py").read_text() == "pass\n"
    assert repository.stat().st_ino == inode


@pytest.mark.parametrize("wrong", ["flipped", "truncated", "key", "digest", "name"])
def test_nothing_is_half_opened(sealed: tuple[Path, Sealed], tmp_path: Path, wrong: str) -> None:
    path, made = sealed
    repository = tmp_path / "run-model"
    repository.mkdir()
    data = bytearray(path.read_bytes())
    identity, spec_ = made.identity, model_spec(made)
    if wrong == "flipped":
        data[-20] ^= 1
    elif wrong == "truncated":
        del data[-20:]
    elif wrong == "key":
        (tmp_path / "other/m").mkdir(parents=True)
        (tmp_path / "other/m/f").write_text("x")
        identity = seal(tmp_path / "other", tmp_path / "o.age").identity
    elif wrong == "digest":
        spec_ = model_spec(made, digest="sha256:" + "00" * 32)
    else:
        spec_ = model_spec(made, name="other")
    path.write_bytes(data)
    with pytest.raises(ChrysalisError) as caught:
        asyncio.run(package.open_model(path, identity, spec_, repository))
    assert caught.value.remedy
    assert (caught.value.reason == "ModelMissing") == (wrong == "name")
    assert list(repository.iterdir()) == []


def test_the_guests_evidence_service(served: Served) -> None:
    served.body = json.dumps({"quote": base64.b64encode(b"q").decode(), "cc_eventlog": base64.b64encode(b"l").decode()}).encode()
    evidence = asyncio.run(CocoRest(served.url).evidence(bytes(range(64))))
    assert (evidence.quote, evidence.event_log) == (b"q", b"l")
    assert served.paths[0].startswith("/aa/evidence?runtime_data=AAECAw")
    assert served.paths[0].endswith("&encoding=base64")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (200, b""),
        (200, b"[]"),
        (200, b'{"quote": "!"}'),
        (200, b'{"quote": ""}'),
        (200, b'{"quote": 7}'),
        (200, b" " * (2 << 20)),
    ],
)
def test_an_evidence_service_that_answers_nonsense(served: Served, status: int, body: bytes) -> None:
    served.status, served.body = status, body
    with pytest.raises(WorkerError) as caught:
        asyncio.run(CocoRest(served.url).evidence(bytes(64)))
    assert caught.value.reason == "EvidenceUnavailable"


def test_no_evidence_service() -> None:
    with pytest.raises(WorkerError):
        asyncio.run(CocoRest("http://127.0.0.1:9").evidence(bytes(64)))
