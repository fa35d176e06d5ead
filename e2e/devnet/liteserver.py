"""The liteserver's queries, as pytoniq asks them, answered from a Chain with real proofs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pytoniq_core.boc.cell import Cell
from pytoniq_core.tl.generator import TlGenerator
from pytoniq_core.tlb.transaction import Transaction

from chrysalis.chain.dictionary import find
from e2e.devnet.adnl import AdnlServer, key_id
from e2e.devnet.blocks import MASTERCHAIN, Block
from e2e.devnet.cells import bag
from e2e.devnet.chain import Chain
from e2e.devnet.reasons import DevnetError, DevnetReason

log = logging.getLogger(__name__)
ZERO_STATE = {"workchain": -1, "root_hash": bytes(32).hex(), "file_hash": bytes(32).hex()}
BLOCK_SIGNATURE_TAG = b"pn\x0b\xc5"
VERSION, CAPABILITIES = 257, 7
MAX_TRANSACTIONS = 16
ERROR_NOT_READY, ERROR_TIMEOUT, ERROR_UNSUPPORTED, ERROR_NOT_ACCEPTED = 651, 652, -400, 0
Reply = tuple[str, dict[str, Any]] | bytes
"""A TL type with its members, or bytes that are serialised already."""


class QueryError(Exception):
    """A query that cannot be answered: becomes liteServer.error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class LiteServer:
    """One identity (ADNL key) over a chain; several may share one."""

    def __init__(self, chain: Chain, seed: bytes) -> None:
        self.chain = chain
        self.adnl = AdnlServer(seed, self._packet)
        self.asked: dict[str, int] = {}  # how often each query came
        self._tl = TlGenerator.with_default_schemas().generate()
        self._queries: dict[str, Callable[[dict[str, Any]], Awaitable[Reply]]] = {
            "getMasterchainInfo": self._masterchain_info,
            "getTime": self._time,
            "getVersion": self._version,
            "getAllShardsInfo": self._all_shards_info,
            "getAccountState": self._account_state,
            "runSmcMethod": self._run_method,
            "sendMessage": self._send_message,
            "getTransactions": self._transactions,
            "getBlock": self._block,
            "getBlockHeader": self._block_header,
            "lookupBlock": self._lookup_block,
            "getConfigAll": self._config,
            "getConfigParams": self._config,
            "getBlockProof": self._block_proof,
        }

    async def _packet(self, packet: bytes) -> bytes:
        message, _ = self._tl.deserialize(packet)
        if message["@type"] == "tcp.ping":
            return self._serialize("tcp.pong", {"random_id": message["random_id"]})
        if message["@type"] != "adnl.message.query":
            raise ValueError(f"a packet of type {message['@type']}")
        data = message["query"]["data"]
        try:
            reply = await self._query(data if isinstance(data, list) else [data])
        except QueryError as error:
            reply = self._error(error.code, error.message)
        except DevnetError as error:
            code = ERROR_NOT_ACCEPTED if error.reason == DevnetReason.MESSAGE_NOT_ACCEPTED else ERROR_NOT_READY
            reply = self._error(code, f"cannot apply external message to current state : {error.message} {error.detail}")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            log.exception("a query could not be answered")
            reply = self._error(ERROR_NOT_READY, repr(error)[:200])
        answer = reply if isinstance(reply, bytes) else self._serialize(*reply)
        return self._serialize("adnl.message.answer", {"query_id": bytes.fromhex(message["query_id"])[::-1], "answer": answer})

    async def _query(self, queries: list[dict[str, Any]]) -> Reply:
        first = queries[0]
        if first["@type"] == "liteServer.waitMasterchainSeqno":
            if not await self.chain.wait_for(first["seqno"], first["timeout_ms"] / 1000):
                raise QueryError(ERROR_TIMEOUT, "timeout")
            queries = queries[1:]
        if not queries:
            raise QueryError(ERROR_UNSUPPORTED, "no query")
        name = queries[0]["@type"].split(".", 1)[1]
        self.asked[name] = self.asked.get(name, 0) + 1
        answer = self._queries.get(name)
        if answer is None:
            raise QueryError(ERROR_UNSUPPORTED, f"unsupported {name}")
        return await answer(queries[0])

    def _serialize(self, schema: str, data: dict[str, Any], boxed: bool = True) -> bytes:
        return bytes(self._tl.serialize(schema, data, boxed))

    def _error(self, code: int, message: str) -> bytes:
        # liteServer.error: pytoniq's generator has no way to write its text as bytes
        return b"\x48\xe1\xa9\xbb" + code.to_bytes(4, "little", signed=True) + bytes(self._tl.serialize_field("bytes", message.encode()))

    def _known(self, block_id: dict[str, Any]) -> Block:
        block = self.chain.block(bytes.fromhex(block_id["root_hash"]))
        if block is None:
            raise QueryError(ERROR_NOT_READY, "block is not in db")
        return block

    def _shard_of(self, block: Block) -> Block:
        return block.shard if block.shard is not None else block

    def _shard_proof(self, block: Block) -> bytes:
        return bag([block.header_proof(), block.shards_proof()]) if block.workchain == MASTERCHAIN else b""

    async def _masterchain_info(self, _: dict[str, Any]) -> Reply:
        head = self.chain.head
        return "liteServer.masterchainInfo", {"last": head.id, "state_root_hash": head.state.get_hash(0).hex(), "init": ZERO_STATE}

    async def _time(self, _: dict[str, Any]) -> Reply:
        return "liteServer.currentTime", {"now": self.chain.now}

    async def _version(self, _: dict[str, Any]) -> Reply:
        return "liteServer.version", {"mode": 0, "version": VERSION, "capabilities": CAPABILITIES, "now": self.chain.now}

    async def _all_shards_info(self, query: dict[str, Any]) -> Reply:
        block = self._known(query["id"])
        if block.shard_hashes is None:
            raise QueryError(ERROR_NOT_READY, "not a masterchain block")
        return "liteServer.allShardsInfo", {"id": block.id, "proof": self._shard_proof(block), "data": bag([block.shard_hashes])}

    async def _account_state(self, query: dict[str, Any]) -> Reply:
        block = self._known(query["id"])
        shard = self._shard_of(block)
        account = _account_id(query)
        cell = _account_cell(shard, account)
        return "liteServer.accountState", {
            "id": block.id,
            "shardblk": shard.id,
            "shard_proof": self._shard_proof(block),
            "proof": bag([shard.header_proof(), shard.account_proof(account)]),
            "state": bag([cell]) if cell is not None else b"",
        }

    async def _run_method(self, query: dict[str, Any]) -> Reply:
        block = self._known(query["id"])
        shard = self._shard_of(block)
        account = _account_id(query)
        code, stack = self.chain.ledger.get_method(account, query["method_id"], query["params"], self.chain.now)
        return "liteServer.runMethodResult", {
            "mode": query["mode"],
            "id": block.id,
            "shardblk": shard.id,
            "shard_proof": self._shard_proof(block),
            "proof": bag([shard.header_proof(), shard.account_proof(account)]),
            "state_proof": b"",
            "exit_code": code,
            "result": stack,
        }

    async def _send_message(self, query: dict[str, Any]) -> Reply:
        await self.chain.send(query["body"])
        return "liteServer.sendMsgStatus", {"status": 1}

    async def _transactions(self, query: dict[str, Any]) -> Reply:
        account, lt, wanted = _account_id(query), query["lt"], bytes.fromhex(query["hash"])
        known = self.chain.transactions(account)
        cells: list[Cell] = []
        ids: list[dict[str, object]] = []
        while lt and len(cells) < min(query["count"], MAX_TRANSACTIONS):
            if lt not in known or known[lt][0].cell.hash != wanted:
                raise QueryError(ERROR_NOT_READY, "cannot find transaction")
            executed, block = known[lt]
            cells.append(executed.cell)
            ids.append(block.id)
            parsed = Transaction.deserialize(executed.cell.begin_parse())
            lt, wanted = parsed.prev_trans_lt, parsed.prev_trans_hash
        return "liteServer.transactionList", {"ids": ids, "transactions": bag(cells)}

    async def _block(self, query: dict[str, Any]) -> Reply:
        block = self._known(query["id"])
        return "liteServer.blockData", {"id": block.id, "data": block.data}

    async def _block_header(self, query: dict[str, Any]) -> Reply:
        block = self._known(query["id"])
        return "liteServer.blockHeader", {"id": block.id, "mode": 0, "header_proof": bag([block.header_proof()])}

    async def _lookup_block(self, query: dict[str, Any]) -> Reply:
        block = self.chain.master(query["id"]["seqno"])
        if block is None:
            raise QueryError(ERROR_NOT_READY, "block not found")
        found = block if query["id"]["workchain"] == MASTERCHAIN else self._shard_of(block)
        return "liteServer.blockHeader", {"id": found.id, "mode": 0, "header_proof": bag([found.header_proof()])}

    async def _config(self, query: dict[str, Any]) -> Reply:
        block = self._known(query["id"])
        proofs = {"state_proof": bag([block.header_proof()]), "config_proof": bag([block.whole_state_proof()])}
        return "liteServer.configInfo", {"mode": 0, "id": block.id} | proofs

    async def _block_proof(self, query: dict[str, Any]) -> Reply:
        """One forward link from the key block, with every validator's signature."""
        known = self._known(query["known_block"])
        target = self._known(query["target_block"]) if query.get("target_block") else self.chain.head
        signed = BLOCK_SIGNATURE_TAG + target.root_hash + target.file_hash
        signatures = [
            {"node_id_short": key_id(validator.public_key).hex(), "signature": validator.sign(signed)}
            for validator in self.chain.validators
        ]
        link = {
            "@type": "liteServer.blockLinkForward",
            "to_key_block": target.key_block,
            "from": known.id,
            "to": target.id,
            "dest_proof": bag([target.header_proof()]),
            "config_proof": bag([known.config_proof()]),
            "signatures": {
                "@type": "liteServer.signatureSet.ordinary",
                "validator_set_hash": 0,
                "catchain_seqno": 0,
                "signatures": signatures,
            },
        }
        # pytoniq's generator cannot write a vector of boxed links, so the outer object is put together here
        outer = bytes(self._tl.get_by_name("liteServer.partialBlockProof").little_id()) + b"\xb5ur\x99"
        outer += self._serialize("tonNode.blockIdExt", known.id, False) + self._serialize("tonNode.blockIdExt", target.id, False)
        return outer + (1).to_bytes(4, "little") + self._serialize("liteServer.blockLinkForward", link)


def _account_id(query: dict[str, Any]) -> bytes:
    return bytes.fromhex(query["account"]["id"])


def _account_cell(shard: Block, account: bytes) -> Cell | None:
    """The Account cell in a shard's state; None where there is none."""
    accounts = shard.state.refs[1]
    root = accounts.begin_parse().load_maybe_ref()
    value = find(root, account)
    if value is None:
        return None
    cell = value.load_ref()
    return cell if cell.begin_parse().load_bit() else None


def server_seed(name: str, secret: bytes) -> bytes:
    """The seed of a named identity of one run."""
    return hashlib.sha256(secret + name.encode()).digest()
