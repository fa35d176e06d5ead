"""The runtime wrapper refuses what a measured guest policy refuses, and hands everything else to runc."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.simtd.runtime import ANNOTATION_INITDATA, CONTAINER_NAME, IMAGE_NAME, NVML, POD_UID, SANDBOX_ID, SOCKET, TYPE, VALUED_FLAGS

IMAGE = "chrysalis.local/worker@sha256:" + "a" * 64
ARGS = ["/opt/cv/bin/python3", "-I", "-m", "chrysalis_worker.agent"]
ROOT = Path(__file__).resolve().parents[2]


def toml(args: list[str] = ARGS, algorithm: str = "sha384") -> bytes:
    allow = json.dumps([{"name": "gateway", "image": IMAGE, "args": args}])
    return f"version = \"0.1.0\"\nalgorithm = \"{algorithm}\"\n[data]\n\"allow.json\" = '''{allow}'''\n".encode()


def annotation(document: bytes) -> str:
    return base64.b64encode(gzip.compress(document)).decode()


class Guest:
    """A folder with a fake runc, and a platform that notes what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[dict[str, str]] = []
        self.error = ""
        runc = folder / "runc"
        runc.write_text('#!/bin/sh\necho "$@" > "$RUNC_LOG"\n')
        runc.chmod(0o755)
        outer = self

        class Request(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer.asked.append(json.loads(self.rfile.readline()))
                self.wfile.write(json.dumps({"error": outer.error} if outer.error else {}).encode() + b"\n")

        self.server = socketserver.UnixStreamServer(str(folder / SOCKET), Request)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def run(self, *words: str, state: str | None = None) -> tuple[int, str, list[str]]:
        """Run the wrapper: exit code, what stands in its log, what runc was started with."""
        log, runc_log = self.folder / "log.json", self.folder / "runc.log"
        log.unlink(missing_ok=True)
        runc_log.unlink(missing_ok=True)
        environment = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SIMTD_STATE": str(self.folder) if state is None else state,
            "RUNC_LOG": str(runc_log),
        }
        done = subprocess.run(
            [sys.executable, "-m", "e2e.simtd.runtime", "--root", "/r", "--log", str(log), "--log-format", "json", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
        )
        said = json.loads(log.read_text())["msg"] if log.exists() else ""
        return done.returncode, said, runc_log.read_text().split() if runc_log.exists() else []

    def bundle(
        self,
        annotations: dict[str, str],
        args: list[str] = ARGS,
        netns: str = "/var/run/netns/pod",
        mounts: tuple[tuple[str, str], ...] = (),
        env: tuple[str, ...] = (),
        cwd: str = "/",
    ) -> str:
        folder = self.folder / "bundle"
        folder.mkdir(exist_ok=True)
        config: dict[str, Any] = {
            "annotations": annotations,
            "process": {"args": args, "env": list(env), "cwd": cwd},
            "mounts": [{"destination": where, "source": source, "type": "bind", "options": ["rbind"]} for where, source in mounts],
            "linux": {"namespaces": [{"type": "network", "path": netns} if netns else {"type": "pid"}]},
        }
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    def start_domain(self, document: bytes) -> None:
        bundle = self.bundle({TYPE: "sandbox", ANNOTATION_INITDATA: annotation(document)})
        assert self.run("create", "--bundle", bundle, "sandbox1")[0] == 0


@pytest.fixture
def guest() -> Iterator[Guest]:
    with tempfile.TemporaryDirectory() as folder:  # short: a unix socket's path has 107 bytes at most
        made = Guest(Path(folder))
        yield made
        made.server.shutdown()
        made.server.server_close()


def container(**changes: str) -> dict[str, str]:
    return {TYPE: "container", SANDBOX_ID: "sandbox1", CONTAINER_NAME: "gateway", IMAGE_NAME: IMAGE} | changes


def test_a_sandbox_with_initdata_becomes_a_domain_with_its_hash(guest: Guest) -> None:
    document = toml()
    code, said, runc = guest.run(
        "create", "--bundle", guest.bundle({TYPE: "sandbox", ANNOTATION_INITDATA: annotation(document)}), "sandbox1"
    )
    assert (code, said) == (0, "")
    assert runc[-1] == "sandbox1"
    expected = hashlib.sha384(document).hexdigest()
    assert guest.asked == [{"op": "start", "sandbox": "sandbox1", "netns": "/var/run/netns/pod", "mrconfigid": expected}]


@pytest.mark.parametrize(
    ("annotations", "netns", "words"),
    [
        ({TYPE: "sandbox"}, "/n", "no initdata"),
        ({TYPE: "sandbox", ANNOTATION_INITDATA: "%%%"}, "/n", "cannot be read"),
        ({TYPE: "sandbox", ANNOTATION_INITDATA: base64.b64encode(b"plain").decode()}, "/n", "cannot be read"),
        ({TYPE: "sandbox", ANNOTATION_INITDATA: annotation(b"x" * (256 * 1024 + 1))}, "/n", "larger than"),
        ({TYPE: "sandbox", ANNOTATION_INITDATA: annotation(b"a = 1")}, "/n", "no allow-list"),
        ({TYPE: "sandbox", ANNOTATION_INITDATA: annotation(toml(algorithm="sha256"))}, "/n", "no allow-list"),
        ({TYPE: "sandbox", ANNOTATION_INITDATA: annotation(toml())}, "", "no network namespace"),
        ({}, "/n", "neither a sandbox nor a container"),
    ],
)
def test_a_sandbox_that_is_not_measured_does_not_start(guest: Guest, annotations: dict[str, str], netns: str, words: str) -> None:
    code, said, runc = guest.run("create", "--bundle", guest.bundle(annotations, netns=netns), "sandbox1")
    assert code == 1
    assert words in said
    assert said.startswith("simtd: ")
    assert runc == []


def test_a_platform_that_refuses_stops_the_sandbox(guest: Guest) -> None:
    guest.error = "no such namespace"
    bundle = guest.bundle({TYPE: "sandbox", ANNOTATION_INITDATA: annotation(toml())})
    code, said, runc = guest.run("create", "--bundle", bundle, "sandbox1")
    assert (code, runc) == (1, [])
    assert "no such namespace" in said


def test_an_allowed_container_starts_and_starts_again(guest: Guest) -> None:
    guest.start_domain(toml())
    for name in ("c1", "c2"):
        code, said, runc = guest.run("create", "--bundle", guest.bundle(container()), name)
        assert (code, said, runc[-1]) == (0, "", name)


@pytest.mark.parametrize(
    ("annotations", "args", "words"),
    [
        (container(), [*ARGS, "--debug"], "does not allow"),
        (container(**{IMAGE_NAME: "chrysalis.local/worker@sha256:" + "b" * 64}), ARGS, "does not allow"),
        (container(**{CONTAINER_NAME: "triton"}), ARGS, "does not allow"),
        (container(**{SANDBOX_ID: "sandbox2"}), ARGS, "not a trust domain"),
        (container(**{SANDBOX_ID: "../sandbox1"}), ARGS, "names no sandbox"),
        # the annotation of a container cannot widen what the domain was started with
        (container(**{ANNOTATION_INITDATA: annotation(toml([*ARGS, "--debug"]))}), [*ARGS, "--debug"], "does not allow"),
    ],
)
def test_what_the_initdata_does_not_name_is_refused(guest: Guest, annotations: dict[str, str], args: list[str], words: str) -> None:
    guest.start_domain(toml())
    code, said, runc = guest.run("create", "--bundle", guest.bundle(annotations, args), "c1")
    assert (code, runc) == (1, [])
    assert words in said


def test_exec_is_refused_whatever_comes_before_the_word(guest: Guest) -> None:
    code, said, runc = guest.run("exec", "--process", "/p.json", "c1")
    assert (code, runc) == (1, [])
    assert "exec is not allowed" in said


def test_a_flag_called_exec_is_no_exec(guest: Guest) -> None:
    assert guest.run("state", "exec")[0] == 0
    assert "--log" in VALUED_FLAGS


def test_deleting_the_sandbox_closes_its_evidence_service(guest: Guest) -> None:
    guest.start_domain(toml())
    assert guest.run("delete", "--force", "sandbox1")[0] == 0
    assert guest.asked[-1] == {"op": "stop", "sandbox": "sandbox1"}
    assert guest.run("delete", "other")[0] == 0
    assert guest.asked[-1]["sandbox"] == "sandbox1"


def test_without_its_state_nothing_starts(guest: Guest) -> None:
    code, said, _ = guest.run("state", "c1", state="")
    assert code == 1
    assert "SIMTD_STATE" in said


POD = f"/dev/shm/pods/{'u' * 8}/volumes"  # on a tmpfs, as memory of a pod is
MEMORY = f"{POD}/kubernetes.io~empty-dir/model"
PODINFO = f"{POD}/kubernetes.io~downward-api/podinfo"
SHM = "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/sandbox1/shm"
HARMLESS = (
    ("/run/model", MEMORY),
    ("/var/run/receipts", MEMORY),
    ("/tmp", MEMORY),
    ("/dev/shm", SHM),
    ("/run/podinfo", PODINFO),
    ("/etc/hosts", "/var/lib/kubelet/pods/u/etc-hosts"),
    ("/dev/termination-log", "/var/lib/kubelet/pods/u/containers/gateway/1"),
)


@pytest.mark.parametrize(
    ("mounts", "env", "cwd", "words"),
    [
        (HARMLESS, ("PATH=/bin", "PYTHONUNBUFFERED=1"), "/", ""),
        ((("/opt/cv/lib", MEMORY),), (), "/", "could replace program files"),
        ((("/run/../opt", MEMORY),), (), "/", "could replace program files"),
        ((("/etc", MEMORY),), (), "/", "could replace program files"),
        ((("/runner", MEMORY),), (), "/", "could replace program files"),
        ((("/proc/self", MEMORY),), (), "/", "could replace program files"),
        ((), ("LD_PRELOAD=/tmp/x.so",), "/", "LD_PRELOAD"),
        ((), ("PYTHONPATH=/tmp",), "/", "PYTHONPATH"),
        ((), ("SIMULATED_NVML_PORT=1",), "/", "SIMULATED_NVML_PORT"),
        ((("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", "/srv/mine.so"),), (), "/", "could replace program files"),
        ((), ("ENV=/tmp/x",), "/", "ENV"),
        ((), ("ENVIRONMENT=x",), "/", ""),
        # a folder of the host's choice, where `python -m` would look first
        ((), (), "/run/model", "the working directory /run/model"),
        ((), (), "", ""),
        # files that the host prepared, where the worker keeps its keys and the plain model
        ((("/run/receipts", POD + "/kubernetes.io~secret/keys"),), (), "/", "/run/receipts is not an empty directory in memory"),
        ((("/run/receipts", POD + "/kubernetes.io~configmap/keys"),), (), "/", "is not an empty directory in memory"),
        ((("/run/receipts", PODINFO),), (), "/", "is not an empty directory in memory"),
        ((("/run/receipts/receipt.key", f"{POD}-subpaths/kubernetes.io~empty-dir/a/0"),), (), "/", "is not an empty directory in memory"),
        ((("/run/receipts/receipt.key", "/var/lib/kubelet/pods/u/containers/gateway/1"),), (), "/", "is not an empty directory"),
        ((("/var/run/model", "/srv/stolen"),), (), "/", "/run/model is not an empty directory in memory"),
        ((("/run/model", "/srv/pods/u/volumes/kubernetes.io~empty-dir/model"),), (), "/", "is not an empty directory in memory"),
        ((("/run/model", MEMORY.replace("uuuu", "vvvv")),), (), "/", "is not an empty directory in memory"),
        ((("/dev/shm", SHM.replace("sandbox1", "sandbox2")),), (), "/", "is not an empty directory in memory"),
        ((("/run/podinfo", POD + "/kubernetes.io~secret/keys"),), (), "/", "is not an empty directory in memory"),
    ],
)
def test_the_host_adds_data_but_no_code_and_no_keys(
    guest: Guest, mounts: tuple[tuple[str, str], ...], env: tuple[str, ...], cwd: str, words: str
) -> None:
    guest.start_domain(toml())
    annotations = container(**{POD_UID: "u" * 8})
    code, said, _ = guest.run("create", "--bundle", guest.bundle(annotations, mounts=mounts, env=env, cwd=cwd), "c1")
    assert (code == 0) == (words == "")
    assert words in said


@pytest.mark.parametrize("gpus", [True, False])
def test_the_guest_itself_shows_the_simulated_nvml(guest: Guest, gpus: bool) -> None:
    """As NVIDIA's CDI hook does in a real guest: not by the host's specification, which may add nothing there."""
    if gpus:
        (guest.folder / NVML).touch()
    guest.start_domain(toml())
    before = json.loads((guest.folder / "bundle/config.json").read_text())
    bundle = guest.bundle(container(**{POD_UID: "u" * 8}), mounts=(("/run/model", MEMORY),))
    assert guest.run("create", "--bundle", bundle, "c1")[0] == 0
    config = json.loads((guest.folder / "bundle/config.json").read_text())
    added = {
        "destination": f"/usr/lib/{os.uname().machine}-linux-gnu/libnvidia-ml.so.1",
        "type": "bind",
        "source": str(guest.folder / NVML),
        "options": ["bind", "ro", "nosuid", "nodev"],
    }
    assert config["mounts"][1:] == ([added] if gpus else [])
    assert before["mounts"] == []  # the sandbox itself runs no worker


def test_what_is_refused_is_shown_nothing(guest: Guest) -> None:
    (guest.folder / NVML).touch()
    guest.start_domain(toml())
    assert guest.run("create", "--bundle", guest.bundle(container(), [*ARGS, "--debug"]), "c1")[0] == 1
    assert json.loads((guest.folder / "bundle/config.json").read_text())["mounts"] == []
