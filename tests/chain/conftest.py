"""A chain without a TVM: accounts are put there, blocks and proofs are real, liteservers listen on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.hashmap import HashMap
from pytoniq_core.tlb.account import StateInit

from chrysalis.api.account import Liteserver
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.servers import ChainConfig
from chrysalis.clock import ManualClock, unix
from e2e.devnet.chain import Chain
from e2e.devnet.genesis import GLOBAL_ID
from e2e.devnet.ledger import Ledger
from e2e.devnet.liteserver import LiteServer
from e2e.devnet.tvm import Tvm

ACCOUNT = b"\x22" * 32
NANOTON = 5_000_000_000


@dataclass
class Serving:
    """A chain with its servers and a client of them."""

    chain: Chain
    servers: list[LiteServer]
    client: LiteserverClient


@pytest.fixture
def new_chain(clock: ManualClock) -> Callable[[], Chain]:
    """Makes a chain with one account; nothing runs a transaction in it."""

    def make() -> Chain:
        params = HashMap(32, value_serializer=lambda cell, builder: builder.store_ref(cell))
        params.set_int_key(19, Builder().store_int(GLOBAL_ID, 32).end_cell())
        ledger = Ledger(cast(Tvm, None), params.serialize())
        init = StateInit(code=Builder().store_uint(1, 8).end_cell(), data=Builder().store_uint(2, 8).end_cell())
        ledger.place(ACCOUNT, init, NANOTON, unix(clock.now()))
        for number in range(20):
            ledger.place(bytes([number]) * 32, init, number, unix(clock.now()))
        return Chain(ledger, clock, [])

    return make


@pytest.fixture
def serve(clock: ManualClock) -> Callable[[Sequence[LiteServer], int], AbstractAsyncContextManager[LiteserverClient]]:
    """Starts servers on loopback and connects a client to all of them."""

    @asynccontextmanager
    async def serving(servers: Sequence[LiteServer], min_servers: int = 2) -> AsyncIterator[LiteserverClient]:
        listed = []
        for server in servers:
            port = await server.adnl.start("127.0.0.1")
            listed.append(Liteserver(host="127.0.0.1", port=port, key=server.adnl.public_key.hex()))
        try:
            async with LiteserverClient(ChainConfig.of(listed, GLOBAL_ID, min_servers), clock, timeout=3) as client:
                yield client
        finally:
            for server in servers:
                await server.adnl.stop()

    return serving
