"""Step 10: receipts are collected, an epoch is committed on the devnet, the owner's wallet claims, an audit agrees."""

from __future__ import annotations

import json
from typing import Any

from chrysalis.amounts import ton
from chrysalis.client.receipt_file import load
from chrysalis.receipts import pricing
from chrysalis.receipts.objects import Receipt
from chrysalis.receipts.records import Record, check
from e2e.demo import chain, objects
from e2e.demo.hardware import until
from e2e.demo.marks import Mark
from e2e.demo.story import Console, expect
from e2e.demo.world import World

SETTLE_SECONDS = 180
CLAIMABLE_SECONDS = 180


def settlement(world: World, console: Console) -> str:
    """Sum of net amounts = committed = claimed = rise of the wallet's balance, less the fee that it paid."""
    settler = settler_url(world)
    receipts = [receipt_of(record) for record in load([world.state / "receipts.jsonl"])]
    gross = sum(r.amt for r in receipts)
    net = sum(r.amt - pricing.fee(r.amt, chain.FEE_BPS) for r in receipts)
    console.say(f"the client holds {len(receipts)} receipts: {gross} nanoton, of which {net} are the owner's after the pool's fee")
    until(f"the contract's newest epoch commits {net} nanoton", lambda: _committed(world) == net, SETTLE_SECONDS)
    state = _contract(world)
    console.say(f"epoch {state['epoch']} commits {net} nanoton under root {str(state['pendingRoot'] or state['activeRoot'])[:16]}…")
    world.reached(Mark.COMMITTED)
    console.doing("waiting until the root is active")
    claimed = until("the root is active and claimed", lambda: _claim(world, settler, net), CLAIMABLE_SECONDS)
    rise = int(claimed["balanceAfterNanoton"]) - int(claimed["balanceBeforeNanoton"]) + int(claimed["feeNanoton"])
    console.say(f"the owner's wallet claimed {claimed['claimedNanoton']} nanoton and paid {ton(int(claimed['feeNanoton']))} of fees for it")
    expect(net == int(claimed["earnedNanoton"]) == int(claimed["claimedNanoton"]), f"claimed {claimed['claimedNanoton']} instead of {net}")
    expect(rise == net, f"the wallet's balance rose by {rise} instead of {net}")
    console.say(f"sum of net amounts {net} = committed {net} = claimed {claimed['claimedNanoton']} = rise of the balance {rise}")
    mine, everyone = world.state / "receipts.jsonl", world.state / "all-receipts.jsonl"
    world.chrysalis("receipts", "--settler", settler, "--key", str(world.state / "reservation.seed"), "--out", str(everyone))
    expect(len(load([everyone])) == len(load([mine])), "the settler's ledger and the client's file hold different numbers of receipts")
    found = json.loads(world.chrysalis(*audit_words(world, str(everyone)), "-o", "json"))
    console.say(f"chrysalis audit agrees, from receipts and the chain's proofs alone: {json.dumps(found)[:160]}")
    line = world.kubectl("get", "sacct", "-n", objects.NAMESPACE)
    for text in line.splitlines():
        console.say(text)
    return f"{len(receipts)} receipts → epoch {state['epoch']} → {ton(net)} claimed; every sum agrees and the audit holds"


def settler_url(world: World) -> str:
    """The settler's public HTTP service."""
    address = world.get("service", "chrysalis-settler", "-n", "chrysalis-system")["spec"]["clusterIP"]
    return f"http://{address}:8444"


def audit_words(world: World, receipts: str) -> list[str]:
    """`chrysalis audit` for a file of receipts."""
    return [
        "audit", "--receipts", receipts, "--epochs", settler_url(world), "--chain", str(world.state / "devnet.json"),
        "--contract", world.facts["contract"], "--ear-key", world.facts["broker"]["earKey"],
    ]  # fmt: skip


def receipt_of(record: Record) -> Receipt:
    """The receipt in a record, its signatures checked."""
    return check(record).receipt


def _contract(world: World) -> dict[str, Any]:
    words = ["contract", "show", "--chain", str(world.state / "devnet.json"), world.facts["contract"], "-o", "json"]
    shown: dict[str, Any] = json.loads(world.chrysalis(*words))
    return shown


def _committed(world: World) -> int:
    """What the newest committed epoch says was earned in all, by the account's status."""
    status = world.get("sacct", objects.ACCOUNT, "-n", objects.NAMESPACE).get("status", {})
    return int(status.get("earnedNanoton", -1))


def _claim(world: World, settler: str, net: int) -> dict[str, Any] | None:
    """Claim once the active root holds everything; None before that."""
    if _contract(world)["pendingRoot"] is not None or _committed(world) != net:
        return None
    done = world.try_chrysalis(
        "claim", "--chain", str(world.state / "devnet.json"), "--wallet-key", str(world.state / "owner-wallet.seed"),
        "--contract", world.facts["contract"], "--earned", settler, "-o", "json",
    )  # fmt: skip
    if done.returncode:
        return None
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome
