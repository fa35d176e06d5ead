"""The OpenAPI document's examples: one for each message, true to its schema and to the broker, and nothing secret in any."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from chrysalis.api.base import Model
from chrysalis.api.policy import Envelope, SignedPolicy
from chrysalis.api.reference import ReferenceValues
from chrysalis.broker import openapi, openapi_examples
from chrysalis.broker.audit import AuditRecord, follow
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, PAYLOAD_POLICY, KeyRecord
from chrysalis.wire.bundle import BundleFile, canonical
from chrysalis.wire.reference import PAYLOAD_REFERENCE_VALUES

World = Any
DOCUMENT: dict[str, Any] = openapi.document()
ITSELF = "openapi 200"
"""The document is the one message that needs no example of itself."""
SECRET = re.compile(r"AGE-SECRET-KEY-|-----BEGIN|eyJ[\w-]*\.[\w-]+\.")
"""How private keys begin, and tokens of RFC 7515."""
LONG_HEX = re.compile(r"[0-9a-f]{64,}")
MAX_CHARACTERS = 40_000
"""Of all examples together; the schemas and operations around them are twice that."""


def media() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON message of the document: a name, and its media type object."""
    places = dict(DOCUMENT["components"]["responses"])
    for path in DOCUMENT["paths"].values():
        for operation in path.values():
            places[f"{operation['operationId']} request"] = operation.get("requestBody", {})
            places |= {f"{operation['operationId']} {status}": answer for status, answer in operation["responses"].items()}
    for name, place in places.items():
        for media_type, found in place.get("content", {}).items():
            if media_type.endswith("json"):
                yield name, found


MEDIA = dict(media())
EXAMPLES = [
    pytest.param(found["schema"], one["value"], id=f"{name} {key}")
    for name, found in MEDIA.items()
    for key, one in found.get("examples", {}).items()
]


def validator(schema: dict[str, Any]) -> Any:
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": DOCUMENT["components"], "allOf": [schema]}
    return jsonschema_rs.validator_for(whole, validate_formats=True)


def test_each_message_has_one() -> None:
    assert len(MEDIA) > 20
    assert [name for name, found in MEDIA.items() if not found.get("examples")] == [ITSELF]


def test_each_is_of_an_operation() -> None:
    names = {operation.name for operation in openapi.OPERATIONS}
    assert set(openapi_examples.REQUESTS) == {operation.name for operation in openapi.OPERATIONS if operation.body}
    assert set(openapi_examples.ANSWERS) < names
    assert set(openapi_examples.PROBLEMS) == set(DOCUMENT["components"]["responses"])


@pytest.mark.parametrize(("schema", "example"), EXAMPLES)
def test_each_is_of_its_schema(schema: dict[str, Any], example: Any) -> None:
    check = validator(schema)
    assert check.is_valid(example), [str(error) for error in check.iter_errors(example)][:3]
    for member in example:  # the twins: the same with one member of a kind that none has
        assert not check.is_valid(example | {member: 0.5}), member


def test_both_answers_to_reading_results_are_shown() -> None:
    found = MEDIA["results 200"]
    kinds = [[validator(kind).is_valid(one["value"]) for kind in found["schema"]["anyOf"]] for one in found["examples"].values()]
    assert kinds == [[True, False], [False, True]]


@pytest.mark.parametrize("operation", [one for one in openapi.OPERATIONS if one.body], ids=lambda operation: operation.name)
def test_the_broker_reads_each_request(world: World, operation: openapi.Operation) -> None:
    path = operation.path.replace("{key_id}", openapi_examples.KEY_ID).replace("{name}", openapi_examples.POLICY_NAME)
    headers = {"authorization": f"Bearer {world.token(world.acme)}"} if operation.caller else {}
    (example,) = MEDIA[f"{operation.name} request"]["examples"].values()
    answer = world.http.request(operation.method, path, json=example["value"], headers=headers)
    assert answer.status_code in (200, 403, 404), answer.text  # understood, whatever came of it
    spoiled = world.http.request(operation.method, path, json=example["value"] | {"extra": 1}, headers=headers)
    assert spoiled.status_code == 400


@pytest.mark.parametrize(
    ("name", "payload_type", "model"),
    [
        ("putKey", PAYLOAD_KEY_RECORD, KeyRecord),
        ("putPolicy", PAYLOAD_POLICY, SignedPolicy),
        ("putReferenceValues", PAYLOAD_REFERENCE_VALUES, ReferenceValues),
    ],
)
def test_envelopes_hold_what_they_say(name: str, payload_type: str, model: type[Model]) -> None:
    envelope = openapi_examples.REQUESTS[name]
    assert isinstance(envelope, Envelope)
    assert envelope.payload_type == payload_type
    model.model_validate_json(base64.b64decode(envelope.payload, validate=True))


def test_the_bundle_can_be_read_as_a_file() -> None:
    (example,) = MEDIA["bundle 200"]["examples"].values()
    assert BundleFile.read(canonical(example["value"])).bundle == openapi_examples.ANSWERS["bundle"]["bundle"]


def test_the_audit_logs_links_hold() -> None:
    (example,) = MEDIA["audit 200"]["examples"].values()
    hidden, own = example["value"]["links"]
    assert set(hidden) == {"seq", "hash"}
    record = AuditRecord(2, own["at"], own["event"], own["document"], hidden["hash"], own["hash"])
    assert follow([record], 1, hidden["hash"]) == (example["value"]["head"], example["value"]["headHash"])


def texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in an example with its member's name, also within the payloads of envelopes."""
    if isinstance(value, dict | list):
        for inner, item in value.items() if isinstance(value, dict) else ((name, item) for item in value):
            yield from texts(item, inner)
    elif name == "payload":
        yield from texts(json.loads(base64.b64decode(value)))
    elif isinstance(value, str):
        yield name, value


@pytest.mark.parametrize(("schema", "example"), EXAMPLES)
def test_nothing_in_them_is_a_key_or_a_token(schema: dict[str, Any], example: Any) -> None:
    for name, text in texts(example):
        assert not SECRET.search(text)
        # the hashes of the audit log's links are true, and of nothing secret
        assert not LONG_HEX.fullmatch(text) or len(set(text)) <= 2 or name in ("hash", "headHash")


def test_they_are_small() -> None:
    assert sum(len(json.dumps(found.get("examples", {}))) for found in MEDIA.values()) < MAX_CHARACTERS
