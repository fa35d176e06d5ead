"""The whole devnet: the TVM, the chain, liteservers and control; and a form of it for programs that are not asyncio."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from chrysalis.amounts import amount
from chrysalis.api import wallet
from chrysalis.api.account import Liteserver
from chrysalis.chain.servers import ChainConfig
from chrysalis.chain.signer import SeedSigner
from chrysalis.clock import Clock, SystemClock
from e2e.devnet.chain import BLOCK_SECONDS, Chain
from e2e.devnet.control import LOOPBACK, Control
from e2e.devnet.genesis import GLOBAL_ID, configuration
from e2e.devnet.ledger import Ledger
from e2e.devnet.liteserver import LiteServer
from e2e.devnet.tvm import Tvm

SERVERS = 3
VALIDATORS = 3
START_SECONDS = 120
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a devnet is started."""

    host: str = LOOPBACK  # where the liteservers listen; the address of the host's bridge, so that pods reach them
    ports: Sequence[int] = ()  # of the liteservers; free ones are taken when there are too few
    servers: int = SERVERS
    min_servers: int = 2
    block_seconds: float = BLOCK_SECONDS
    control_port: int = 0
    config_file: Path | None = None
    clock: Clock = field(default_factory=SystemClock)


class Network:
    """A running devnet, in the event loop that started it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._tvm: Tvm | None = None
        self._tick: asyncio.Task[None] | None = None
        self._control: Control | None = None
        self.servers: list[LiteServer] = []
        self.chain: Chain
        self.config: ChainConfig

    async def start(self) -> None:
        """Make keys, the first block, the liteservers; write the config file when everything answers."""
        try:
            self._tvm = tvm = await asyncio.to_thread(Tvm)
            validators = [SeedSigner(secrets.token_bytes(32)) for _ in range(VALIDATORS)]
            config = configuration(await asyncio.to_thread(tvm.default_config), validators=[v.public_key for v in validators])
            self.chain = Chain(Ledger(tvm, config), self.options.clock, validators, block_seconds=self.options.block_seconds)
            await self.chain.make_block()
            listed = []
            for index in range(self.options.servers):
                server = LiteServer(self.chain, secrets.token_bytes(32))
                self.servers.append(server)
                wanted = self.options.ports[index] if index < len(self.options.ports) else 0
                port = await server.adnl.start(self.options.host, wanted)
                listed.append(Liteserver(host=self.options.host, port=port, key=server.adnl.public_key.hex()))
            self.config = ChainConfig.of(listed, GLOBAL_ID, min(self.options.min_servers, len(listed)))
            self._control = Control(
                {"GET /status": self._status, "POST /fund": self._fund, "POST /advance": self._advance, "POST /faults": self._faults},
                self.options.control_port,
            )
            self._tick = asyncio.create_task(self.chain.tick())
            if self.options.config_file is not None:
                await asyncio.to_thread(self._write_config, self.options.config_file)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End everything, the Node child included."""
        if self._tick is not None:
            self._tick.cancel()
            await asyncio.gather(self._tick, return_exceptions=True)
        if self._control is not None:
            await asyncio.to_thread(self._control.close)
        for server in self.servers:
            await server.adnl.stop()
        if self._tvm is not None:
            await asyncio.to_thread(self._tvm.close)
        self._tick, self._control, self._tvm, self.servers = None, None, None, []

    @property
    def control_url(self) -> str:
        """Where faucet and time are asked for, on loopback."""
        if self._control is None:
            raise RuntimeError("the devnet is not started")
        return self._control.url

    def document(self) -> dict[str, Any]:
        """The config file: what `--chain` takes, and where the control is."""
        return {"schemaVersion": SCHEMA_VERSION, "control": self.control_url, "simulated": True} | self.config.to_json_dict()

    async def fund(self, address: str, nanoton: int) -> None:
        """Give an address money (either form of address); waits until a block holds it."""
        await self.chain.fund(wallet.parse(address).account, amount(nanoton))
        await self.chain.make_block()

    def _write_config(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(self.document(), indent=1) + "\n")
        unfinished.replace(path)

    async def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        asked = [server.asked for server in self.servers]
        faults = asdict(self.chain.faults)
        return {
            "seqno": self.chain.seqno,
            "time": self.chain.now,
            "asked": asked,
            "unlisted": self.chain.unlisted,
            "faults": faults,
            "simulated": True,
        }

    async def _fund(self, body: dict[str, Any]) -> dict[str, Any]:
        await self.fund(str(body["address"]), int(body["nanoton"]))
        return {"simulated": True}

    async def _advance(self, body: dict[str, Any]) -> dict[str, Any]:
        await self.chain.advance(int(body["seconds"]))
        return {"time": self.chain.now, "simulated": True}

    async def _faults(self, body: dict[str, Any]) -> dict[str, Any]:
        faults = self.chain.faults
        faults.drop_externals = int(body.get("drop_externals", faults.drop_externals))
        faults.hold_blocks = max(1, int(body.get("hold_blocks", faults.hold_blocks)))
        faults.withhold_shard = bool(body.get("withhold_shard", faults.withhold_shard))
        return {"simulated": True}


class Devnet:
    """A Network in a thread of its own, for programs and tests that are not asyncio.  A context manager."""

    def __init__(self, options: Options | None = None) -> None:
        self.network = Network(options or Options())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="devnet", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.network.start(), self._loop).result(START_SECONDS)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self.network.stop(), self._loop).result(START_SECONDS)
        finally:
            self._end()

    @property
    def config(self) -> ChainConfig:
        """Liteservers with their keys."""
        return self.network.config

    @property
    def control_url(self) -> str:
        """Of the control's HTTP."""
        return self.network.control_url

    def fund(self, address: str, nanoton: int) -> None:
        """Give an address money; returns when a block holds it."""
        asyncio.run_coroutine_threadsafe(self.network.fund(address, nanoton), self._loop).result(START_SECONDS)

    def advance(self, seconds: int) -> None:
        """Move the chain's time forward."""
        asyncio.run_coroutine_threadsafe(self.network.chain.advance(seconds), self._loop).result(START_SECONDS)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
