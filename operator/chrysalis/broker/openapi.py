"""The broker's API as an OpenAPI 3.1 document: `python -m chrysalis.broker.openapi docs/wire`; served at /v1/openapi.json.

Schemas come from the wire models, examples from chrysalis.broker.openapi_examples, operations from the table here; tests hold the
table against the routes, the examples against their schemas, the committed file against this module, and (schemathesis) the answers
against both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from pydantic.json_schema import models_json_schema

from chrysalis.api.base import Model
from chrysalis.api.policy import Envelope, SignedPolicy
from chrysalis.broker import openapi_examples as examples
from chrysalis.broker.messages import JSON, PROBLEM
from chrysalis.wire import broker, broker_evidence, broker_views, bundle, changes, recalls, reference

FILE = "broker.openapi.json"
EVENTS = "text/event-stream"

LABEL = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
HEX32 = {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}
TEXT = {"type": "string", "maxLength": 512}
VERDICT = {"type": "string", "enum": ["Accepted", "Refused"]}

ALWAYS = (400, 429, 503)
"""Any operation: a malformed message or query; limits; a database or another service that does not answer."""
WITH_BODY = (408, 413)
"""Where a body is read, also one that says nothing."""
UNSUPPORTED = 415
"""Where a message is read."""
WITH_CALLER = (401, 403)

OWNERS_CREDENTIAL = (
    "JWS by an owner's key, typ chrysalis-owner+jwt, for this broker (aud: chrysalis-broker: and the SHA-256 of its TLS key), good for one"
    " change."
)
CREDENTIALS: list[dict[str, list[str]]] = [{"ownerToken": []}, {"openIdConnect": []}, {"serviceAccount": []}, {"clientCertificate": []}]


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    path: as it is routed.  answers: by status; a model, a media type with a model, or None for an empty body.
    problems: statuses of problem documents besides those that its kind always has.
    """

    method: str
    path: str
    name: str
    summary: str
    answers: dict[int, Any]
    body: type[Model] | None = None
    query: tuple[tuple[str, dict[str, Any]], ...] = ()
    caller: bool = False
    optional_caller: bool = False
    problems: tuple[int, ...] = ()


FILTERS = (("namespace", TEXT), ("worker", TEXT), ("podUID", TEXT), ("verdict", VERDICT))
KEY_SET = {
    "type": "object",
    "required": ["keys"],
    "properties": {"keys": {"type": "array", "items": {"type": "object", "required": ["kty", "kid"]}}},
}
READY = {"type": "object", "required": ["status", "placement"], "properties": {"status": {"const": "ok"}, "placement": {"type": "string"}}}

OPERATIONS: tuple[Operation, ...] = (
    Operation("POST", "/v1/challenge", "challenge", "A fresh nonce for one attestation.", {200: broker.Challenge}, problems=WITH_BODY),
    Operation(
        "POST",
        "/v1/attest",
        "attest",
        "Judge evidence over a nonce. Refused evidence is a problem document with every reason.",
        {200: broker.AttestResult},
        body=broker.Evidence,
        problems=(403,),
    ),
    Operation(
        "POST",
        "/v1/keys/{key_id}:release",
        "releaseKey",
        "The model key, wrapped to the HPKE key that a result attests. Needs no credential: only that domain can open it.",
        {200: broker.WrappedKey},
        body=broker.ReleaseRequest,
        problems=(403, 404),
    ),
    Operation(
        "GET",
        "/v1/results/{result_id}:standing",
        "resultStanding",
        "Whether a result still counts, for the worker whose it is, and when to ask again. Needs no credential.",
        {200: broker.ResultStanding},
    ),
    Operation(
        "PUT",
        "/v1/keys/{key_id}",
        "putKey",
        "Store an owner-signed key record. The signature is the credential; whoever sends others too must be the tenant's OwnerAdmin.",
        {200: None, 201: None},
        body=Envelope,
        optional_caller=True,
        problems=(403, 404, 409),
    ),
    Operation(
        "GET",
        "/v1/keys/{key_id}",
        "key",
        "A key record without its key; `owner` where the caller sees several owners' of this id.",
        {200: broker_views.KeyRecordView},
        query=(("owner", HEX32),),
        caller=True,
        problems=(404,),
    ),
    Operation(
        "PUT",
        "/v1/policies/{name}",
        "putPolicy",
        "Store an owner-signed policy of a higher version.",
        {200: None, 201: None},
        body=Envelope,
        optional_caller=True,
        problems=(403, 404, 409),
    ),
    Operation(
        "GET",
        "/v1/policies/{name}",
        "policy",
        "The policy in force: the newest stored version, with its owner's envelope.",
        {200: broker_views.PolicyView},
        query=(("owner", HEX32),),
        caller=True,
        problems=(404,),
    ),
    Operation(
        "POST",
        "/v1/policies/{name}:simulate",
        "simulatePolicy",
        "What a policy would change for stored evidence, before it is signed.",
        {200: changes.PolicySimulation},
        body=SignedPolicy,
        caller=True,
        problems=(404,),
    ),
    Operation(
        "GET",
        "/v1/results",
        "results",
        "Attempts to attest, newest first; with `wait` their changes by long poll, with `watch=true` as server-sent events.",
        {200: ((JSON, broker.ResultList), (JSON, changes.ResultChanges), (EVENTS, None))},
        query=(
            *FILTERS,
            ("after", TEXT),
            ("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
            ("wait", {"type": "integer", "minimum": 0, "maximum": 60}),
            ("watch", {"const": "true"}),
        ),
        caller=True,
        problems=(404,),
    ),
    Operation("GET", "/v1/results/{result_id}", "result", "One attempt.", {200: broker.ResultView}, caller=True, problems=(404,)),
    Operation(
        "POST",
        "/v1/results/{result_id}:revoke",
        "revokeResult",
        "End a result before its time; for its key's owner and its tenant's OwnerAdmins.",
        {200: broker.ResultView},
        caller=True,
        problems=(404, *WITH_BODY),
    ),
    Operation(
        "GET",
        "/v1/bundles/{result_id}",
        "bundle",
        "The evidence bundle of a result, to be judged offline.",
        {200: ((bundle.MEDIA_TYPE, bundle.Bundle),)},
        caller=True,
        problems=(404,),
    ),
    Operation(
        "GET",
        "/v1/audit",
        "audit",
        "The audit log's chain of hashes, with the records of the caller's tenant; for owners and OwnerAdmins.",
        {200: broker_views.AuditList},
        query=(
            ("after", {"type": "integer", "minimum": 0, "maximum": 1 << 53}),
            ("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
        ),
        caller=True,
    ),
    Operation(
        "PUT",
        "/v1/reference-values",
        "putReferenceValues",
        "Store reference values that a listed publisher has signed.",
        {200: None, 201: None},
        body=Envelope,
        problems=(403, 409),
    ),
    Operation(
        "GET",
        "/v1/reference-values",
        "referenceValues",
        "The newest signed reference values of each publisher.",
        {200: reference.ReferenceList},
    ),
    Operation("GET", "/.well-known/jwks.json", "keySet", "The keys that sign results (RFC 7517).", {200: KEY_SET}),
    Operation(
        "GET",
        "/.well-known/ear-recalls",
        "recalls",
        "Which keys that signed results are recalled: a compact JWS of the pinned key.",
        {200: recalls.Recalls},
    ),
    Operation(
        "GET",
        "/.well-known/attestation",
        "brokerEvidence",
        "The broker's evidence about itself, over the asker's nonce; only in placement InTD.",
        {200: broker_evidence.BrokerEvidence},
        query=(("nonce", HEX32),),
        problems=(403, 404),
    ),
    Operation("GET", "/readyz", "ready", "Whether the broker is ready.", {200: READY}),
    Operation("GET", "/v1/openapi.json", "openapi", "This document.", {200: {"type": "object"}}),
)

PARAMETERS: dict[str, dict[str, Any]] = {"key_id": LABEL, "name": LABEL, "result_id": {"type": "string", "maxLength": 64}}


def document(operations: Iterable[Operation] = OPERATIONS) -> dict[str, Any]:
    """The OpenAPI document of these operations."""
    operations = tuple(operations)
    models = sorted({model for operation in operations for model in _models(operation)} | {broker.Problem}, key=lambda m: m.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in models], by_alias=True, ref_template="#/components/schemas/{model}")
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(_path(operation.path), {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chrysalis broker",
            "version": "v1",
            "description": "Attests workers and releases model keys to them. Every refusal is a problem document (RFC 9457) with"
            " stable reasons and remedies. TLS 1.3; the server's key is pinned by its SHA-256.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "responses": {
                "Problem": {"description": "Refused, and why.", "content": _problem_content("Problem")},
                "ContentTypeUnsupported": {
                    "description": f"The body cannot be read, and does not say that it is {JSON}.",
                    "headers": {"Accept": {"description": "The type to send.", "required": True, "schema": {"const": JSON}}},
                    "content": _problem_content("ContentTypeUnsupported"),
                },
            },
            "securitySchemes": {
                "ownerToken": {"type": "http", "scheme": "bearer", "description": OWNERS_CREDENTIAL},
                "openIdConnect": {"type": "http", "scheme": "bearer", "description": "Token of an issuer that the settings list."},
                "serviceAccount": {"type": "http", "scheme": "bearer", "description": "Of audience chrysalis-broker (TokenReview)."},
                "clientCertificate": {"type": "mutualTLS", "description": "Issued by the authority of a tenant."},
            },
        },
    }


def text() -> str:
    """The file's text."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def register(app: FastAPI) -> None:
    """Add the route that serves the document."""
    served = json.dumps(document(), ensure_ascii=False).encode()

    @app.get("/v1/openapi.json")
    async def openapi() -> Response:
        return Response(served, media_type=JSON)


def main(argv: list[str]) -> int:
    """Write the file into the folder that is named."""
    if len(argv) != 1:
        print("usage: python -m chrysalis.broker.openapi FOLDER", file=sys.stderr)
        return 2
    (Path(argv[0]) / FILE).write_text(text())
    return 0


def _operation(operation: Operation) -> dict[str, Any]:
    problems = {*ALWAYS, *operation.problems, *((*WITH_BODY, UNSUPPORTED) if operation.body else ())}
    if operation.caller or operation.optional_caller:
        problems |= set(WITH_CALLER)
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "security": CREDENTIALS if operation.caller else [{}, *CREDENTIALS] if operation.optional_caller else [],
        "parameters": [
            *({"name": _camel(name), "in": "path", "required": True, "schema": PARAMETERS[name]} for name in _names(operation.path)),
            *({"name": name, "in": "query", "required": False, "schema": schema} for name, schema in operation.query),
        ],
        "responses": {
            **{str(status): _answer(found, examples.ANSWERS.get(operation.name, {})) for status, found in operation.answers.items()},
            **{str(status): _problem(status) for status in sorted(problems)},
        },
    }
    if operation.body is not None:
        asked = {operation.name: examples.REQUESTS[operation.name]}
        described["requestBody"] = {"required": True, "content": {JSON: _content(_reference(operation.body), asked)}}
    return described


def _problem(status: int) -> dict[str, str]:
    return {"$ref": f"#/components/responses/{'ContentTypeUnsupported' if status == UNSUPPORTED else 'Problem'}"}


def _problem_content(response: str) -> dict[str, Any]:
    return {PROBLEM: _content(_reference(broker.Problem), examples.PROBLEMS[response])}


def _content(schema: dict[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema": schema, "examples": examples.shown(shown)} if shown else {"schema": schema}


def _answer(found: Any, shown: Mapping[str, Any]) -> dict[str, Any]:
    if found is None:
        return {"description": "Done."}
    contents: dict[str, list[dict[str, Any]]] = {}
    for media_type, what in found if isinstance(found, tuple) else ((JSON, found),):
        schema = {"type": "string"} if what is None else what if isinstance(what, dict) else _reference(what)
        contents.setdefault(media_type, []).append(schema)
    return {
        "description": "The answer.",
        "content": {
            media_type: _content(schemas[0] if len(schemas) == 1 else {"anyOf": schemas}, {} if media_type == EVENTS else shown)
            for media_type, schemas in contents.items()
        },
    }


def _models(operation: Operation) -> Iterable[type[Model]]:
    if operation.body is not None:
        yield operation.body
    for found in operation.answers.values():
        for candidate in [what for _, what in found] if isinstance(found, tuple) else [found]:
            if isinstance(candidate, type) and issubclass(candidate, Model):
                yield candidate


def _reference(model: type[Model]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _names(path: str) -> list[str]:
    return [part.partition("}")[0] for part in path.split("{")[1:]]


def _path(path: str) -> str:
    for name in _names(path):
        path = path.replace("{" + name + "}", "{" + _camel(name) + "}")
    return path


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
