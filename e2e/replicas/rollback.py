"""The database goes back behind its anchor: the brokers refuse, an administrator accepts it as docs/broker-keys.md says, and the pool
comes back by itself."""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import time
import zlib
from pathlib import Path

from e2e.demo.hardware import until
from e2e.demo.install import SYSTEM, WORKER, worker_pods
from e2e.demo.story import Console, StepFailed, expect
from e2e.demo.world import ROOT
from e2e.replicas.ground import Brokers, broker_pods
from e2e.replicas.scenes import all_ready, is_ready, process_of

ANCHOR = "chrysalis-broker-anchor"
DOCUMENT = ROOT / "docs" / "broker-keys.md"
REFUSE_SECONDS, BACK_SECONDS = 120, 240


def commands(document: Path = DOCUMENT) -> list[list[str]]:
    """What the document says to type after a rollback in a cluster: the lines behind `$` of the block that runs accept-rollback."""
    blocks = [block.partition("```")[0] for block in document.read_text().split("```console\n")[1:]]
    [block] = [block for block in blocks if "accept-rollback" in block]
    return [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").split("\n$ ") for line in [line.lstrip("$ ")]]


def state_rolled_back(brokers: Brokers, console: Console) -> str:
    """Put an older database under the brokers, start them again, and follow the document.

    The older one knows the policy's first version and the key, and none of the results and releases of the pods that serve.
    """
    world, postgres = brokers.world, brokers.postgres
    if postgres is None:
        raise StepFailed("there is no database")
    newest = int(brokers.rows("select max(seq) from audit")[0][0])
    until("the anchor has the newest record", lambda: _anchored(brokers) >= newest, 30)
    served = {str(pod["metadata"]["uid"]) for pod in worker_pods(world, WORKER)}
    postgres.put_back(brokers.older, brokers.database)
    for pod in broker_pods(world):  # they would end by themselves, at their next look
        os.kill(process_of(pod), signal.SIGKILL)
    said = until("every broker refuses to start", lambda: _refusals(brokers), REFUSE_SECONDS)
    console.say(f"a database of some minutes ago is in its place; each broker says: {said[:160]}")
    began = time.monotonic()
    name = str(broker_pods(world)[0]["metadata"]["name"])
    for words in commands():
        done = world.try_kubectl(*[name if word == "POD" else word for word in words[1:]])
        console.say(f"{' '.join(words)[:60]} …: {done.stdout.strip()[:160]}")
        expect(done.returncode == 0, f"{' '.join(words)}: {done.stderr}")
    until("a broker is ready", lambda: any(is_ready(pod) for pod in broker_pods(world)), BACK_SECONDS)
    accepted = brokers.rows("select count(*) from audit where event = 'RollbackAccepted'")[0][0]
    expect(accepted, "the audit log has no record of an accepted rollback")
    since = int(world.clock.now().timestamp())
    brokers.put_policy()  # its owner stores a version that the anchor did not know; until then nobody is admitted (VersionLost)
    console.say(f"a broker is ready, and the policy is stored again, {time.monotonic() - began:.1f} s after the first of these lines")
    until("the pool is back", lambda: served <= _accepted_since(brokers, since) and all_ready(worker_pods(world, WORKER)), BACK_SECONDS)
    until("both brokers are ready", lambda: all_ready(broker_pods(world)), BACK_SECONDS)
    expect({str(pod["metadata"]["uid"]) for pod in worker_pods(world, WORKER)} == served, "a worker's pod was replaced")
    seconds = time.monotonic() - began
    return f"an older database was refused, and accepted as the document says; the same pods served again {seconds:.0f} s later"


def _refusals(brokers: Brokers) -> str:
    """What a broker said when it ended, once every broker's newest start was refused."""
    found = ""
    for pod in broker_pods(brokers.world):
        [status] = pod["status"].get("containerStatuses") or [{}]
        ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")
        if not ended or "running" in status.get("state", {}):
            return ""
        previous = [] if "terminated" in status["state"] else ["--previous"]
        done = brokers.world.try_kubectl("logs", "-n", SYSTEM, str(pod["metadata"]["name"]), *previous, "--tail=20")
        lines = [line for line in done.stdout.splitlines() if "StateRolledBack" in line]
        if not lines:
            return ""
        found = lines[-1]
    return found


def _anchored(brokers: Brokers) -> int:
    """The number of the newest record that the anchor holds."""
    entry = brokers.world.get("configmap", ANCHOR, "-n", SYSTEM)["binaryData"]["anchor"]
    return int(json.loads(zlib.decompress(base64.b64decode(entry)))["state"]["auditSeq"])


def _accepted_since(brokers: Brokers, since: int) -> set[str]:
    """The pods that attested after a time and were given their key."""
    rows = brokers.rows(f"select pod_uid from results where issued_at >= {since} and released_at is not null and revoked_at is null")
    return {str(row[0]) for row in rows}
