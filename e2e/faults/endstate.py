"""What must be true at the end, whatever was killed on the way.  Step 10 has compared sums and audited; this looks at the rest."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from chrysalis.api import names, wallet
from chrysalis.chain import contract
from chrysalis.client.receipt_file import load
from chrysalis.receipts import jws
from chrysalis.receipts.objects import Receipt
from chrysalis.receipts.records import Record, check
from e2e.demo import objects
from e2e.demo.install import WORKER, worker_pods
from e2e.demo.story import expect
from e2e.demo.world import World
from e2e.faults.processes import restarts
from e2e.faults.sight import Sight

REPLICAS = 2


def the_same(world: World, sight: Sight) -> str:
    """Raise StepFailed for whatever differs from a run in which nothing was killed; returns what was compared."""
    pods = _worker(world, sight)
    receipts = _receipts(world)
    epochs = _epochs(world, sight, len(receipts))
    _keys(sight, pods)
    return f"worker Ready with {REPLICAS} replicas, {len(receipts)} receipts each once and rightly billed, {epochs} epochs each once"


def _worker(world: World, sight: Sight) -> list[dict[str, Any]]:
    """Ready, with the replicas that were there from the start."""
    worker = world.get("cw", WORKER, "-n", objects.NAMESPACE)
    conditions = sight.conditions("cw")
    for kind in ("Attested", "KeyReleased", "Serving", "Ready"):
        expect(conditions.get(kind, ("", ""))[0] == "True", f"{kind} of {WORKER} is {conditions.get(kind)}")
    expect(worker["status"].get("readyReplicas") == REPLICAS, f"{worker['status'].get('readyReplicas')} of {REPLICAS} replicas are ready")
    pods = worker_pods(world, WORKER)
    expect(len(pods) == REPLICAS, f"{len(pods)} pods instead of {REPLICAS}")
    for pod in pods:
        gate = [c["status"] for c in pod["status"]["conditions"] if c["type"] == names.READINESS_ATTESTED]
        expect(gate == ["True"], f"{pod['metadata']['name']} has no {names.READINESS_ATTESTED}")
        expect(not any(restarts(pod).values()), f"containers of {pod['metadata']['name']} were restarted: {restarts(pod)}")
    return pods


def _receipts(world: World) -> list[Receipt]:
    """The settler holds what the client holds, each receipt once, none refused, each chain without a gap, each amount as its price."""
    mine, all_of_them = load([world.state / "receipts.jsonl"]), load([world.state / "all-receipts.jsonl"])
    twice = [token[:40] for token, times in Counter(record.receipt for record in all_of_them).items() if times > 1]
    expect(not twice, f"receipts that are in the ledger twice: {twice}")
    expect(_tokens(mine) == _tokens(all_of_them), "client and settler hold different receipts")
    refused = [record.refusal for record in all_of_them if record.refusal]
    expect(not refused, f"receipts were refused: {refused}")
    ear_key = bytes.fromhex(world.facts["broker"]["earKey"])
    checked = [check(record, ear_key=ear_key) for record in all_of_them]  # raises for an amount that use and price do not give
    owner = wallet.parse(world.facts["wallets"]["owner-wallet"])
    chains: dict[str, list[int]] = defaultdict(list)
    for each in checked:
        chains[each.receipt.wrk].append(each.receipt.seq)
        expect(wallet.parse(each.wallet) == owner, f"receipt {each.receipt.seq} pays another wallet: {each.wallet}")
    expect(len(chains) == REPLICAS, f"{len(chains)} workers have receipts instead of {REPLICAS}")
    for wrk, numbers in chains.items():
        expect(sorted(numbers) == list(range(1, len(numbers) + 1)), f"the chain of {wrk[:12]} has gaps or repetitions: {sorted(numbers)}")
    nonces = Counter(jws.identity(each.receipt.ticket) for each in checked)
    expect(max(nonces.values()) == 1, "a ticket was billed twice")
    return [each.receipt for each in checked]


def _tokens(records: list[Record]) -> list[str]:
    return sorted(record.receipt for record in records)


def _epochs(world: World, sight: Sight, receipts: int) -> int:
    """Numbered without a gap, each linked to the one before it, all committed, and the last is the contract's."""
    rows = sight.ledger("select epoch, prev, hash, state, log_size from epochs order by epoch")
    shown = json.loads(
        world.chrysalis("contract", "show", "--chain", str(world.state / "devnet.json"), world.facts["contract"], "-o", "json")
    )
    expect([row[0] for row in rows] == list(range(1, len(rows) + 1)), f"the ledger's epochs are {[row[0] for row in rows]}")
    expect(all(row[3] == "committed" for row in rows), f"epochs stand at {[row[3] for row in rows]}")
    previous, size = bytes(32), 0
    for number, prev, digest, _state, log_size in rows:
        expect(prev == previous, f"epoch {number} does not follow the one before it")
        expect(log_size > size, f"epoch {number} settles nothing new")
        previous, size = digest, log_size
    expect(size == receipts, f"the epochs cover {size} of {receipts} receipts")
    expect(int(shown["epoch"]) == len(rows), f"the contract is at epoch {shown['epoch']}, the ledger at {len(rows)}")
    expect(shown["lastHash"] == previous.hex(), f"the contract's last hash is {shown['lastHash']}, the ledger's {previous.hex()}")
    booked = {number: digest for number, _prev, digest, _state, _size in rows}
    signed = {contract.Commit.from_signed_body(contract.read_boc(body, "a kept body"))[1].content for body in _bodies(sight)}
    expect({each.epoch: each.hash for each in signed} == booked, "what was signed is not what is booked")
    expect(len(signed) == len(rows), "an epoch was signed with two contents")
    return len(rows)


def _bodies(sight: Sight) -> list[bytes]:
    return [bytes(row[0]) for row in sight.ledger("select body from bodies")]


def _keys(sight: Sight, pods: list[dict[str, Any]]) -> None:
    """The model's key went to the two replicas, and to nobody else."""
    released = {row[0] for row in sight.broker("select distinct pod_uid from results where released_at is not null")}
    uids = {str(pod["metadata"]["uid"]) for pod in pods}
    expect(released == uids, f"the key went to {sorted(released)}, the replicas are {sorted(uids)}")
    refused = sight.broker("select document from results where verdict <> 'Accepted'")
    expect(not refused, f"evidence was refused: {[str(row[0])[:300] for row in refused]}")
