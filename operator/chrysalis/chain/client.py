"""Reading and writing the chain through liteservers that are not trusted one by one.

The trust statement: as many pinned liteservers of different operators as `min_servers` says (two, of at least three
that are configured) state the same masterchain block, and every state that we use is proven from that block
(chrysalis.chain.proof).  One server is enough only where the configuration says `minServers: 1`.
Get-methods are never asked: their results are not proven.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self, TypeVar

from pytoniq.liteclient.balancer import LiteBalancer
from pytoniq.liteclient.client import LiteClient
from pytoniq_core.boc.address import Address
from pytoniq_core.boc.cell import Cell
from pytoniq_core.tl.block import BlockIdExt
from pytoniq_core.tlb.account import StateInit
from pytoniq_core.tlb.transaction import ExternalMsgInfo, MessageAny

from chrysalis.api.account import Liteserver
from chrysalis.chain import contract, proof
from chrysalis.chain.proof import Account, Head
from chrysalis.chain.reasons import ChainError, ChainReason, malformed
from chrysalis.chain.servers import ChainConfig
from chrysalis.clock import Clock

log = logging.getLogger(__name__)
TIMEOUT_SECONDS = 10.0
MAX_AGE_SECONDS = 60
"""An agreed head that is older than this is refused: the servers are stuck, or keep news back."""
MAX_MESSAGE_BYTES = 64 * 1024
T = TypeVar("T")


class ChainClient(Protocol):
    """What the settler, the worker and the command line need of a chain."""

    async def head(self) -> Head:
        """The newest masterchain block that enough servers agree on.  Raises ChainError."""

    async def account(self, address: str) -> Account:
        """An account's proven state at such a head (address: raw).  Raises ChainError."""

    async def send_external(self, address: str, body: Cell, state_init: StateInit | None = None) -> int:
        """Hand the same external message to every server; how many took it.  That is not inclusion: read the state.

        Raises ChainError MessageRefused (with exit_code where it was told; contract.explain says what it means) when none
        took it.
        """

    async def close(self) -> None:
        """End the connections."""


def external_message(address: str, body: Cell, state_init: StateInit | None = None) -> Cell:
    """The external-in message cell to a raw address."""
    info = ExternalMsgInfo(src=None, dest=Address(address), import_fee=0)
    message: Cell = MessageAny(info=info, init=state_init, body=body).serialize()
    return message


class LiteserverClient:
    """ChainClient over pytoniq: one LiteBalancer for each server, because a LiteBalancer asks one peer a call (and a bare
    LiteClient can go stale after one stall)."""

    def __init__(
        self, config: ChainConfig, clock: Clock, *, timeout: float = TIMEOUT_SECONDS, max_age_seconds: int = MAX_AGE_SECONDS
    ) -> None:
        if len(config.liteservers) < config.min_servers:
            raise ChainError(
                ChainReason.LITESERVERS_UNREACHABLE,
                f"{len(config.liteservers)} liteservers are configured and {config.min_servers} must agree",
                "name at least three liteservers of different operators",
            )
        self._config, self._clock = config, clock
        self._timeout, self._max_age = min(timeout, TIMEOUT_SECONDS), max_age_seconds
        self._peers: list[LiteBalancer] = []
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect to every server; those that are down are tried again in the background."""
        async with self._opening:
            if self._peers:
                return
            timeout, servers = self._timeout, self._config.liteservers
            self._peers = [LiteBalancer([_lite_client(server, timeout)], timeout=int(timeout)) for server in servers]
            await asyncio.gather(*(peer.start_up() for peer in self._peers))

    async def close(self) -> None:
        async with self._opening:
            peers, self._peers = self._peers, []
            await asyncio.gather(*(peer.close_all() for peer in peers), return_exceptions=True)

    async def head(self) -> Head:
        block, peers = await self._agreed_block()
        headers = await self._ask_all(peers, lambda p: self._request(p, "getBlockHeader", {"id": block.to_dict(), "mode": 0}))
        head = self._enough([proof.prove_head(answer["header_proof"], block) for _, answer in headers])
        self._refuse_stale(head)
        return head

    async def account(self, address: str) -> Account:
        account = contract.account_id(address)
        block, peers = await self._agreed_block()
        query = {"id": block.to_dict(), "account": {"workchain": 0, "id": account.hex()}}
        answers = await self._ask_all(peers, lambda p: self._request(p, "getAccountState", query))
        proven: list[Account] = []
        invalid: ChainError | None = None
        for _, answer in answers:
            try:
                proven.append(proof.prove_account(answer, block, account))
            except ChainError as error:
                log.warning("a liteserver's proof is not valid", extra={"event": "proof_invalid", "detail": error.message})
                invalid = error
        if invalid is not None and len(proven) < self._config.min_servers:
            raise invalid
        result = replace(self._enough(proven), servers=len(proven))
        self._refuse_stale(result.head)
        return result

    async def send_external(self, address: str, body: Cell, state_init: StateInit | None = None) -> int:
        boc = external_message(address, body, state_init).to_boc()
        if len(boc) > MAX_MESSAGE_BYTES:
            raise ChainError(ChainReason.MESSAGE_REFUSED, f"a message of {len(boc)} bytes is too large", "send less in one message")
        await self.open()
        results = await asyncio.gather(*(self._request(peer, "sendMessage", {"body": boc}) for peer in self._peers), return_exceptions=True)
        taken = sum(not isinstance(result, BaseException) for result in results)
        if taken:
            return taken
        texts = [f"{type(result).__name__}: {result}" for result in results]
        codes = {int(found[1]) for text in texts if (found := re.search(r"exit ?code[=: ]+(-?\d+)", text))}
        if not codes and not any("LiteServerError" in text for text in texts):
            raise _unreachable("; ".join(texts))
        codes.discard(0)  # no code ran: there is no contract at the address
        code = codes.pop() if len(codes) == 1 else None
        error = ChainError(
            ChainReason.MESSAGE_REFUSED,
            "no liteserver took the message" + (f": the contract refused it with exit code {code}" if code is not None else ""),
            "read the account's state and try again; a contract that is not deployed takes nothing",
            "; ".join(texts)[:1000],
        )
        error.exit_code = code
        raise error

    async def _agreed_block(self) -> tuple[BlockIdExt, list[LiteBalancer]]:
        """The newest masterchain block that min_servers have reached and agree on, and the servers that do."""
        await self.open()
        need = self._config.min_servers
        heads = [(peer, BlockIdExt.from_dict(answer["last"])) for peer, answer in await self._ask_all(self._peers, self._masterchain_info)]
        seqno = sorted((block.seqno for _, block in heads), reverse=True)[need - 1]
        reached = [(peer, block) for peer, block in heads if block.seqno >= seqno]

        async def at_seqno(peer: LiteBalancer) -> BlockIdExt:
            own = next(block for other, block in reached if other is peer)
            if own.seqno == seqno:
                return own
            asked = {"mode": 1, "id": {"workchain": -1, "shard": -(1 << 63), "seqno": seqno}, "lt": None, "utime": None}
            return BlockIdExt.from_dict((await self._request(peer, "lookupBlock", asked))["id"])

        stated = await self._ask_all([peer for peer, _ in reached], at_seqno)
        groups: dict[tuple[bytes, bytes], list[LiteBalancer]] = {}
        for peer, block in stated:
            if block.seqno == seqno and block.workchain == -1:
                groups.setdefault((block.root_hash, block.file_hash), []).append(peer)
        enough = [(key, peers) for key, peers in groups.items() if len(peers) >= need]
        if len(groups) > 1:
            log.warning(
                "liteservers state different blocks",
                extra={"event": "liteservers_disagree", "detail": f"seqno {seqno}: {len(groups)} blocks"},
            )
        if len(enough) != 1:
            raise ChainError(
                ChainReason.LITESERVERS_DISAGREE,
                f"{len(stated)} liteservers answered for block {seqno} and no {need} agree, or two groups do",
                "check the liteservers' keys and operators; an answer is believed only when enough of them state the same block",
                "; ".join(f"{key[0].hex()[:16]} by {len(peers)}" for key, peers in groups.items()),
            )
        (root_hash, file_hash), peers = enough[0]
        return BlockIdExt(-1, None, seqno, root_hash, file_hash), peers

    async def _masterchain_info(self, peer: LiteBalancer) -> dict[str, Any]:
        return await self._request(peer, "getMasterchainInfo", {})

    async def _request(self, peer: LiteBalancer, name: str, data: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.timeout(self._timeout):
            answer = await peer.execute_method("liteserver_request", name, data)
        if not isinstance(answer, dict):
            raise ValueError(f"{name} was answered with {type(answer).__name__}")
        return answer

    async def _ask_all(self, peers: Sequence[LiteBalancer], ask: Callable[[LiteBalancer], Awaitable[T]]) -> list[tuple[LiteBalancer, T]]:
        """Ask every server at once; the answers of those that gave one, or ChainError when they are fewer than needed."""
        results = await asyncio.gather(*(ask(peer) for peer in peers), return_exceptions=True)
        answers: list[tuple[LiteBalancer, T]] = []
        failures: list[str] = []
        for peer, result in zip(peers, results, strict=True):
            if isinstance(result, Exception):
                failures.append(f"{type(result).__name__}: {result}")
            elif isinstance(result, BaseException):
                raise result
            else:
                answers.append((peer, result))
        if len(answers) < self._config.min_servers:
            raise _unreachable(f"{len(answers)} of {len(self._config.liteservers)} answered; {'; '.join(failures)}")
        return answers

    def _enough(self, proven: Sequence[T]) -> T:
        if len(proven) < self._config.min_servers:
            raise _unreachable(f"{len(proven)} proven answers")
        return proven[0]  # proofs of one block cannot differ: each cell is hashed up to the block's root hash

    def _refuse_stale(self, head: Head) -> None:
        age = int(self._clock.now().timestamp()) - head.gen_utime
        if age > self._max_age:
            raise ChainError(
                ChainReason.HEAD_STALE,
                f"the newest block that the liteservers agree on is {age} seconds old; at most {self._max_age} are believed",
                "wait until the liteservers have caught up, check this machine's clock, or choose other liteservers",
            )
        if head.global_id != self._config.global_id:
            raise ChainError(
                ChainReason.LITESERVERS_DISAGREE,
                f"the liteservers serve the chain with global id {head.global_id}, not {self._config.global_id}",
                "use liteservers of the chain that the account settles on",
            )


def _lite_client(server: Liteserver, timeout: float) -> LiteClient:
    key = base64.b64encode(bytes.fromhex(server.key)).decode()
    try:
        client = LiteClient(server.host, server.port, key, timeout=int(timeout), trust_level=1)
    except Exception as error:  # PyNaCl, for 32 bytes that are no point of the curve
        raise malformed(f"the key of the liteserver {server.host}:{server.port}", f"{server.key}: {error}") from error
    client.logger = logging.getLogger("pytoniq")
    return client


# It logs a traceback when a server closes a connection; our own error says what that means.  Without a handler of anybody's,
# Python would print it to the standard error of a command.
logging.getLogger("pytoniq").addHandler(logging.NullHandler())


def _unreachable(detail: str) -> ChainError:
    return ChainError(
        ChainReason.LITESERVERS_UNREACHABLE,
        "too few liteservers answered",
        "check the network and the list of liteservers; at least as many must answer as must agree",
        detail[:1000],
    )
