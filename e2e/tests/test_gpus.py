"""The worker image in a Simulated trust domain with GPUs, without a cluster: the guest's runtime in front of a real runc."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from chrysalis.api.policy_gpu import GpuRules
from chrysalis.clock import SystemClock
from chrysalis.wire import gpu
from e2e import cache, images
from e2e.mortal import mortal
from e2e.simtd import runtime

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED: a container needs root")]
NONCE = bytes(range(32))
NAME = "chrysalis.local/worker"
ASK = """
import asyncio, json, sys
from chrysalis_worker.nvml import NvmlGpus

async def ask():
    source = NvmlGpus()
    said = {"devices": [one.to_json_dict() for one in await source.gpus(bytes.fromhex(sys.argv[1]))], "before": await source.ready()}
    if said["devices"]:
        await source.set_ready(True)
    print(json.dumps({**said, "after": await source.ready()}))

asyncio.run(ask())
"""
ARGS = ["/opt/cv/bin/python3", "-I", "-c", ASK, NONCE.hex()]
ALLOWED = json.dumps([{"name": "gateway", "image": NAME, "args": ARGS}])
DOCUMENT = tomli_w.dumps({"version": "0.1.0", "algorithm": "sha384", "data": {"allow.json": ALLOWED}}).encode()


class Domain:
    """One Simulated trust domain: a network namespace, a platform's state, and root file systems made of the worker image."""

    def __init__(self, folder: Path, environment: dict[str, str], pid: int, platform: str) -> None:
        self.folder, self.environment, self.netns, self.platform = folder, environment, f"/proc/{pid}/ns/net", platform
        runtime.ask(str(folder / "state"), {"op": "start", "sandbox": "sandbox1", "netns": self.netns, "mrconfigid": _hash()})
        (folder / "state/domain-sandbox1.toml").write_bytes(DOCUMENT)

    def run(self, name: str, root: Path) -> dict[str, Any]:
        """What the measured container prints: as nobody, on a read-only root, without a capability."""
        bundle = self.folder / name
        bundle.mkdir()
        subprocess.run(["cp", "-al", root, bundle / "rootfs"], check=True)  # links: a container adds mount points and no more
        annotations = {
            runtime.TYPE: "container",
            runtime.SANDBOX_ID: "sandbox1",
            runtime.CONTAINER_NAME: "gateway",
            runtime.IMAGE_NAME: NAME,
        }
        process = {"args": ARGS, "cwd": "/", "env": ["PATH=/usr/bin", "HOME=/tmp"], "user": {"uid": 65532, "gid": 65532}}
        mounts = [{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}]
        namespaces = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")]
        config = {
            "ociVersion": "1.0.2",
            "annotations": annotations,
            "process": {**process, "noNewPrivileges": True},
            "root": {"path": "rootfs", "readonly": True},
            "mounts": mounts,
            "linux": {"namespaces": [*namespaces, {"type": "network", "path": self.netns}]},
        }
        (bundle / "config.json").write_text(json.dumps(config))
        words = [sys.executable, "-m", "e2e.simtd.runtime", "--root", str(self.folder / "runc"), "run", "--bundle", str(bundle), name]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        said: dict[str, Any] = json.loads(done.stdout)
        return said


def _hash() -> str:
    return hashlib.sha384(DOCUMENT).hexdigest()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's root but for Triton, which is large and not asked."""
    place = tmp_path_factory.mktemp("image")
    place.chmod(0o755)
    image = images.build("chrysalis-worker")
    blobs = image.archive / "blobs/sha256"
    manifest = json.loads((blobs / image.digest.removeprefix("sha256:")).read_bytes())
    for layer in manifest["layers"]:
        with tarfile.open(blobs / layer["digest"].removeprefix("sha256:")) as archive:
            archive.extractall(place, [one for one in archive if not one.name.removeprefix("./").startswith("opt/tv")])
    return place


@contextmanager
def domain(*words: str) -> Iterator[Domain]:
    """A platform of its own with these arguments, and one domain of it."""
    folder = Path(tempfile.mkdtemp(prefix="gpus"))  # short: a unix socket's path has 107 bytes at most
    paths = os.pathsep.join(str(cache.REPOSITORY / part) for part in ("operator", "worker-image", ""))
    environment = {**os.environ, "PYTHONPATH": paths, "SIMTD_STATE": str(folder / "state")}
    program = mortal(sys.executable, "-m", "e2e.simtd.platform", "--state", folder / "state", "--listen", "127.0.0.1:0", *words)
    platform = subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True)
    sleeps = mortal("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 600")
    pod = subprocess.Popen(sleeps, stdout=subprocess.PIPE)
    try:
        assert platform.stderr is not None
        assert pod.stdout is not None
        said = platform.stderr.readline()
        assert said.startswith("Simulated TDX platform")
        assert pod.stdout.readline() == b"up\n"
        yield Domain(folder, environment, pod.pid, said.split()[-1])
    finally:
        for process in (platform, pod):
            process.terminate()
            process.wait(60)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        shutil.rmtree(folder)


def test_the_worker_finds_the_driver_library_that_the_guest_shows(root: Path) -> None:
    with domain("--gpus", "2") as guest:
        first, second = guest.run("one", root), guest.run("two", root)
        with urllib.request.urlopen(f"{guest.platform}/simulated/gpu-rules.json", timeout=30) as answer:
            rules = GpuRules.model_validate_json(answer.read())
    assert (first["before"], first["after"]) == (False, True)
    assert second["before"] is True  # the ready state is the domain's, not a container's
    for said in (first, second):
        devices = [gpu.GpuDevice(**one) for one in said["devices"]]
        verdict = gpu.appraise(devices, rules=rules, nonce=NONCE, at=SystemClock().now())
        assert (verdict.accepted, len(verdict.gpus), verdict.evidence_class) == (True, 2, "Simulated"), verdict.reasons


def test_a_domain_without_gpus_has_no_driver_library(root: Path) -> None:
    with domain() as guest:
        assert guest.run("one", root) == {"devices": [], "before": None, "after": None}
