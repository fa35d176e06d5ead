"""A worker's gateway on the bench: attested, with a list of clients, and a way to send it jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from chrysalis.receipts import jws
from chrysalis.receipts.objects import Receipt
from chrysalis_worker.gateway import Gateway

SALT = bytes(range(32))


@dataclass
class Bench:
    """An attested worker with a client list, and a way to send it jobs."""

    world: Any
    gateway: Gateway
    http: httpx.AsyncClient

    async def put_clients(self, token: str | None = None, headers: dict[str, str] | None = None) -> httpx.Response:
        content = json.dumps({"schemaVersion": "chrysalis/v1", "clients": token or self.world.clients()})
        return await self.http.put("/v1/clients", content=content, headers=headers or self.world.settler())

    async def job(self, body: bytes, ticket: str | None = "good", salt: bytes | None = SALT, **changes: Any) -> httpx.Response:
        headers = {}
        if salt is not None:
            headers["Chrysalis-Salt"] = jws.b64u(salt)
        if ticket == "good":
            ticket = self.world.ticket(self.gateway, body, salt or SALT, **changes)
        if ticket is not None:
            headers["Chrysalis-Ticket"] = ticket
        return await self.http.post("/v1/embeddings", content=body, headers=headers)

    def receipt(self, response: httpx.Response) -> Receipt:
        return Receipt.parse(response.headers["chrysalis-receipt"], self.world.domain.receipt_public)


def reason(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert error["message"]
    assert error["remedy"]
    return str(error["reason"])


def run(make_world: Callable[..., Any], client_of: Callable[[Gateway], httpx.AsyncClient], set_name: str | None = None) -> Any:
    """A runner for coroutines that take a Bench."""

    def go(scenario: Callable[[Bench], Any]) -> None:
        async def inside() -> None:
            world = make_world(set_name) if set_name is not None else make_world()
            await world.attested()
            gateway = world.build()
            async with client_of(gateway) as http:
                bench = Bench(world, gateway, http)
                if set_name is None:
                    assert (await bench.put_clients()).status_code == 204
                await scenario(bench)

        asyncio.run(inside())

    return go
