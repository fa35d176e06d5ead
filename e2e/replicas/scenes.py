"""Three scenes.  Each changes something under a worker that serves, and says what a person would see of it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from chrysalis.api import names
from e2e.demo import objects
from e2e.demo.hardware import until
from e2e.demo.install import WORKER, worker_pods
from e2e.demo.story import Console, StepFailed, expect
from e2e.demo.world import World
from e2e.replicas.ground import COLLATERAL_SECONDS, REPLICAS, Brokers, broker_pods

READY_SECONDS = 180
PAST_HALF = 0.62
"""Of its life: the brokers ask anew at half of it, give or take a fifth of that."""
MODULE = b"chrysalis.broker.main"
ON_THE_WAY_SECONDS = 2
"""What the PCCS had answered before it failed is stored by then."""
IMPOSSIBLE = 1 << 20
"""A TCB evaluation data number that no platform reaches."""


def killed_mid_attestation(brokers: Brokers, console: Console) -> str:
    """New pods attest over two brokers while one of them is killed at the moment when a nonce is spent."""
    world = brokers.world
    spent = len(brokers.rows("select nonce from spent_nonces"))
    earlier = _refusals(brokers)
    before = {str(pod["metadata"]["uid"]) for pod in worker_pods(world, WORKER)}
    console.doing("replacing both worker pods")
    killed: list[int] = []

    def kill() -> None:
        """`kill -9` of one broker as soon as an attestation has begun to write."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if len(brokers.rows("select nonce from spent_nonces")) > spent:
                killed.append(process_of(broker_pods(world)[0]))
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    world.kubectl("delete", "pod", "-n", objects.NAMESPACE, "-l", f"{names.LABEL_WORKER}={WORKER}", "--wait=false")
    seconds = _ready_again(world, before)
    killer.join()
    expect(killed, "no attestation began in time, so no broker was killed")
    console.say(f"killed broker process {killed[0]} while it judged; both new replicas Ready after {seconds:.1f} s")
    now = {str(pod["metadata"]["uid"]) for pod in worker_pods(world, WORKER)}
    released = {row[0] for row in brokers.rows("select pod_uid from results where released_at is not null")}
    expect(now <= released, f"pods are Ready without a released key: {now - released}")
    expect(_refusals(brokers) == earlier, f"evidence was refused: {_refusals(brokers)}")
    _audit_is_whole(brokers)
    until("the killed broker is back", lambda: all_ready(broker_pods(world)), READY_SECONDS)
    return "a broker killed mid-attestation cost a repeated attempt and nothing else; the audit chain is whole"


def pccs_down(brokers: Brokers, console: Console) -> str:
    """From half-life on the PCCS fails; a new pod still attests, and renewals go on."""
    world = brokers.world
    earlier = _refusals(brokers)
    brokers.tell_pccs("fail")
    console.say("the PCCS answers 500 from now on")
    time.sleep(ON_THE_WAY_SECONDS)
    stored = _stored(brokers)
    due = _stored(brokers, "min") + COLLATERAL_SECONDS * PAST_HALF
    until("a broker has asked in vain", lambda: _failures(brokers) and world.clock.now().timestamp() > due, COLLATERAL_SECONDS)
    pods = worker_pods(world, WORKER)
    before = {str(pods[0]["metadata"]["uid"])}
    world.kubectl("delete", "pod", "-n", objects.NAMESPACE, str(pods[0]["metadata"]["name"]), "--wait=false")
    seconds = _ready_again(world, before)
    expect(_stored(brokers) == stored, "the collateral was replaced, so the outage was none")
    console.say(f"a new replica attested and is Ready after {seconds:.1f} s, with the collateral from before the outage")
    expect(_refusals(brokers) == earlier, f"evidence was refused: {_refusals(brokers)}")
    brokers.tell_pccs("none")
    until("the brokers hold new collateral", lambda: _stored(brokers) > stored and not _failures(brokers), 120)
    return "an outage of the PCCS past half-life refused nobody, and ended with fresh collateral"


def policy_tightened(brokers: Brokers, console: Console) -> str:
    """The owner stores a stricter policy while a worker serves: results end at once; a wider one lets it in again."""
    world = brokers.world
    tcb = {"allowedStatuses": ["UpToDate"], "minEvaluationDataNumber": IMPOSSIBLE}
    lose = world.try_chrysalis("policy", "simulate", *_simulated(brokers, tcb))
    expect(lose.returncode == 1, f"policy simulate ended with {lose.returncode}: {lose.stdout}{lose.stderr}")
    expect("TcbEvaluationTooOld" in lose.stdout, f"policy simulate does not say why: {lose.stdout}")
    for line in lose.stdout.strip().splitlines()[:4]:
        console.say(f"policy simulate: {line}")
    started = time.monotonic()
    brokers.put_policy(tcb=tcb)
    condition = until("the worker lost its admission", lambda: _attested(world, "False"), 60)
    console.say(f"{time.monotonic() - started:5.1f} s  Attested=False, {condition['reason']}: {condition['message'][:160]}")
    until("no replica is ready", lambda: not _ready_replicas(world), 60)
    now = int(world.clock.now().timestamp())
    live = brokers.rows(f"select result_id from results where verdict = 'Accepted' and revoked_at is null and expires_at > {now}")
    expect(not live, f"{len(live)} live results of the old policy were not revoked")
    brokers.put_policy()
    condition = until("the worker is attested again", lambda: _attested(world, "True"), READY_SECONDS)
    until("all replicas are ready again", lambda: _ready_replicas(world) == REPLICAS, READY_SECONDS)
    return "a tightened policy took a serving worker out, and a wider one let it in again, without anything restarted by hand"


def _simulated(brokers: Brokers, tcb: dict[str, Any]) -> list[str]:
    """Arguments of `policy simulate` for a policy with this tcb."""
    from e2e.demo.install import policy_object

    world = brokers.world
    policy = policy_object(world, objects.POLICY, brokers.measurements, version=brokers.policy_version + 1)
    policy["spec"]["tdx"]["tcb"] = tcb
    path = world.secret_file("tightened.yaml", json.dumps(policy).encode())
    where = ["--broker", world.facts["broker_address"], "--pin", world.facts["broker"]["spkiSha256"]]
    return ["-f", str(path), *where, "--owner-key", str(world.state / "owner.key")]


def _ready_again(world: World, gone: set[str]) -> float:
    """Wait until the worker has all its replicas Ready and none of the old pods; returns the seconds."""
    started = time.monotonic()

    def ready() -> bool:
        pods = worker_pods(world, WORKER)
        return len(pods) == REPLICAS and not {str(pod["metadata"]["uid"]) for pod in pods} & gone and all_ready(pods)

    until("the new replicas are Ready", ready, READY_SECONDS)
    return time.monotonic() - started


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod's condition Ready is True."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def all_ready(pods: list[dict[str, Any]]) -> bool:
    """Whether these are as many as there shall be, each ready."""
    return len(pods) == REPLICAS and all(map(is_ready, pods))


def _ready_replicas(world: World) -> int:
    return int(world.get("cw", WORKER, "-n", objects.NAMESPACE).get("status", {}).get("readyReplicas") or 0)


def _attested(world: World, status: str) -> dict[str, Any] | None:
    conditions = world.get("cw", WORKER, "-n", objects.NAMESPACE).get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "Attested" and c["status"] == status), None)


def process_of(pod: dict[str, Any]) -> int:
    """The broker's process of a pod, as the machine sees it."""
    uid = str(pod["metadata"]["uid"])
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if MODULE in (process / "cmdline").read_bytes().split(b"\0") and uid in (process / "cgroup").read_text():
                return int(process.name)
        except OSError:
            continue
    raise StepFailed(f"no process of the broker runs in pod {pod['metadata']['name']}")


def _audit_is_whole(brokers: Brokers) -> None:
    rows = brokers.rows("select seq, previous, hash from audit order by seq")
    expect(rows, "the audit log is empty")
    expect([row[0] for row in rows] == list(range(1, len(rows) + 1)), "the audit log has gaps")
    for before, after in pairwise(rows):
        expect(after[1] == before[2], f"audit record {after[0]} does not follow the one before it")


def _stored(brokers: Brokers, which: str = "max") -> int:
    """When the newest (max) or the oldest (min) document was stored, Unix seconds."""
    return int(brokers.rows(f"select {which}(stored_at) from collateral_documents")[0][0])


def _failures(brokers: Brokers) -> int:
    return int(brokers.rows("select count(*) from collateral_documents where failures > 0")[0][0])


def _refusals(brokers: Brokers) -> list[str]:
    """The reasons of all refused results, in order."""
    rows = brokers.rows("select document from results where verdict = 'Refused' order by seq")
    return [json.loads(row[0])["reasons"][0]["message"] for row in rows]
