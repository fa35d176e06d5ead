"""The broker's messages as JSON Schema, generated from their models: `python -m chrysalis.wire.schemas docs/wire`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from chrysalis.api.base import Model
from chrysalis.api.policy import Envelope, SignedPolicy
from chrysalis.api.reference import ReferenceValues
from chrysalis.wire import broker, broker_views, changes, ear
from chrysalis.wire.broker_evidence import BrokerEvidence
from chrysalis.wire.bundle import Bundle, BundleStatement
from chrysalis.wire.reference import ReferenceList

FILE = "broker.schema.json"
BUNDLE_FILE = "bundle.schema.json"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
MESSAGES: tuple[type[Model], ...] = (
    broker.Challenge,
    broker.Evidence,
    broker.AttestResult,
    broker.ReleaseRequest,
    broker.ResultStanding,
    broker.WrappedKey,
    broker.KeyRecord,
    broker.ResultView,
    broker.ResultList,
    changes.ResultChanges,
    changes.PolicySimulation,
    broker.Problem,
    broker_views.KeyRecordView,
    broker_views.PolicyView,
    broker_views.AuditList,
    broker.AttestationDocument,
    BrokerEvidence,
    ReferenceList,
    ReferenceValues,
    BundleStatement,
    Envelope,
    SignedPolicy,
    ear.Ear,
)


def document() -> dict[str, Any]:
    """One JSON Schema (draft 2020-12) whose `$defs` hold every message."""
    _, schema = models_json_schema([(message, "validation") for message in MESSAGES], by_alias=True, title="The broker's API, version 1")
    return {"$schema": DRAFT, "schemaVersion": "chrysalis/v1", **schema}


def bundle_document() -> dict[str, Any]:
    """The JSON Schema of an evidence bundle; the canonical form of the file is beyond a schema (docs/wire/bundle.md)."""
    return {"$schema": DRAFT, "schemaVersion": "chrysalis/v1", **Bundle.model_json_schema(by_alias=True, mode="validation")}


def text(of: dict[str, Any] | None = None) -> str:
    """A file's text; the broker's without `of`."""
    return json.dumps(document() if of is None else of, indent=1, ensure_ascii=False) + "\n"


def main(argv: list[str]) -> int:
    """Write the files into the folder that is named."""
    if len(argv) != 1:
        print("usage: python -m chrysalis.wire.schemas FOLDER", file=sys.stderr)
        return 2
    (Path(argv[0]) / FILE).write_text(text())
    (Path(argv[0]) / BUNDLE_FILE).write_text(text(bundle_document()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
