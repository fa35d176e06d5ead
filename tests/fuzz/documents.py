"""The fuzz targets of what people write and programs send: policies, tokens, packages, messages, bundles."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

from tests.fuzz.target import Built, text


def initdata() -> Built:
    from chrysalis.api import initdata
    from tests.fuzz.material import MATERIAL

    return initdata.parse, [MATERIAL.toml]


def annotation() -> Built:
    from chrysalis.api import initdata
    from tests.fuzz.material import MATERIAL

    return lambda data: initdata.from_annotation(text(data)), [initdata.to_annotation(MATERIAL.toml).encode()]


def policy() -> Built:
    import yaml

    from chrysalis.attestation.policy_file import read_policy
    from tests.fuzz.material import MATERIAL

    text = yaml.safe_dump(json.loads(MATERIAL.policy_resource)).encode()
    return read_policy, [MATERIAL.policy_resource, text, json.dumps(MATERIAL.policy).encode(), b"a: &a [*a]\n", b"x: 2026-01-01\n"]


def envelope() -> Built:
    from pydantic import ValidationError

    from chrysalis.api.policy import Envelope
    from chrysalis.wire import dsse
    from chrysalis.wire.broker import PAYLOAD_POLICY
    from tests.fuzz.material import MATERIAL

    good = dsse.sign(PAYLOAD_POLICY, MATERIAL.policy_resource, MATERIAL.owner)

    def call(data: bytes) -> None:
        try:
            envelope = Envelope.model_validate_json(data)
        except ValidationError:
            return
        payload = dsse.verify(envelope, PAYLOAD_POLICY, [MATERIAL.owner_public]).payload
        assert payload == MATERIAL.policy_resource, "an envelope that nobody signed was accepted"

    return call, [good.model_dump_json(by_alias=True).encode()]


def tokens() -> Built:
    from chrysalis.receipts import jws
    from chrysalis.receipts.reasons import ReceiptError
    from chrysalis.wire import owner_token
    from tests.fuzz.material import AT, EARLIER, MATERIAL

    def call(data: bytes) -> None:
        token = text(data)
        owner_token.is_one(token)
        try:
            jws.peek(token)
        except ReceiptError:
            pass
        owner_token.verify(token, [MATERIAL.owner_public], AT, bytes(32))

    return call, [owner_token.make(MATERIAL.owner, at, pin).encode() for at in (AT, EARLIER) for pin in (bytes(32), bytes(31) + b"1")]


def ear() -> Built:
    import jwt

    from chrysalis.wire import ear
    from tests.fuzz.material import AT, MATERIAL

    headers = {"typ": ear.TYP, "kid": "k"}
    seeds = [
        jwt.encode({"eat_profile": ear.PROFILE, "iat": 1, "exp": 2}, MATERIAL.owner, algorithm="EdDSA", headers=headers),
        jwt.encode({"eat_profile": ear.PROFILE}, None, algorithm="none", headers=headers),
        jwt.encode({}, MATERIAL.owner, algorithm="EdDSA", headers=headers | {ear.KEY_HEADER: "a.b.c"}),
    ]
    return lambda data: ear.verify(text(data), MATERIAL.owner_public, AT), [token.encode() for token in seeds]


def recalls() -> Built:
    from chrysalis.wire.recalls import RecalledKey, RecallList, open_list
    from tests.fuzz.material import MATERIAL

    seed = RecallList(iat=1, keys=[RecalledKey(kid="A" * 43, recalled_at=1)]).sign(MATERIAL.owner)
    return lambda data: open_list(text(data), MATERIAL.owner_public), [seed.encode()]


def anchor() -> Built:
    from chrysalis.broker.anchors import Anchor, State
    from tests.fuzz.material import MATERIAL, Held

    place = Held()
    Anchor(place, MATERIAL.owner).advance(State(audit_seq=1, audit_hash="00" * 32, policies={"o/p": 2}))
    return lambda data: Anchor(Held(data), MATERIAL.owner).read(), [place.content or b""]


def archive() -> Built:
    from chrysalis.sealing import archive

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "minilm", "1")
        model.mkdir(parents=True)
        (model / "model.onnx").write_bytes(bytes(range(256)) * 2)
        (model.parent / "config.pbtxt").write_text('name: "minilm"\n')
        good = archive.pack(Path(folder))

    def call(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as destination:
            place = Path(destination, "unpacked")
            archive.unpack(data, place)
            assert archive.pack(place) == data, "an archive that is not canonical was accepted"

    return call, [good]


def package() -> Built:
    from pyrage import x25519

    from chrysalis.sealing import package

    identity = x25519.Identity.generate()
    from pyrage import encrypt

    folder = tempfile.mkdtemp()
    path = Path(folder, "package.age")

    def call(data: bytes) -> None:
        path.write_bytes(data)
        package.inspect_header(path)
        with tempfile.TemporaryDirectory() as destination:
            package.open_package(path, str(identity), "sha256:" + "0" * 64, Path(destination, "model"))

    return call, [encrypt(b"not an archive", [identity.to_public()])]


def receipts() -> Built:
    from chrysalis.receipts.jws import sign
    from chrysalis.receipts.records import Record, check
    from tests.fuzz.material import MATERIAL

    token = sign("chrysalis-receipt+jwt", {"seq": 1}, MATERIAL.owner)
    line = Record(receipt=token, offer=token, certificate=token).to_line().encode()

    def call(data: bytes) -> None:
        check(Record.from_line(text(data)))

    return call, [line]


def messages() -> Built:
    from pydantic import ValidationError

    from chrysalis.wire import broker
    from tests.fuzz.material import MATERIAL

    models = (broker.Challenge, broker.Evidence, broker.ReleaseRequest, broker.KeyRecord, broker.ResultView, broker.AttestationDocument)
    evidence = {
        "schemaVersion": "chrysalis/v1",
        "nonce": "0" * 64,
        "quote": base64.b64encode(MATERIAL.quotes[0]).decode(),
        "eventLog": base64.b64encode(MATERIAL.platform.event_log).decode(),
        "initdata": base64.b64encode(MATERIAL.toml).decode(),
        "keys": {"tlsSpkiSha256": "0" * 64, "hpke": "1" * 64, "receipt": "2" * 64},
        "claimed": {"podUid": "u", "podName": "p", "namespace": "n", "workerName": "w", "nodeName": "n"},
    }

    def call(data: bytes) -> None:
        for model in models:
            try:
                model.model_validate_json(data).model_dump_json(by_alias=True)
            except ValidationError:
                pass

    return call, [json.dumps(evidence).encode(), b'{"schemaVersion":"chrysalis/v1"}']


def bundle() -> Built:
    from chrysalis.wire.bundle import BundleFile

    return BundleFile.read, [b'{"schemaVersion":"chrysalis/v1","evidence":{},"collateral":{},"policy":null}']


def peer_certificate() -> Built:
    """What a client reads of the certificate that its peer shows."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from chrysalis.client import ties
    from chrysalis.wire import pinning
    from chrysalis.wire.reasons import WireError
    from tests.fuzz.material import MATERIAL

    def call(data: bytes) -> None:
        try:
            pinning.spki_sha256(data)
        except WireError:
            pass
        ties.check_ratls(ties.Peer(data, bytes(32)), MATERIAL.quotes[0])

    return call, [certificate.public_bytes(Encoding.DER) for certificate in MATERIAL.platform.certificates.values()]
