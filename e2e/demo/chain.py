"""Step 4: the TON devnet, its faucet, and the pool's contract on it."""

from __future__ import annotations

import json
import os
import secrets
import sys
import urllib.request

from chrysalis.amounts import ton
from chrysalis.chain.signer import SeedSigner
from chrysalis.chain.wallet import wallet_address
from e2e.demo.hardware import until
from e2e.demo.story import Console, expect
from e2e.demo.world import World

TON = 1_000_000_000
POOL_WALLET_NANOTON = 200 * TON
POOL_TOP_UP_NANOTON = 50 * TON
OWNER_WALLET_NANOTON = 2 * TON
DELAY_SECONDS = 5
FEE_BPS = 250
PER_EPOCH_CAP_NANOTON = 10 * TON
SEEDS = ("pool-wallet", "owner-wallet", "settlement", "reservation", "client", "stranger")


def ton_devnet(world: World, console: Console) -> str:
    """Blocks with proofs, liteservers that pods reach, a faucet, and the settlement contract deployed."""
    config = world.state / "devnet.json"
    console.doing("starting the TVM and the liteservers")
    words = [sys.executable, "-m", "e2e.devnet", "--host", world.running.host_ip, "--config", str(config)]
    world.running.start("devnet", words, environment=dict(os.environ))
    until("the devnet has written its config", config.is_file, 240)
    network = json.loads(config.read_text())
    world.facts["devnet"] = network
    keys = {}
    for name in SEEDS:
        seed = secrets.token_bytes(32)
        world.secret_file(f"{name}.seed", seed.hex().encode())
        keys[name] = SeedSigner(seed)
    world.facts["keys"] = {name: signer.public_key.hex() for name, signer in keys.items()}
    world.facts["wallets"] = {name: wallet_address(keys[name].public_key) for name in ("pool-wallet", "owner-wallet")}
    for name, nanoton in (("pool-wallet", POOL_WALLET_NANOTON), ("owner-wallet", OWNER_WALLET_NANOTON)):
        _post(f"{network['control']}/fund", {"address": world.facts["wallets"][name], "nanoton": nanoton})
        console.say(f"the simulated faucet gave {ton(nanoton)} to {name} {world.facts['wallets'][name][:14]}…")
    console.doing("deploying the contract")
    deployed = json.loads(
        world.chrysalis(
            "contract", "deploy", "--chain", str(config), "--wallet-key", str(world.state / "pool-wallet.seed"),
            "--signer-key", world.facts["keys"]["settlement"], "--per-epoch-cap-nanoton", str(PER_EPOCH_CAP_NANOTON),
            "--top-up-nanoton", str(POOL_TOP_UP_NANOTON), "--fee-bps", str(FEE_BPS), "--delay-seconds", str(DELAY_SECONDS),
            "--min-interval-seconds", str(DELAY_SECONDS), "-o", "json",
        )
    )  # fmt: skip
    expect(deployed["epoch"] == 0 and int(deployed["balanceNanoton"]) > 0, f"the contract is not as deployed: {deployed}")
    world.facts["contract"] = deployed["contract"]
    world.facts["set"] = deployed["set"]
    console.say(f"settlement contract {deployed['contract'][:18]}… holds {ton(int(deployed['balanceNanoton']))}, epoch 0, proven by")
    console.say(f"{len(network['liteservers'])} liteservers with keys of their own, {network.get('minServers', 2)} of which must agree")
    return f"the real TVM runs the contract; its state is read by proof from {len(network['liteservers'])} liteservers"


def _post(url: str, body: dict[str, object]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
