"""What is fuzzed: every parser of bytes that a stranger may have made.

A target's `build` runs in the process that fuzzes, with its modules instrumented; it returns the call and the inputs to start
from.  The call may end in a ChrysalisError and in nothing else: what else a parser's documented interface allows (a pydantic
ValidationError, which the HTTP edge answers with 422) the call itself catches.
"""

from __future__ import annotations

import base64
import gzip
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chrysalis.errors import ChrysalisError
from tests.fuzz.gpu_answers import gpu_answers
from tests.fuzz.stapled_documents import stapled_document

Call = Callable[[bytes], object]
Built = tuple[Call, Sequence[bytes]]


@dataclass(frozen=True)
class Target:
    """One parser; `max_bytes` is a little over what it reads at most, where that is small enough to reach."""

    name: str
    build: Callable[[], Built]
    modules: tuple[str, ...]  # that are instrumented for coverage, with all below them
    max_bytes: int = 16 * 1024


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Two inputs out of one."""
    one, _, other = data.partition(b"\0--\0")
    return one, other


def _quote() -> Built:
    from chrysalis.attestation import domain, quote, verdict
    from tests.fuzz.material import MATERIAL, vector_files

    def call(data: bytes) -> None:
        parsed = quote.parse(data)
        verdict.measured(parsed)
        domain.judge(parsed)
        _ = parsed.fmspc

    return call, [*MATERIAL.quotes, *vector_files("go-tdx-guest/*quote*.dat", "dcap-qvl/*quote")]


def _quote_file() -> Built:
    from chrysalis.attestation.quote_file import read
    from tests.fuzz.material import MATERIAL

    good = MATERIAL.quotes[0]
    packed = base64.b64encode(good)
    forms = [good, good.hex().encode(), b"0x" + good.hex().encode(), packed, json.dumps({"quote": packed.decode()}).encode()]
    forms += [json.dumps({"evidence": json.dumps({"body": packed.decode()})}).encode(), gzip.compress(good)]
    return read, [*forms, json.dumps({"quote": good.hex()}).encode()]


def _event_log_file() -> Built:
    from chrysalis.attestation.eventlog_file import read
    from tests.fuzz.material import MATERIAL

    good = MATERIAL.platform.event_log.rstrip(b"\xff")
    packed = base64.b64encode(good)
    forms = [good, good.hex().encode(), packed, gzip.compress(good), json.dumps({"cc_eventlog": packed.decode()}).encode()]
    return read, [*forms, json.dumps([json.dumps({"log": good.hex()}), list(good)]).encode()]


def _appraisal() -> Built:
    from chrysalis.attestation.appraisal import appraise
    from tests.fuzz.material import AT, MATERIAL

    def call(data: bytes) -> None:
        quote, event_log = _split(data)
        verdict = appraise(
            quote=quote,
            collateral=MATERIAL.collateral,
            policy=None,
            at=AT,
            roots=[MATERIAL.platform.root_der],
            event_log=event_log or None,
        )
        if verdict.accepted and quote.rstrip(b"\0") not in [good.rstrip(b"\0") for good in MATERIAL.quotes]:
            signed = [good[:-4000] for good in MATERIAL.quotes]  # what stands before the certificates' text is signed or a signature
            assert any(quote.startswith(part) for part in signed), "a quote that nobody signed was accepted"

    return call, [MATERIAL.quotes[0], MATERIAL.quotes[1] + b"\0--\0" + MATERIAL.platform.event_log]


def _collateral_file() -> Built:
    from chrysalis.attestation.collateral_file import read
    from tests.fuzz.material import MATERIAL

    good = json.loads(MATERIAL.collateral_text)
    answer = f'{{"tcbInfo":{good["tcb_info"]},"signature":"{good["tcb_info_signature"]}"}}'
    forms = [good, {"collateral": good | {"tcb_info": answer}}, [good | {"qe_identity": json.loads(good["qe_identity"])}]]
    return read, [json.dumps(form).encode() for form in forms]


def _collateral() -> Built:
    from chrysalis.attestation import genuineness
    from chrysalis.attestation.collateral import Collateral
    from chrysalis.attestation.quote import parse
    from chrysalis.attestation.reasons import AttestationError
    from tests.fuzz.material import AT, MATERIAL, vector_files

    quote = parse(MATERIAL.quotes[0])

    def call(data: bytes) -> None:
        collateral = Collateral.from_json(data)
        collateral.to_json()
        for question in (lambda: collateral.expiries, lambda: genuineness.authority(collateral, AT), lambda: collateral.qvl):
            try:
                question()
            except AttestationError:
                pass
        try:
            genuineness.verify(quote, collateral, AT, [MATERIAL.platform.root_der])
        except genuineness.NotGenuine:
            pass

    return call, [MATERIAL.collateral_text.encode(), *vector_files("collateral/qvl-b0c0*.json")]


def _certificates() -> Built:
    from chrysalis.attestation import anchor, collateral
    from tests.fuzz.material import AT, MATERIAL

    root = anchor.from_der(MATERIAL.platform.root_der)

    def call(data: bytes) -> None:
        certificates = collateral.chain(data, "chain")
        for certificate in certificates:
            collateral.common_name(certificate)
        anchor.follow(certificates, root, AT)

    return call, MATERIAL.certificates


def _der() -> Built:
    from chrysalis.attestation import anchor, collateral
    from chrysalis.attestation.reasons import AttestationError
    from tests.fuzz.material import MATERIAL

    def call(data: bytes) -> None:
        try:
            collateral.read_crl(data, "CRL")
        except AttestationError:
            pass
        anchor.from_der(data)

    return call, [MATERIAL.collateral.root_ca_crl, MATERIAL.collateral.pck_crl, MATERIAL.platform.root_der]


def _event_log() -> Built:
    from chrysalis.attestation import event_data, eventlog
    from tests.fuzz.material import MATERIAL, vector_files

    def call(data: bytes) -> None:
        events = eventlog.parse(data)
        eventlog.replay(events)
        for event in events:
            event_data.measured(event)
            event_data.texts(event)
        eventlog.separators(events)

    return call, [MATERIAL.platform.event_log, *(data[:12_000] for data in vector_files("*/ccel_data.*"))]


def _ra_tls() -> Built:
    from chrysalis.attestation import ratls
    from tests.fuzz.material import MATERIAL

    def call(data: bytes) -> None:
        quote, claims = ratls.parse_extension(data)
        assert ratls.extension(quote, claims) == data

    return call, [ratls.extension(MATERIAL.quotes[0], MATERIAL.bound.claims_buffer), ratls.extension(b"quote", b"claims")]


def _claims() -> Built:
    from chrysalis.attestation import binding
    from tests.fuzz.material import MATERIAL

    def call(data: bytes) -> None:
        claims = binding.parse_claims(data)
        assert binding.claims_buffer(claims.spki_sha256, claims.transcript) == data

    return call, [MATERIAL.bound.claims_buffer]


def _initdata() -> Built:
    from chrysalis.api import initdata
    from tests.fuzz.material import MATERIAL

    return initdata.parse, [MATERIAL.toml]


def _annotation() -> Built:
    from chrysalis.api import initdata
    from tests.fuzz.material import MATERIAL

    return lambda data: initdata.from_annotation(_text(data)), [initdata.to_annotation(MATERIAL.toml).encode()]


def _policy() -> Built:
    import yaml

    from chrysalis.attestation.policy_file import read_policy
    from tests.fuzz.material import MATERIAL

    text = yaml.safe_dump(json.loads(MATERIAL.policy_resource)).encode()
    return read_policy, [MATERIAL.policy_resource, text, json.dumps(MATERIAL.policy).encode(), b"a: &a [*a]\n", b"x: 2026-01-01\n"]


def _envelope() -> Built:
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


def _tokens() -> Built:
    from chrysalis.receipts import jws
    from chrysalis.receipts.reasons import ReceiptError
    from chrysalis.wire import owner_token
    from tests.fuzz.material import AT, EARLIER, MATERIAL

    def call(data: bytes) -> None:
        token = _text(data)
        owner_token.is_one(token)
        try:
            jws.peek(token)
        except ReceiptError:
            pass
        owner_token.verify(token, [MATERIAL.owner_public], AT, bytes(32))

    return call, [owner_token.make(MATERIAL.owner, at, pin).encode() for at in (AT, EARLIER) for pin in (bytes(32), bytes(31) + b"1")]


def _ear() -> Built:
    import jwt

    from chrysalis.wire import ear
    from tests.fuzz.material import AT, MATERIAL

    headers = {"typ": ear.TYP, "kid": "k"}
    seeds = [
        jwt.encode({"eat_profile": ear.PROFILE, "iat": 1, "exp": 2}, MATERIAL.owner, algorithm="EdDSA", headers=headers),
        jwt.encode({"eat_profile": ear.PROFILE}, None, algorithm="none", headers=headers),
        jwt.encode({}, MATERIAL.owner, algorithm="EdDSA", headers=headers | {ear.KEY_HEADER: "a.b.c"}),
    ]
    return lambda data: ear.verify(_text(data), MATERIAL.owner_public, AT), [token.encode() for token in seeds]


def _recalls() -> Built:
    from chrysalis.wire.recalls import RecalledKey, RecallList, open_list
    from tests.fuzz.material import MATERIAL

    seed = RecallList(iat=1, keys=[RecalledKey(kid="A" * 43, recalled_at=1)]).sign(MATERIAL.owner)
    return lambda data: open_list(_text(data), MATERIAL.owner_public), [seed.encode()]


def _anchor() -> Built:
    from chrysalis.broker.anchors import Anchor, State
    from tests.fuzz.material import MATERIAL, Held

    place = Held()
    Anchor(place, MATERIAL.owner).advance(State(audit_seq=1, audit_hash="00" * 32, policies={"o/p": 2}))
    return lambda data: Anchor(Held(data), MATERIAL.owner).read(), [place.content or b""]


def _archive() -> Built:
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


def _package() -> Built:
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


def _receipts() -> Built:
    from chrysalis.receipts.jws import sign
    from chrysalis.receipts.records import Record, check
    from tests.fuzz.material import MATERIAL

    token = sign("chrysalis-receipt+jwt", {"seq": 1}, MATERIAL.owner)
    line = Record(receipt=token, offer=token, certificate=token).to_line().encode()

    def call(data: bytes) -> None:
        check(Record.from_line(_text(data)))

    return call, [line]


def _messages() -> Built:
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


def _bundle() -> Built:
    from chrysalis.wire.bundle import BundleFile

    return BundleFile.read, [b'{"schemaVersion":"chrysalis/v1","evidence":{},"collateral":{},"policy":null}']


def _pccs() -> Built:
    from chrysalis.attestation.collateral_documents import DocumentKind
    from chrysalis.broker import pccs
    from tests.fuzz.material import MATERIAL

    documents = MATERIAL.platform.documents(_issue())
    signed = f'{{"tcbInfo":{documents["tcb_info"]},"signature":"{documents["tcb_info_signature"]}"}}'

    def call(data: bytes) -> None:
        # ValueError, KeyError and RecursionError are how these two say no; `fetch` turns them into an answer's failure.
        try:
            pccs.binary(data)
            signed_document = pccs._signed(DocumentKind.TCB_INFO, data, "tcbInfo", "")
        except (ValueError, KeyError, RecursionError):
            return
        assert signed_document.body in data, "what is signed was not cut out as it stands"

    return call, [signed.encode(), documents["pck_crl"].encode(), b'{"a":"\\u0000","tcbInfo":[1e5],"signature":"00"}']


def _issue() -> object:
    from tests.fuzz.material import AT

    return AT.replace(hour=0)


def _gpu_report() -> Built:
    from chrysalis.attestation.gpu import spdm
    from tests.fuzz.material import vector_files

    def call(data: bytes) -> None:
        report = spdm.parse(spdm.read(data))
        for field in spdm.Field:
            _ = field.name
        _ = report.gpu_vbios_version, report.gpu_links, report.switch_pdi, report.switch_gpus

    return call, vector_files("nvidia-*/*report*", "nvidia-*/*.bin", "nvidia-*/*.txt")[:20] or [bytes(2048)]


def _gpu_evidence() -> Built:
    from chrysalis.attestation.gpu import evidence

    device = {"evidence": base64.b64encode(bytes(64)).decode(), "certificate": "", "arch": "HOPPER", "nonce": "0" * 64}
    return evidence.read, [json.dumps([device]).encode(), json.dumps(device).encode()]


def _gpu_chain() -> Built:
    from chrysalis.attestation.gpu import chain
    from tests.fuzz.material import AT, MATERIAL, vector_files

    def call(data: bytes) -> None:
        read = chain.read(chain.read_pem(data))
        read.check(AT)

    return call, [*MATERIAL.certificates, *vector_files("nvidia-*/*cert*")[:6]]


def _gpu_der() -> Built:
    from chrysalis.attestation.gpu import der
    from tests.fuzz.material import MATERIAL

    def call(data: bytes) -> None:
        der.elements(data)
        der.sequence(data)

    return call, [MATERIAL.platform.root_der, bytes.fromhex("3003020105")]


def _rim() -> Built:
    from chrysalis.attestation.gpu import rim
    from tests.fuzz.material import AT, vector_files

    return lambda data: rim.digest(data, at=AT), [*vector_files("nvidia-*/*.swidtag", "nvidia-*/*.xml")[:4], b"<SoftwareIdentity/>"]


def _nras() -> Built:
    from cryptography.hazmat.primitives.asymmetric import ec

    from chrysalis.attestation.gpu import nras
    from tests.fuzz.material import AT

    keys = {"k": ec.generate_private_key(ec.SECP384R1()).public_key()}

    def segment(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    token = ".".join([segment({"alg": "ES384", "kid": "k", "typ": "JWT"}), segment({"iss": nras.ISSUER, "exp": 1 << 40}), "A" * 128])

    def call(data: bytes) -> None:
        one, other = _split(data)
        try:
            nras.read_keys(other)
        except ChrysalisError:
            pass
        nras.check(one, keys=keys, nonce=bytes(32), at=AT)

    jwks = {"keys": [{"kty": "EC", "crv": "P-384", "kid": "k", "x": "A" * 64, "y": "A" * 64}]}
    answer = json.dumps([["JWT", token], {"GPU-0": token}]).encode()
    return call, [answer, answer + b"\0--\0" + json.dumps(jwks).encode()]


def _ocsp() -> Built:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509 import ocsp as answers

    from chrysalis.attestation.gpu import ocsp
    from tests.fuzz.material import AT, MATERIAL

    names, keys = MATERIAL.platform.certificates, MATERIAL.platform.keys
    good = (
        answers.OCSPResponseBuilder()
        .add_response(names["ca"], names["root"], hashes.SHA256(), answers.OCSPCertStatus.GOOD, AT, AT, None, None)
        .responder_id(answers.OCSPResponderEncoding.HASH, names["root"])
        .certificates([names["root"]])
        .add_extension(x509.OCSPNonce(bytes(32)), critical=False)
        .sign(keys["root"], hashes.SHA256())
    )

    def call(data: bytes) -> None:
        for answer in ocsp.read([data]):
            answer.is_about(names["ca"], names["root"])
            answer.check(names["ca"], names["root"], AT, bytes(32))

    from cryptography.hazmat.primitives.serialization import Encoding

    return call, [good.public_bytes(Encoding.DER)]


def _peer_certificate() -> Built:
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


def _collateral_document() -> Built:
    """What the broker checks of one fetched document."""
    from chrysalis.attestation import anchor, collateral_check, collateral_documents
    from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument
    from chrysalis.attestation.reasons import AttestationError
    from tests.fuzz.material import AT, MATERIAL

    root = anchor.from_der(MATERIAL.platform.root_der)
    good = collateral_documents.split(MATERIAL.collateral)
    root_crl = good[DocumentKind.ROOT_CRL]

    def call(data: bytes) -> None:
        for kind, document in good.items():
            bent = SignedDocument(kind, data, document.signature, document.issuers)
            try:
                collateral_check.check(bent, root, AT, root_crl=None if kind is DocumentKind.ROOT_CRL else root_crl)
            except AttestationError:
                continue
            assert data == document.body, "a document that nobody signed was accepted"

    return call, [document.body for document in good.values()]


TARGETS = (
    Target("quote", _quote, ("chrysalis.attestation",)),
    Target("quote-file", _quote_file, ("chrysalis.attestation",)),
    Target("event-log-file", _event_log_file, ("chrysalis.attestation",)),
    Target("appraisal", _appraisal, ("chrysalis.attestation",)),
    Target("collateral", _collateral, ("chrysalis.attestation",), 32 * 1024),
    Target("collateral-file", _collateral_file, ("chrysalis.attestation",), 32 * 1024),
    Target("certificates", _certificates, ("chrysalis.attestation",)),
    Target("der", _der, ("chrysalis.attestation",)),
    Target("event-log", _event_log, ("chrysalis.attestation",)),
    Target("ra-tls", _ra_tls, ("chrysalis.attestation", "cbor2")),
    Target("claims-buffer", _claims, ("chrysalis.attestation", "cbor2"), 2048),
    Target("initdata", _initdata, ("chrysalis.api", "tomllib")),
    Target("annotation", _annotation, ("chrysalis.api",)),
    Target("policy", _policy, ("chrysalis.attestation.policy_file", "yaml")),
    Target("envelope", _envelope, ("chrysalis.wire",)),
    Target("tokens", _tokens, ("chrysalis.receipts", "chrysalis.wire")),
    Target("ear", _ear, ("chrysalis.wire", "jwt")),
    Target("recalls", _recalls, ("chrysalis.wire", "chrysalis.receipts")),
    Target("anchor", _anchor, ("chrysalis.broker.anchors", "chrysalis.receipts")),
    Target("archive", _archive, ("chrysalis.sealing",)),
    Target("package", _package, ("chrysalis.sealing",)),
    Target("receipts", _receipts, ("chrysalis.receipts",)),
    Target("messages", _messages, ("chrysalis.wire", "chrysalis.api")),
    Target("bundle", _bundle, ("chrysalis.wire",)),
    Target("pccs", _pccs, ("chrysalis.broker.pccs",)),
    Target("gpu-report", _gpu_report, ("chrysalis.attestation.gpu",)),
    Target("gpu-evidence", _gpu_evidence, ("chrysalis.attestation.gpu",)),
    Target("gpu-chain", _gpu_chain, ("chrysalis.attestation.gpu",)),
    Target("gpu-der", _gpu_der, ("chrysalis.attestation.gpu",)),
    Target("nras", _nras, ("chrysalis.attestation.gpu",)),
    Target("gpu-answers", gpu_answers, ("chrysalis.wire.gpu", "chrysalis.wire.gpu_services", "chrysalis.attestation.gpu")),
    Target("ocsp", _ocsp, ("chrysalis.attestation.gpu",)),
    Target("peer-certificate", _peer_certificate, ("chrysalis.client", "chrysalis.wire", "chrysalis.attestation")),
    Target("stapled-document", stapled_document, ("chrysalis.client", "chrysalis.wire"), 128 * 1024),
    Target("fetched-document", _collateral_document, ("chrysalis.attestation",)),
    Target("rim", _rim, ("chrysalis.attestation.gpu",), 64 * 1024),
)


def named(name: str) -> Target:
    """The target of this name; raises KeyError."""
    return {target.name: target for target in TARGETS}[name]
