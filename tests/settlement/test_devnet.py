"""Settlement on the real TVM: commit, claim, audit, against the devnet's liteservers and their proofs."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chrysalis.api.account import AllowedClient
from chrysalis.chain import servers, settlement
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.signer import SeedSigner
from chrysalis.chain.wallet import wallet_address
from chrysalis.clock import SystemClock, unix
from chrysalis.receipts.objects import ReceiptKeyCertificate
from chrysalis.settlement.committer import Committer
from chrysalis.settlement.epoch_store import EpochStore
from chrysalis.settlement.publisher import Publisher
from chrysalis.settlement.store import Ledger
from e2e.mortal import mortal

pytestmark = pytest.mark.tvm
TON = 1_000_000_000
PRICE = 25  # nanoton of one of the fake worker's jobs
FEE_BPS = 500


@dataclass
class Devnet:
    """A running devnet with a deployed contract."""

    config: Path
    folder: Path
    owner: SeedSigner
    settler: SeedSigner
    contract: str
    set_name: str

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "chrysalis.cli.main", *words], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    folder = tmp_path_factory.mktemp("devnet")
    config = folder / "devnet.json"
    process = subprocess.Popen(
        mortal(sys.executable, "-m", "e2e.devnet", "--config", config), stdout=subprocess.DEVNULL, env=dict(os.environ), text=True
    )
    try:
        seed = secrets.token_bytes(32)
        owner, settler = SeedSigner(seed), SeedSigner(secrets.token_bytes(32))
        (folder / "owner.seed").write_text(seed.hex())
        clock = SystemClock()
        until = clock.monotonic() + 120
        while not config.is_file():
            assert process.poll() is None
            assert clock.monotonic() < until
            time.sleep(0.1)
        network = json.loads(config.read_text())
        body = json.dumps({"address": wallet_address(owner.public_key), "nanoton": 100 * TON}).encode()
        request = urllib.request.Request(f"{network['control']}/fund", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        made = Devnet(config, folder, owner, settler, "", "")
        deployed = made.verb(
            "contract", "deploy", "--chain", str(config), "--wallet-key", str(folder / "owner.seed"),
            "--signer-key", settler.public_key.hex(), "--per-epoch-cap-nanoton", str(TON), "--top-up-nanoton", str(20 * TON),
            "--fee-bps", str(FEE_BPS), "--delay-seconds", "2", "--min-interval-seconds", "2", "-o", "json",
        )  # fmt: skip
        assert deployed.returncode == 0, deployed.stderr
        document = json.loads(deployed.stdout)
        made.contract, made.set_name = document["contract"], document["set"]
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_jobs_are_committed_claimed_and_audited(devnet: Devnet, bench: Any, make_worker: Any, tmp_path: Path) -> None:
    clock = SystemClock()
    now = unix(clock.now())
    ledger = Ledger.open(tmp_path / "real.sqlite")
    config = servers.load(devnet.config)
    ledger.bind(devnet.set_name, FEE_BPS)
    ledger.set_clients([AllowedClient(key=bench.client.public_key().public_bytes_raw().hex(), daily_cap_nanoton="1000000")], now)
    worker = make_worker(wallet=wallet_address(devnet.owner.public_key), set_name=devnet.set_name)
    worker.now = now
    token = worker.certificate(bench.ear, bench.reservation.public_key)
    ledger.register(ReceiptKeyCertificate.parse_unverified(token), token, "w", now)
    store = EpochStore(ledger)

    async def settle(jobs: int, epoch: int) -> None:
        appended = ledger.append(worker.wrk, [worker.receipt(bench.client) for _ in range(jobs)], [worker.offer], now)
        assert (appended.new, appended.refused, appended.stopped) == (jobs, {}, None)
        async with LiteserverClient(config, clock) as chain:
            committer = Committer(
                chain=chain,
                address=devnet.contract,
                fee_bps=FEE_BPS,
                global_id=config.global_id,
                epochs=store,
                publisher=Publisher(tmp_path / "published", store, devnet.set_name),
                signers=[devnet.settler],
                clock=clock,
                valid_seconds=60,
            )
            for _ in range(240):
                await committer.turn()
                if (view := store.view()).committed is not None and view.committed.epoch == epoch:
                    break
                await asyncio.sleep(0.5)
            found = await settlement.read(chain, devnet.contract)
            assert found.state.epoch == epoch
            for _ in range(240):  # until the root is active
                found = await settlement.read(chain, devnet.contract)
                if found.state.due(found.now):
                    break
                await asyncio.sleep(0.5)
            assert found.state.due(found.now)

    def audit() -> subprocess.CompletedProcess[str]:
        lines = tmp_path / "receipts.jsonl"
        lines.write_text("".join(record.to_line() + "\n" for _, record in ledger.records()))
        where = ("--epochs", str(tmp_path / "published"), "--chain", str(devnet.config), "--contract", devnet.contract)
        return devnet.verb("audit", "--receipts", str(lines), *where, "-o", "json")

    asyncio.run(settle(3, 1))
    asyncio.run(settle(2, 2))
    claimed = devnet.verb(
        "claim", "--chain", str(devnet.config), "--wallet-key", str(devnet.folder / "owner.seed"),
        "--contract", devnet.contract, "--earned", str(tmp_path / "published"), "-o", "json",
    )  # fmt: skip
    assert claimed.returncode == 0, claimed.stderr
    net = 5 * (PRICE - PRICE * FEE_BPS // 10_000)
    assert json.loads(claimed.stdout)["claimedNanoton"] == str(net)
    outcome = audit()
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    (wallet,) = json.loads(outcome.stdout)["wallets"]
    assert (wallet["netNanoton"], wallet["committedNanoton"], wallet["claimedNanoton"]) == (str(net),) * 3
    ledger.close()
