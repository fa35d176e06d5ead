"""The OpenAPI document: complete, current, and what the broker really answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from chrysalis.broker import openapi

World = Any
DOCUMENT = Path(__file__).parents[2] / "docs" / "wire" / openapi.FILE


def test_the_committed_document_is_current() -> None:
    assert DOCUMENT.read_text() == openapi.text(), "run python -m chrysalis.broker.openapi docs/wire"


def test_every_route_is_documented_and_nothing_else(world: World) -> None:
    routed = {(method, route.path) for route in world.http.app.routes if isinstance(route, Route) for method in route.methods}
    assert routed == {(operation.method, operation.path) for operation in openapi.OPERATIONS}
    names = [operation.name for operation in openapi.OPERATIONS]
    assert len(set(names)) == len(names)


def test_it_is_served(world: World) -> None:
    answer = world.http.get("/v1/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(DOCUMENT.read_text())


def test_every_string_and_list_that_a_stranger_sends_is_bounded() -> None:
    """Of the messages that are read without a credential: Evidence, ReleaseRequest, Envelope."""
    schemas = openapi.document()["components"]["schemas"]

    def unbounded(schema: dict[str, Any], where: str) -> list[str]:
        found: list[str] = []
        if "$ref" in schema:
            return unbounded(schemas[schema["$ref"].rsplit("/", 1)[1]], where)
        if schema.get("type") == "string" and not {"maxLength", "enum", "const", "format"} & set(schema):
            found.append(where)
        if schema.get("type") == "array":
            found += [] if "maxItems" in schema else [where]
            found += unbounded(schema["items"], where + "[]")
        for name, member in schema.get("properties", {}).items():
            found += unbounded(member, f"{where}.{name}")
        for kind in ("anyOf", "allOf", "oneOf"):
            for member in schema.get(kind, []):
                found += unbounded(member, where)
        return found

    for message in ("Evidence", "ReleaseRequest", "Envelope"):
        assert unbounded(schemas[message], message) == []


@pytest.mark.parametrize("operation", openapi.OPERATIONS, ids=lambda operation: operation.name)
def test_credentials_are_asked_for_where_the_document_says_so(world: World, operation: openapi.Operation) -> None:
    path = operation.path.replace("{key_id}", "acme").replace("{name}", "workers").replace("{result_id}", "x")
    answer = world.http.request(operation.method, path, content=b"{}")
    assert (answer.status_code == 401) == operation.caller, answer.text
