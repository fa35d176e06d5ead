"""What docs/wire says of the broker's messages, of sealing and of owners' signatures is what the code does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chrysalis.api.policy import Envelope
from chrysalis.sealing import archive, hpke
from chrysalis.wire import dsse, schemas

DOCS = Path(__file__).resolve().parents[2] / "docs" / "wire"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "sealing.json").read_text())
    return found


def test_the_schema_is_current() -> None:
    assert (DOCS / schemas.FILE).read_text() == schemas.text(), "run `python -m chrysalis.wire.schemas docs/wire`"


def test_the_bundles_schema_is_current() -> None:
    assert (DOCS / schemas.BUNDLE_FILE).read_text() == schemas.text(schemas.bundle_document()), (
        "run `python -m chrysalis.wire.schemas docs/wire`"
    )


def test_every_message_refuses_unknown_fields() -> None:
    objects = [d for d in schemas.document()["$defs"].values() if d.get("type") == "object"]
    assert len(objects) > 20
    assert all(definition["additionalProperties"] is False for definition in objects)


def test_the_archive(vectors: dict[str, Any], tmp_path: Path) -> None:
    vector = vectors["archive"]
    for name, content in vector["files"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for name in vector["emptyDirectories"]:
        (tmp_path / name).mkdir()
    assert (len(archive.pack(tmp_path)), archive.digest(tmp_path)) == (vector["sizeBytes"], vector["modelDigest"])


def test_the_wrapped_key(vectors: dict[str, Any]) -> None:
    vector = vectors["modelKey"]
    info = hpke.model_key_info(vector["keyId"], vector["modelDigest"], vector["resultId"])
    assert info.hex() == vector["info"]
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["privateKey"]))
    assert hpke.unwrap(private, bytes.fromhex(vector["wrapped"]), info).hex() == vector["plaintext"]


def test_the_envelope(vectors: dict[str, Any]) -> None:
    vector = vectors["envelope"]
    envelope = Envelope.model_validate(vector["envelope"])
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["seed"]))
    verified = dsse.verify(envelope, envelope.payload_type, [key.public_key().public_bytes_raw()])
    assert dsse.pae(envelope.payload_type, verified.payload).hex() == vector["pae"]
    assert dsse.sign(envelope.payload_type, verified.payload, key) == envelope
