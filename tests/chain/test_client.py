"""The trust rule over real ADNL and real proofs: enough servers agree, and every state is proven."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from pytoniq_core.boc.cell import Cell

from chrysalis.api.account import Liteserver
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.reasons import ChainError, ChainReason
from chrysalis.chain.servers import ChainConfig
from chrysalis.clock import ManualClock
from e2e.devnet.cells import bag
from e2e.devnet.chain import Chain
from e2e.devnet.liteserver import LiteServer, Reply

NewChain = Callable[[], Chain]
Serve = Callable[..., AbstractAsyncContextManager[LiteserverClient]]
ADDRESS = "0:" + "22" * 32
ABSENT = "0:" + "99" * 32


def seeds(count: int) -> list[bytes]:
    return [bytes([number + 1]) * 32 for number in range(count)]


def servers_of(chain: Chain, count: int = 3) -> list[LiteServer]:
    return [LiteServer(chain, seed) for seed in seeds(count)]


class Hiding(LiteServer):
    """Says that no account exists."""

    async def _account_state(self, query: dict[str, Any]) -> Reply:
        name, answer = await super()._account_state(query)
        return name, answer | {"state": b""}


class Forging(LiteServer):
    """Sends another account's state."""

    async def _account_state(self, query: dict[str, Any]) -> Reply:
        other = query | {"account": {"workchain": 0, "id": (b"\x05" * 32).hex()}}
        _, answer = await super()._account_state(query)
        _, wrong = await super()._account_state(other)
        return "liteServer.accountState", answer | {"state": wrong["state"]}


class Elsewhere(LiteServer):
    """Proves the right account at an older block than it was asked about."""

    async def _account_state(self, query: dict[str, Any]) -> Reply:
        first = self.chain.master(1)
        assert first is not None
        _, answer = await super()._account_state(query | {"id": first.id})
        return "liteServer.accountState", answer


class Unlisted(LiteServer):
    """Sends a shard block's proof that the masterchain does not list."""

    async def _account_state(self, query: dict[str, Any]) -> Reply:
        first = self.chain.master(1)
        assert first is not None
        assert first.shard is not None
        name, answer = await super()._account_state(query)
        account = bytes.fromhex(query["account"]["id"])
        proof = bag([first.shard.header_proof(), first.shard.account_proof(account)])
        return name, answer | {"shardblk": first.shard.id, "proof": proof}


def run(work: Any) -> None:
    asyncio.run(asyncio.wait_for(work, 120))


def test_a_proven_account(new_chain: NewChain, serve: Serve) -> None:
    async def work() -> None:
        chain = new_chain()
        await chain.make_block()
        async with serve(servers_of(chain)) as client:
            account = await client.account(ADDRESS)
            assert (account.status, account.balance_nanoton, account.servers, account.head.seqno) == ("active", 5_000_000_000, 3, 1)
            assert account.data is not None
            assert account.data.bits.to01() == "00000010"
            absent = await client.account(ABSENT)
            assert (absent.status, absent.balance_nanoton, absent.code) == ("absent", 0, None)
            assert (await client.head()).root_hash == chain.head.root_hash

    run(work())


LIARS = [Hiding, Forging, Elsewhere, Unlisted]


@pytest.mark.parametrize("liar", LIARS)
def test_one_liar_of_three_is_outvoted_and_two_are_refused(new_chain: NewChain, serve: Serve, liar: type[LiteServer]) -> None:
    async def work() -> None:
        chain = new_chain()
        await chain.make_block()
        await chain.make_block()
        async with serve([*servers_of(chain, 2), liar(chain, b"\x0f" * 32)]) as client:
            assert (await client.account(ADDRESS)).servers == 2
        async with serve([*servers_of(chain, 1), liar(chain, b"\x0f" * 32)]) as client:
            with pytest.raises(ChainError) as refused:
                await client.account(ADDRESS)
            assert refused.value.reason == ChainReason.PROOF_INVALID

    run(work())


def test_two_chains_are_not_one(new_chain: NewChain, serve: Serve, clock: ManualClock) -> None:
    """Two honest servers of two different chains: nobody is believed; a third decides."""

    async def work() -> None:
        one, other = new_chain(), new_chain()
        other.ledger.balances[b"\x22" * 32] = 1
        await one.make_block()
        await other.make_block()
        assert one.head.root_hash != other.head.root_hash
        async with serve([*servers_of(one, 1), LiteServer(other, b"\x0f" * 32)]) as client:
            with pytest.raises(ChainError) as refused:
                await client.account(ADDRESS)
            assert refused.value.reason == ChainReason.LITESERVERS_DISAGREE
        async with serve([*servers_of(one, 2), LiteServer(other, b"\x0f" * 32)]) as client:
            assert (await client.account(ADDRESS)).head.root_hash == one.head.root_hash
        async with serve([*servers_of(one, 2), LiteServer(other, b"\x0e" * 32), LiteServer(other, b"\x0f" * 32)]) as client:
            with pytest.raises(ChainError) as split:
                await client.account(ADDRESS)
            assert split.value.reason == ChainReason.LITESERVERS_DISAGREE

    run(work())


def test_a_server_ahead_is_asked_for_the_block_that_others_have(new_chain: NewChain, serve: Serve) -> None:
    class Behind(LiteServer):
        async def _masterchain_info(self, query: dict[str, Any]) -> Reply:
            name, answer = await super()._masterchain_info(query)
            first = self.chain.master(1)
            assert first is not None
            return name, answer | {"last": first.id}

    async def work() -> None:
        chain = new_chain()
        for _ in range(3):
            await chain.make_block()
        async with serve([Behind(chain, b"\x0f" * 32), *servers_of(chain, 1)]) as client:
            assert (await client.account(ADDRESS)).head.seqno == 1
        async with serve([Behind(chain, b"\x0f" * 32), *servers_of(chain, 2)]) as client:
            assert (await client.account(ADDRESS)).head.seqno == 3

    run(work())


@pytest.mark.parametrize(("age", "refused"), [(61, True), (60, False)])
def test_a_stale_head_is_refused(new_chain: NewChain, serve: Serve, clock: ManualClock, age: int, refused: bool) -> None:
    async def work() -> None:
        chain = new_chain()
        await chain.make_block()
        async with serve(servers_of(chain)) as client:
            clock.advance(age)
            if refused:
                with pytest.raises(ChainError) as stale:
                    await client.account(ADDRESS)
                assert stale.value.reason == ChainReason.HEAD_STALE
            else:
                assert (await client.account(ADDRESS)).active

    run(work())


def test_one_server_down_of_three_is_enough_and_two_are_not(new_chain: NewChain, serve: Serve) -> None:
    async def work() -> None:
        chain = new_chain()
        await chain.make_block()
        servers = servers_of(chain)
        async with serve(servers) as client:
            await servers[0].adnl.stop()
            assert (await client.account(ADDRESS)).servers == 2
            await servers[1].adnl.stop()
            with pytest.raises(ChainError) as refused:
                await client.account(ADDRESS)
            assert refused.value.reason == ChainReason.LITESERVERS_UNREACHABLE

    run(work())


def test_one_server_is_believed_only_where_the_configuration_says_so(new_chain: NewChain, serve: Serve) -> None:
    async def work() -> None:
        chain = new_chain()
        await chain.make_block()
        async with serve(servers_of(chain, 1), min_servers=1) as client:
            assert (await client.account(ADDRESS)).servers == 1
        with pytest.raises(ChainError):
            async with serve(servers_of(chain, 1)):
                pass

    run(work())


def test_another_key_or_nothing_there_is_unreachable(clock: ManualClock, new_chain: NewChain) -> None:
    async def work() -> None:
        server = servers_of(new_chain(), 1)[0]
        await server.chain.make_block()
        port = await server.adnl.start("127.0.0.1")
        try:
            other = LiteServer(server.chain, secrets.token_bytes(32)).adnl.public_key.hex()
            impostor = Liteserver(host="127.0.0.1", port=port, key=other)
            async with LiteserverClient(ChainConfig.of([impostor], -777, 1), clock, timeout=30) as client:
                with pytest.raises(ChainError) as refused:
                    await client.head()
            assert refused.value.reason == ChainReason.LITESERVERS_UNREACHABLE
        finally:
            await server.adnl.stop()

    run(work())


def test_a_key_that_is_no_point_of_the_curve(clock: ManualClock) -> None:
    async def work() -> None:
        server = Liteserver(host="127.0.0.1", port=1, key=(b"\x33" * 32).hex())
        with pytest.raises(ChainError) as refused:
            await LiteserverClient(ChainConfig.of([server], -777, 1), clock).open()
        assert refused.value.reason == ChainReason.CELL_MALFORMED

    run(work())


def test_another_chains_global_id_is_refused(new_chain: NewChain, clock: ManualClock) -> None:
    async def work() -> None:
        server = servers_of(new_chain(), 1)[0]
        await server.chain.make_block()
        port = await server.adnl.start("127.0.0.1")
        listed = [Liteserver(host="127.0.0.1", port=port, key=server.adnl.public_key.hex())]
        try:
            for global_id, fine in ((-777, True), (-239, False)):
                async with LiteserverClient(ChainConfig.of(listed, global_id, 1), clock, timeout=30) as client:
                    if fine:
                        assert (await client.head()).global_id == -777
                    else:
                        with pytest.raises(ChainError) as refused:
                            await client.head()
                        assert refused.value.reason == ChainReason.LITESERVERS_DISAGREE
        finally:
            await server.adnl.stop()

    run(work())


@pytest.mark.parametrize("message", [b"", b"GET / HTTP/1.1\r\n\r\n" * 20, bytes(256)], ids=["nothing", "http", "zeros"])
def test_the_server_drops_what_is_no_adnl(new_chain: NewChain, message: bytes) -> None:
    async def work() -> None:
        server = servers_of(new_chain(), 1)[0]
        port = await server.adnl.start("127.0.0.1")
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(message)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
        finally:
            await server.adnl.stop()

    run(work())


def test_the_devnet_takes_only_external_messages(new_chain: NewChain) -> None:
    async def work() -> None:
        chain = new_chain()
        await chain.make_block()
        for boc in (b"", b"\x00" * 100, Cell.empty().to_boc(), bytes(70_000)):
            with pytest.raises(Exception, match="MessageMalformed"):
                await chain.send(boc)

    run(work())
