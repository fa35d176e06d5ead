"""Steps 8 and 9: a client that verifies before it sends, and a Triton that is really there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from chrysalis.api import names
from chrysalis.attestation.policy_file import read_policy
from chrysalis.chain.signer import SeedSigner
from chrysalis.client.blocking import BlockingClient
from chrysalis.client.reasons import ClientError
from chrysalis.client.receipt_file import ReceiptFile
from chrysalis.client.session import Client
from chrysalis.errors import ChrysalisError
from e2e.demo.hardware import until
from e2e.demo.install import WORKER, worker_pods
from e2e.demo.marks import Mark
from e2e.demo.money import receipt_of
from e2e.demo.story import Console, StepFailed, expect
from e2e.demo.world import World
from e2e.triton.install import prepare

SENTENCES = ("a cat sleeps on the sofa", "a kitten naps on the couch", "quarterly revenue rose by four per cent")
JOBS = 20
MAX_NANOTON = 10_000_000
MAX_DIFFERENCE = 2e-3
"""Between Triton's answer and a direct run: int8 kernels choose their order by batch and threads."""
DIRECT = """
import json, sys, numpy, onnxruntime, tokenizers
folder, texts = sys.argv[1], json.loads(sys.stdin.read())
tokenizer = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json")
tokenizer.enable_truncation(256); tokenizer.enable_padding()
found = tokenizer.encode_batch(texts)
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
ids = numpy.array([e.ids for e in found]); mask = numpy.array([e.attention_mask for e in found])
feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
hidden = session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})[0]
mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
print(json.dumps((mean / numpy.linalg.norm(mean, axis=1, keepdims=True)).tolist()))
"""


def endpoint(pod: dict[str, Any]) -> str:
    """The gateway of one replica."""
    return f"https://{pod['status']['podIP']}:{names.PORT_GATEWAY}"


def client(world: World, url: str, *, policy: str = "policy-signed.yaml", key: str = "client") -> BlockingClient:
    """The Python client with the demo's policy, its allowed key and the pinned EAR key; it keeps its receipts."""
    seed = bytes.fromhex((world.state / f"{key}.seed").read_text())
    return BlockingClient(
        Client(
            url,
            policy=read_policy((world.state / policy).read_bytes()),
            client_key=SeedSigner(seed),
            receipts=ReceiptFile(world.state / "receipts.jsonl"),
            ear_key=bytes.fromhex(world.facts["broker"]["earKey"]),
        )
    )


def verifying_client(world: World, console: Console) -> str:
    """Verify, then ask; similarities that make sense; twenty more jobs on both replicas; receipts kept."""
    pods = worker_pods(world, WORKER)
    until("the settler has told the gateways who may order", lambda: _served(world, endpoint(pods[0])), 180)
    with client(world, endpoint(pods[0])) as first:
        verified = first.connect()
        console.say(f"verified before the first byte: {verified.evidence_class} evidence, TCB {verified.tcb_status}, {verified.mode}")
        job = first.embeddings(list(SENTENCES), max_nanoton=MAX_NANOTON)
    near, far = _dot(job.vectors[0], job.vectors[1]), _dot(job.vectors[0], job.vectors[2])
    console.say(f"similarity cat/kitten {near:.3f}, cat/revenue {far:.3f}")
    expect(near > 0.5 > 0.2 > far, "the similarities make no sense")
    expect(job.receipt is not None and job.receipt.amt > 0, "the job has no receipt with an amount")
    if job.receipt is not None:
        receipt = job.receipt
        console.say(f"receipt {receipt.seq} of {receipt.wrk[:12]}…: {receipt.use.prompt} tokens, {receipt.amt} nanoton")
    world.facts["first_vectors"] = job.vectors
    for pod in pods:
        with client(world, endpoint(pod)) as each:
            for number in range(JOBS // len(pods)):
                if pod is pods[0] and number == JOBS // len(pods) // 2:
                    world.reached(Mark.HALF_OF_THE_JOBS)
                each.embeddings([f"sentence {number} of twenty"], max_nanoton=MAX_NANOTON)
    kept = ReceiptFile(world.state / "receipts.jsonl").records()
    workers = {wrk for wrk, _ in ReceiptFile(world.state / "receipts.jsonl").heads().items()}
    expect(len(workers) == len(pods), f"the receipts are of {len(workers)} workers instead of {len(pods)}")
    return f"{len(kept)} jobs on {len(workers)} verified replicas, each with a receipt that was checked and kept"


def _served(world: World, url: str) -> bool:
    """Whether a job of the allowed client is taken; the first ones come before its key is known there."""
    try:
        with client(world, url) as trial:
            trial.embeddings(["hello"], max_nanoton=MAX_NANOTON)
        return True
    except ChrysalisError:
        return False


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def triton(world: World, console: Console) -> str:
    """The answer is the model's own; a killed stub is noticed, replaced, and nothing is billed for it."""
    direct = _direct(world)
    difference = max(
        abs(a - b) for one, other in zip(direct, world.facts["first_vectors"], strict=True) for a, b in zip(one, other, strict=True)
    )
    expect(difference < MAX_DIFFERENCE, f"Triton's answer differs from a direct run of the ONNX file by {difference:.2g}")
    console.say(f"Triton's vectors equal a direct run of the sealed ONNX file (largest difference {difference:.1e})")
    pod = worker_pods(world, WORKER)[0]
    name = str(pod["metadata"]["name"])
    stub = _stub(pod)
    with (
        Readiness(str(pod["status"]["podIP"])) as watched,
        client(world, endpoint(pod)) as trial,
    ):
        # it is connected and has verified by now: that may take longer than the recovery
        os.kill(stub, signal.SIGKILL)
        console.say(f"killed Triton's Python stub of {name}: process {stub}")
        killed = time.monotonic()
        world.reached(Mark.STUB_KILLED)
        _job_that_fails(world, trial)
        console.say(f"{time.monotonic() - killed:5.1f} s  a job was refused with 502 and cost nothing")
        until("the canary notices", lambda: watched.lost, 120)
        console.say(f"{watched.lost - killed:5.1f} s  the canary failed: the replica says that it is not ready")
        world.reached(Mark.CANARY_FAILED)
        until("the replica recovers", lambda: watched.regained, 180)
        console.say(f"{watched.regained - killed:5.1f} s  Triton was restarted, the replica is ready again")
    until("its pod is Ready", lambda: _ready(world, name), 180)
    with client(world, endpoint(pod)) as again:
        job = again.embeddings(["after the restart"], max_nanoton=MAX_NANOTON)
    expect(job.receipt is not None and job.receipt.amt > 0, "the replica does not bill after its recovery")
    expect(_stub(pod) != stub, "the stub is still the killed process")
    restarts = sum(s["restartCount"] for s in world.get("pod", name, "-n", pod["metadata"]["namespace"])["status"]["containerStatuses"])
    expect(restarts == 0, f"containers were restarted {restarts} times; the supervisor should have done it")
    return "the model's own answers; a killed stub was noticed and replaced, and the job that met it cost nothing"


class Readiness:
    """Asks a gateway's /readyz twenty times a second; a restart of Triton may be quicker than the kubelet's probe."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}:{names.PORT_HEALTH}/readyz"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.lost = 0.0
        """When it was first not ready (monotonic seconds; 0 before that)."""
        self.regained = 0.0
        """When it was ready again after that."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            try:
                with urllib.request.urlopen(self._url, timeout=2) as answer:
                    ready = answer.status == 200
            except urllib.error.HTTPError as refused:
                ready = refused.code == 200
            except OSError:
                continue
            if not ready and not self.lost:
                self.lost = time.monotonic()
            elif ready and self.lost and not self.regained:
                self.regained = time.monotonic()


def _job_that_fails(world: World, trial: BlockingClient) -> None:
    """A job while the stub is dead fails, and leaves no receipt with an amount."""
    path = world.state / "receipts.jsonl"
    before = sum(receipt_of(record).amt for record in ReceiptFile(path).records())
    try:
        trial.embeddings(["into the void"], max_nanoton=MAX_NANOTON)
    except ClientError:
        pass
    else:
        raise StepFailed("a dead stub answered a job")
    after = sum(receipt_of(record).amt for record in ReceiptFile(path).records())
    expect(after == before, f"a failed job was billed {after - before} nanoton")


def _direct(world: World) -> list[list[float]]:
    """The same sentences through onnxruntime alone, in a process of its own with the model's own packages."""
    packages = prepare().site_packages
    words = [sys.executable, "-c", DIRECT, str(world.state / "repository" / "minilm" / "1")]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "HOME": str(world.state)}
    done = subprocess.run(words, input=json.dumps(SENTENCES), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise StepFailed(f"the direct run failed: {done.stderr[-400:]}")
    vectors: list[list[float]] = json.loads(done.stdout)
    return vectors


def _stub(pod: dict[str, Any]) -> int:
    """The process id of the pod's Python stub, as the host sees it; raises StepFailed when there is none."""
    uid = str(pod["metadata"]["uid"])
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                b"triton_python_backend_stub" in (process / "cmdline").read_bytes().split(b"\0")[0]
                and uid in (process / "cgroup").read_text()
            ):
                return int(process.name)
        except OSError:
            continue
    raise StepFailed(f"no Python stub of pod {uid} runs")


def _ready(world: World, name: str) -> bool:
    pod = world.get("pod", name, "-n", "pool")
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
