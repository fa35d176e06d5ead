"""Which liteservers to ask: the file that `--chain` names.

Two forms: our own ({"liteservers": [{"host", "port", "key"}], "minServers": 2, "globalId": -239}), and TON's global
configuration ({"liteservers": [{"ip", "port", "id": {"key"}}]}, keys in base64 and addresses as signed integers).
"""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from chrysalis.api.account import Liteserver
from chrysalis.api.base import Model
from chrysalis.chain.reasons import malformed

MAX_FILE_BYTES = 1024 * 1024
MIN_SERVERS = 2
MAINNET_GLOBAL_ID = -239


class ChainConfig(Model):
    """Liteservers, and how many must agree before an answer is believed."""

    liteservers: Annotated[list[Liteserver], Field(min_length=1, max_length=64)]
    min_servers: Annotated[int, Field(ge=1, le=16)] = MIN_SERVERS
    global_id: Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)] = MAINNET_GLOBAL_ID

    @classmethod
    def of(cls, liteservers: Sequence[Liteserver], global_id: int, min_servers: int = MIN_SERVERS) -> ChainConfig:
        """From the members of a SettlementAccount or of initdata."""
        return cls(liteservers=list(liteservers), global_id=global_id, min_servers=min_servers)


def load(path: Path) -> ChainConfig:
    """Read either form; raises ChainError CellMalformed with what is wrong, OSError when the file cannot be opened."""
    data = path.read_bytes()
    if len(data) > MAX_FILE_BYTES:
        raise malformed(f"{path.name}, the file of liteservers,", f"{len(data)} bytes")
    try:
        document: Any = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError("not an object")
        servers = document.get("liteservers", [])
        if servers and isinstance(servers[0], dict) and "id" in servers[0]:
            return ChainConfig(liteservers=[_from_global(server) for server in servers[:64]])
        known = {"liteservers", "minServers", "globalId"}
        return ChainConfig.model_validate({key: value for key, value in document.items() if key in known})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
        raise malformed(f"{path.name}, the file of liteservers,", str(error)) from error


def _from_global(server: dict[str, Any]) -> Liteserver:
    host = str(ipaddress.IPv4Address(int(server["ip"]) & 0xFFFFFFFF))
    return Liteserver(host=host, port=server["port"], key=base64.b64decode(server["id"]["key"]).hex())
