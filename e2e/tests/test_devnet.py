"""The devnet as pytoniq sees it at every trust level, its faults, its end; and the command line against it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytoniq.contract.wallets.wallet import WalletV4R2
from pytoniq.liteclient.client import LiteClient, RunGetMethodError
from pytoniq_core.boc.address import Address
from pytoniq_core.tl.block import BlockIdExt

from chrysalis.chain import contract, settlement
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.contract import Commit, CommitContent, Policy
from chrysalis.chain.purse import Purse
from chrysalis.chain.reasons import ChainError, ChainReason
from chrysalis.chain.signer import SeedSigner
from chrysalis.chain.wallet import Transfer, wallet_address
from chrysalis.clock import SystemClock
from e2e.devnet.network import Devnet, Options
from e2e.mortal import mortal

pytestmark = pytest.mark.tvm
TON = 1_000_000_000
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    file = tmp_path_factory.mktemp("devnet") / "chain.json"
    with Devnet(Options(config_file=file, block_seconds=0.2)) as running:
        yield running


def chain_file(devnet: Devnet) -> Path:
    file = devnet.network.options.config_file
    assert file is not None
    return file


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 300))


def client(devnet: Devnet) -> LiteserverClient:
    return LiteserverClient(devnet.config, CLOCK, timeout=30)


@pytest.mark.parametrize("trust_level", [0, 1, 2])
def test_pytoniq_at_every_trust_level(devnet: Devnet, trust_level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Level 0 checks validators' signatures from the key block on; wallet, transfer, transactions, get-method, config, block."""
    monkeypatch.chdir(tmp_path)  # level 0 writes its store into the working directory
    server, first = devnet.config.liteservers[0], devnet.network.chain.master(1)
    assert first is not None
    signer_seed = secrets.token_bytes(32)
    address = Address(wallet_address(SeedSigner(signer_seed).public_key))
    devnet.fund(address.to_str(), 10 * TON)

    async def work() -> None:
        key = base64.b64encode(bytes.fromhex(server.key)).decode()
        block = BlockIdExt(-1, None, 1, first.root_hash, first.file_hash)
        lite = LiteClient(server.host, server.port, key, timeout=30, trust_level=trust_level, init_key_block=block)
        await lite.connect()
        try:
            private = signer_seed + SeedSigner(signer_seed).public_key
            wallet = await WalletV4R2.from_private_key(lite, private, version="v4r2")
            assert wallet.address == address
            assert wallet.balance == 10 * TON
            await wallet.send_init_external()
            await eventually(lambda: active(wallet))
            assert await wallet.get_seqno() == 1
            other = Address((0, secrets.token_bytes(32)))
            await wallet.transfer(other, TON)
            await eventually(lambda: has_balance(lite, other, TON))
            transactions = await lite.get_transactions(wallet.address, 10)
            assert [len(transaction.out_msgs) for transaction in transactions] == [1, 0, 0]
            assert {19, 34, 43} <= set(await lite.get_config_params([19, 34, 43]))
            last = lite.last_mc_block  # the client follows the chain meanwhile
            assert (await lite.raw_get_block(last)).info.seqno == last.seqno
            with pytest.raises(RunGetMethodError):
                await lite.run_get_method(other, "seqno", [])
        finally:
            await lite.close()

    run(work())


async def active(wallet: WalletV4R2) -> bool:
    await wallet.update()
    return bool(wallet.is_active)


async def has_balance(lite: LiteClient, address: Address, balance: int) -> bool:
    return bool((await lite.get_account_state(address)).balance == balance)


async def eventually(probe: Any, seconds: float = 60) -> None:
    end = CLOCK.monotonic() + seconds
    while not await probe():
        assert CLOCK.monotonic() < end
        await asyncio.sleep(0.1)


@dataclass
class Made:
    """A deployed contract with the people around it."""

    address: str
    owner: SeedSigner
    signer: SeedSigner


def deployed(devnet: Devnet, *, delay: int = 5) -> Made:
    owner, signer = SeedSigner(secrets.token_bytes(32)), SeedSigner(secrets.token_bytes(32))
    policy = Policy(
        global_id=devnet.config.global_id,
        owner=wallet_address(owner.public_key),
        delay_seconds=delay,
        min_interval_seconds=delay,
        per_epoch_cap_nanoton=1000 * TON,
    )
    address = contract.contract_address(policy, signer.public_key)
    devnet.fund(policy.owner, 60 * TON)

    async def work() -> None:
        async with client(devnet) as chain:
            init = contract.state_init(policy, signer.public_key)
            transfer = Transfer(to=address, value_nanoton=50 * TON, body=contract.top_up_body(), state_init=init, bounce=False)
            await Purse(chain, owner, CLOCK).spend([transfer])
            await settlement.wait_until(chain, address, lambda account: account if account.active else None, clock=CLOCK, seconds=60)

    run(work())
    return Made(address, owner, signer)


async def signed_commit(chain: LiteserverClient, made: Made, leaves: dict[bytes, int]) -> Any:
    found = await settlement.read(chain, made.address)
    content = CommitContent(
        epoch=found.state.epoch + 1,
        prev=found.state.last_hash,
        root=contract.earned_root(leaves),
        earned_nanoton=sum(leaves.values()),
        fees_nanoton=0,
        log_root=bytes(32),
        log_size=1,
    )
    account = contract.account_id(made.address)
    commit = Commit(global_id=found.state.policy.global_id, contract=account, valid_until=found.now + 300, content=content)
    return commit.signed_body(made.signer.sign(commit.hash))


async def committed(chain: LiteserverClient, made: Made, epoch: int, seconds: float = 60) -> contract.State:
    def probe(account: Any) -> contract.State | None:
        state = contract.parse_state(account.data)
        return state if state.epoch >= epoch else None

    return await settlement.wait_until(chain, made.address, probe, clock=CLOCK, seconds=seconds, poll=0.1)


def test_a_commit_that_is_dropped_is_sent_again_and_counts_once(devnet: Devnet) -> None:
    made = deployed(devnet)
    leaves = {secrets.token_bytes(32): TON}

    async def work() -> None:
        async with client(devnet) as chain:
            body = await signed_commit(chain, made, leaves)
            devnet.network.chain.faults.drop_externals = 3
            assert await chain.send_external(made.address, body) == 3  # taken by all, and lost
            with pytest.raises(ChainError) as waited:
                await committed(chain, made, 1, seconds=1.5)
            assert waited.value.reason == ChainReason.WAIT_TIMED_OUT
            assert await chain.send_external(made.address, body) == 1
            assert (await committed(chain, made, 1)).epoch == 1
            with pytest.raises(ChainError) as again:
                await chain.send_external(made.address, body)
            assert (again.value.reason, again.value.exit_code) == (ChainReason.MESSAGE_REFUSED, 103)

    run(work())


def test_a_withheld_shard_block_is_not_final(devnet: Devnet) -> None:
    made = deployed(devnet)

    async def work() -> None:
        async with client(devnet) as chain:
            devnet.network.chain.faults.withhold_shard = True
            try:
                await chain.send_external(made.address, await signed_commit(chain, made, {bytes(32): 1}))
                with pytest.raises(ChainError):
                    await committed(chain, made, 1, seconds=1.5)
            finally:
                devnet.network.chain.faults.withhold_shard = False
            await committed(chain, made, 1)

    run(work())


def test_internal_messages_are_held(devnet: Devnet) -> None:
    made, account = deployed(devnet), secrets.token_bytes(32)

    async def work() -> None:
        async with client(devnet) as chain:
            devnet.network.chain.faults.hold_blocks = 1_000_000
            try:
                await Purse(chain, made.owner, CLOCK).spend([Transfer(to="0:" + account.hex(), value_nanoton=TON, bounce=False)])
                assert (await chain.account("0:" + account.hex())).status == "absent"
            finally:
                devnet.network.chain.faults.hold_blocks = 1
            await settlement.wait_until(
                chain, "0:" + account.hex(), lambda found: found if found.balance_nanoton == TON else None, clock=CLOCK, seconds=60
            )

    run(work())


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chrysalis.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_command_line_deploys_shows_and_claims(devnet: Devnet, tmp_path: Path) -> None:
    chain = chain_file(devnet)
    owner, worker, signer = (SeedSigner(secrets.token_bytes(32)) for _ in range(3))
    seeds = {"owner": secrets.token_bytes(32), "worker": secrets.token_bytes(32)}
    for name, seed in seeds.items():
        (tmp_path / name).write_text(seed.hex() + "\n")
    owner, worker = SeedSigner(seeds["owner"]), SeedSigner(seeds["worker"])
    devnet.fund(wallet_address(owner.public_key), 60 * TON)
    wallet = wallet_address(worker.public_key)
    deploy = ["contract", "deploy", "--chain", chain, "--wallet-key", tmp_path / "owner", "--signer-key", signer.public_key.hex()]
    deploy += ["--per-epoch-cap-nanoton", 100 * TON, "--top-up-nanoton", 50 * TON, "--delay-seconds", 600, "--min-interval-seconds", 600]
    done = cli(*deploy, "-o", "json")
    assert done.returncode == 0, done.stderr
    address = json.loads(done.stdout)["contract"]
    again = cli(*deploy, "-o", "json")
    assert json.loads(again.stdout)["balanceNanoton"] == json.loads(done.stdout)["balanceNanoton"]

    leaves = {contract.account_id(wallet): 3 * TON + 7, secrets.token_bytes(32): TON}

    async def commit() -> None:
        async with client(devnet) as lite:
            made = Made(address, owner, signer)
            await lite.send_external(address, await signed_commit(lite, made, leaves))
            await committed(lite, made, 1)

    run(commit())
    (tmp_path / "epochs" / "1").mkdir(parents=True)
    (tmp_path / "epochs" / "1" / "earned.boc").write_bytes(contract.earned_boc(contract.earned_cell(leaves)))
    claim = ["claim", "--chain", chain, "--wallet-key", tmp_path / "worker", "--contract", address, "--earned", tmp_path]
    early = cli(*claim)
    assert (early.returncode, early.stderr.split(":")[0]) == (1, "RootNotActive")
    assert "becomes active at" in early.stderr
    devnet.advance(600)
    poor = cli(*claim)
    assert (poor.returncode, poor.stderr.split(":")[0]) == (1, "BalanceTooLow")
    devnet.fund(wallet, TON)
    paid = cli(*claim, "-o", "json")
    assert paid.returncode == 0, paid.stderr
    result = json.loads(paid.stdout)
    assert result["claimedNanoton"] == str(3 * TON + 7)
    rise = int(result["balanceAfterNanoton"]) - int(result["balanceBeforeNanoton"])
    assert rise == 3 * TON + 7 - int(result["feeNanoton"])
    assert 0 < int(result["feeNanoton"]) < contract.CLAIM_VALUE_NANOTON
    twice = cli(*claim)
    assert (twice.returncode, twice.stderr.split(":")[0]) == (1, "NothingToClaim")
    shown = json.loads(cli("contract", "show", "--chain", chain, address, "-o", "json").stdout)
    assert (shown["epoch"], shown["paidNanoton"], shown["owedNanoton"]) == (1, str(3 * TON + 7), str(TON))


BAD_COMMANDS: list[tuple[str, list[str], int, str]] = [
    ("no contract there", ["contract", "show", "--chain", "CHAIN", "0:" + "12" * 32], 1, "ContractAbsent"),
    ("an address with a wrong checksum", ["contract", "show", "--chain", "CHAIN", "EQ" + "A" * 46], 2, "WalletAddressInvalid"),
    ("no such file", ["contract", "show", "--chain", "nowhere.json", "0:" + "12" * 32], 2, "Usage"),
    ("a file that is none", ["contract", "show", "--chain", "SEED", "0:" + "12" * 32], 2, "CellMalformed"),
    ("nobody answers", ["contract", "show", "--chain", "DOWN", "0:" + "12" * 32], 3, "LiteserversUnreachable"),
    ("a mnemonic", ["claim", "--chain", "CHAIN", "--wallet-key", "CHAIN", "--contract", "0:" + "12" * 32, "--earned", "x"],
     2, "SeedInvalid"),
    ("no files at that URL", ["claim", "--chain", "CHAIN", "--wallet-key", "SEED", "--contract", "MADE", "--earned", "http://127.0.0.1:9/earned.boc"],
     3, "FilesUnreachable"),
    ("a dictionary that is none", ["claim", "--chain", "CHAIN", "--wallet-key", "SEED", "--contract", "MADE", "--earned", "SEED"],
     2, "CellMalformed"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "code", "reason"), BAD_COMMANDS, ids=[row[0] for row in BAD_COMMANDS])
def test_exit_codes(devnet: Devnet, tmp_path: Path, name: str, arguments: list[str], code: int, reason: str) -> None:
    (tmp_path / "seed").write_bytes(secrets.token_bytes(32))
    down = {"liteservers": [{"host": "127.0.0.1", "port": 9, "key": devnet.config.liteservers[0].key}], "minServers": 1, "globalId": -777}
    (tmp_path / "down.json").write_text(json.dumps(down))
    places = {"CHAIN": str(chain_file(devnet)), "SEED": str(tmp_path / "seed"), "DOWN": str(tmp_path / "down.json")}
    if "MADE" in arguments:
        places["MADE"] = deployed(devnet).address
    done = cli(*[places.get(argument, argument) for argument in arguments])
    assert (done.returncode, reason in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_it_ends_cleanly_on_sigterm_with_its_child(tmp_path: Path) -> None:
    file = tmp_path / "chain.json"
    command = mortal(sys.executable, "-m", "e2e.devnet", "--config", file, "--servers", 2)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 120
        while not file.is_file():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        document = json.loads(file.read_text())
        assert (len(document["liteservers"]), document["minServers"], document["globalId"]) == (2, 2, -777)
        children = _children(process.pid)
        assert children
        body = json.dumps({"address": "0:" + "11" * 32, "nanoton": TON}).encode()
        assert _post(document["control"] + "/fund", body) == (200, {"simulated": True})
        assert _post(document["control"] + "/fund", b'{"address": "x", "nanoton": 1}')[0] == 422
        assert _post(document["control"] + "/fund", b"[]")[0] == 400
        assert _post(document["control"] + "/nothing", b"{}")[0] == 404
        assert _post(document["control"] + "/advance", b'{"seconds": 100}')[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not [child for child in children if Path(f"/proc/{child}").exists()]
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(document["control"] + "/status", timeout=2)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _children(pid: int) -> list[str]:
    """Children of all threads: the TVM is started from a worker thread, which may be over."""
    found: list[str] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return found


def _post(url: str, body: bytes) -> tuple[int, Any]:
    request = urllib.request.Request(url, data=body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
