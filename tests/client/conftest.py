"""A worker on loopback with real TLS, real RA-TLS and a simulated platform's quotes, whose answers tests bend."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chrysalis.api import initdata as initdata_form
from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation import binding, ratls
from chrysalis.clock import SystemClock, unix
from chrysalis.receipts import chain, jws, pricing, salted, worker_id
from chrysalis.receipts.objects import Offer, PriceList, Receipt, ReceiptKeyCertificate, Status, Use
from chrysalis.wire.broker import AttestationDocument, ClaimedIdentity, Evidence, Keys
from chrysalis.wire.ear import Appraisal, Confirmation, Ear, EarResult, VerifierId
from chrysalis.wire.pinning import spki_sha256
from chrysalis.wire.worker import HEADER_RECEIPT, HEADER_SALT, HEADER_TICKET, ReceiptPage
from e2e.simtd.pki import SimulatedPlatform

SET = "-3:0:" + "c0" * 32
WALLET = "0:" + "aa" * 32
BROKERS_NONCE = b"b" * 32
RESULT_ID = "0193f000-0000-7000-8000-000000000001"
Bend = Callable[[Any], Any]


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


@dataclass
class Worker:
    """The whole worker; `bends` maps a name to a function that changes what is served under it."""

    platform: SimulatedPlatform
    folder: Path
    set_name: str = SET
    isolation: str = "PodTD"
    owner: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    key_owner: Ed25519PrivateKey | None = None
    """Whose key record the worker is measured with; None: it names none."""
    bends: dict[str, Bend] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    """The mode of each document that was asked for."""
    during: Callable[[], None] | None = None
    """Called while a job is answered."""

    def __post_init__(self) -> None:
        self.now = SystemClock().now()
        self.receipt_key, self.ear, self.reservation = (Ed25519PrivateKey.generate() for _ in range(3))
        self.wrk = worker_id(raw(self.receipt_key))
        self.head = chain.Head.start(self.wrk)
        self.identity = self._identity()
        containers = [{"name": "gateway", "image": "x@sha256:" + "2" * 64, "args": ["agent"]}]
        self.toml = initdata_form.Initdata.model_validate({"containers": containers, "identity": self.identity.to_json_dict()}).to_toml()
        self.collateral = self.platform.collateral(self.now)
        self.tls_key = ec.generate_private_key(ec.SECP256R1())
        self.stored_quote = b""
        self.certificate = self.make_certificate()
        self.spki = spki_sha256(self.certificate.public_bytes(serialization.Encoding.DER))

    def _identity(self) -> MeasuredIdentity:
        return MeasuredIdentity.model_validate(
            {
                "templateVersion": 1,
                "isolation": self.isolation,
                "imageDigest": "sha256:" + "2" * 64,
                "model": {
                    "name": "minilm",
                    "package": {"url": "http://models/minilm", "digest": "sha256:" + "0" * 64, "sizeBytes": 5},
                    "digest": "sha256:" + "1" * 64,
                    "keyId": "minilm-key",
                    "keyOwner": raw(self.key_owner).hex() if self.key_owner else None,
                },
                "policyName": "minilm",
                "broker": {"url": "https://broker:8443", "spkiSha256": "3" * 64, "earKey": raw(self.ear).hex()},
                "set": self.set_name,
                "wallet": WALLET,
                "reservationKeys": [raw(self.reservation).hex()],
                "prices": {"prompt": 2_000_000, "job": 5_000_000},
            }
        )

    def quote(self, report_data: bytes) -> bytes:
        return self.platform.quote(report_data, mrconfigid=initdata_form.mrconfigid(self.toml))

    def policy(self, **tcb: Any) -> AttestationPolicySpec:
        values = self.platform.reference_values()
        names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")
        rule = {
            "policyDigests": [initdata_form.policy_digest(self.toml)],
            "templateVersions": [1],
            "imageDigests": ["sha256:" + "2" * 64],
            "wallets": "Any",
        }
        return AttestationPolicySpec.model_validate(
            {
                "version": 1,
                "trustRoot": {"der": base64.b64encode(self.platform.root_der).decode()},
                "brokerPlacement": ["Development"],
                "tdx": {
                    "tcb": {"allowedStatuses": ["UpToDate"]} | tcb,
                    "measurements": [{"name": "simulated", "initdata": rule} | {n: values[n] for n in names}],
                    "tdAttributes": values["tdAttributes"],
                    "xfam": values["xfam"],
                },
            }
        )

    def bind(self, nonce: bytes, spki: bytes) -> binding.Binding:
        return binding.bind(
            nonce=nonce,
            tls_spki_sha256=spki,
            hpke=bytes(32),
            receipt=raw(self.receipt_key),
            identity={"measured": self.identity.to_json_dict(), "claimed": ClaimedIdentity().to_json_dict()},
        )

    def make_certificate(self, *, extension: bool = True, spki: bytes | None = None) -> x509.Certificate:
        public = self.tls_key.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        own = hashes.Hash(hashes.SHA256())
        own.update(der)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "worker")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(minutes=5))
            .not_valid_after(self.now + timedelta(hours=1))
        )
        if extension:
            claims = self.bind(BROKERS_NONCE, spki or own.finalize())
            self.stored_quote = self.quote(claims.report_data)
            value = ratls.extension(self.stored_quote, claims.claims_buffer)
            builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(ratls.OID), value), critical=False)
        return builder.sign(self.tls_key, hashes.SHA256())

    def bent(self, name: str, value: Any) -> Any:
        return self.bends[name](value) if name in self.bends else value

    def token(self, keys: Keys) -> Ear:
        """The broker's result for the stored evidence; it was issued a minute ago."""
        now = unix(self.now)
        result = EarResult.model_validate(
            {
                "evidenceClass": "Simulated",
                "placement": "Development",
                "isolation": self.isolation,
                "tcbStatus": "UpToDate",
                "measurement": "simulated",
                "limitedBy": "freshness.maxResultAgeSeconds",
                "policyOwner": raw(self.owner).hex(),
                "policyName": "minilm",
                "policyVersion": 1,
                "keyId": "minilm-key",
                "modelDigest": self.identity.model.digest,
            }
        )
        return Ear(
            jti=RESULT_ID,
            iat=now - 60,
            exp=now + 3540,
            nonce=BROKERS_NONCE.hex(),
            verifier=VerifierId(developer="test", build="test"),
            submods={"tdx": Appraisal(status="contraindicated", vector={"hardware": 97}, policy_ids=["policy:x"])},
            cnf=Confirmation(spki_sha256=keys.tls_spki_sha256),
            keys=keys,
            result=result,
        )

    def document(self, nonce: bytes | None) -> AttestationDocument:
        now, stored = unix(self.now), nonce is None
        nonce = self.bent("nonce", BROKERS_NONCE if nonce is None else nonce)
        bound = self.bind(nonce, self.bent("spki", self.spki))
        keys = Keys(tls_spki_sha256=self.bent("spki", self.spki).hex(), hpke="00" * 32, receipt=raw(self.receipt_key).hex())
        certificate = ReceiptKeyCertificate(
            receipt_key=raw(self.receipt_key).hex(),
            set=self.set_name,
            wallet=WALLET,
            reservation_keys=[raw(self.reservation).hex()],
            result_id=RESULT_ID,
            nbf=now - 60,
            exp=now + 3540,
        )
        offer = Offer(
            set=self.set_name,
            wrk=self.wrk,
            model="minilm",
            digest=self.identity.model.digest,
            prices=PriceList.of(self.identity.prices),
            address="",
            sni="",
            iat=now,
            exp=now + 3600,
        )
        self.offer = self.bent("offer", offer).sign(self.bends.get("offer_key", lambda k: k)(self.receipt_key))
        evidence = Evidence(
            nonce=nonce.hex(),
            quote=base64.b64encode(self.bent("quote", self.stored_quote if stored else self.quote(bound.report_data))).decode(),
            event_log=base64.b64encode(self.platform.event_log).decode(),
            initdata=base64.b64encode(self.toml).decode(),
            keys=keys,
        )
        document = AttestationDocument(
            mode="stored" if stored else "fresh-quote",
            evidence=evidence,
            claims_buffer=base64.b64encode(bound.claims_buffer).decode(),
            collateral=self.bent("collateral", self.collateral),
            ear=self.bent("token", self.token(keys)).sign(self.bends.get("result_key", lambda k: k)(self.ear)),
            receipt_certificate=self.bent("certificate", certificate).sign(self.bends.get("ear_key", lambda k: k)(self.ear)),
            offer=self.offer,
        )
        result: AttestationDocument = self.bent("document", document)
        return result

    async def attestation(self, request: Request) -> Response:
        nonce = request.query_params.get("nonce")
        document = self.document(None if nonce is None else bytes.fromhex(nonce))
        self.shown.append(document.mode)
        return Response(document.model_dump_json(by_alias=True), media_type="application/json")

    async def embeddings(self, request: Request) -> Response:
        body = await request.body()
        self.requests.append(body.decode())
        if self.during is not None:
            await asyncio.to_thread(self.during)
        salt = jws.from_b64u(request.headers[HEADER_SALT])
        texts = json.loads(body)["input"]
        rows = [{"index": i, "embedding": [float(len(t)), 1.0], "object": "embedding"} for i, t in enumerate(texts)]
        answer = self.bent("answer", json.dumps({"object": "list", "data": rows[::-1]}).encode())
        use = Use(prompt=len(texts), job=1)
        receipt = Receipt(
            set=self.set_name,
            wrk=self.wrk,
            seq=self.head.seq + 1,
            prev=self.head.hash,
            offer=jws.identity(self.offer),
            ticket=request.headers.get(HEADER_TICKET, ""),
            use=use,
            amt=pricing.amount(use, self.identity.prices, 10**9),
            status=Status.DONE,
            rsp=salted.response_hash(salt, answer),
            t=unix(self.now),
        )
        receipt = self.bent("receipt", receipt)
        token = receipt.sign(self.bends.get("receipt_key", lambda k: k)(self.receipt_key))
        self.head = chain.Head(self.wrk, receipt.seq, jws.identity(token))
        headers = self.bent("headers", {HEADER_RECEIPT: token})
        return Response(
            self.bent("body", answer), self.bends.get("status", lambda s: s)(200), headers=headers, media_type="application/json"
        )

    async def receipts(self, request: Request) -> Response:
        self.requests.append(request.headers["authorization"])
        page = ReceiptPage(wrk=self.wrk, receipts=["a.b.c"], last=int(request.query_params["after"]) + 1)
        return Response(self.bent("page", page.model_dump_json(by_alias=True)), self.bends.get("status", lambda s: s)(200))

    async def clients(self, request: Request) -> Response:
        self.requests.append((await request.body()).decode())
        return Response(status_code=self.bends.get("status", lambda s: s)(204))


@dataclass
class Served:
    """A worker and where it answers."""

    worker: Worker
    endpoint: str


@pytest.fixture(scope="session")
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create()


@pytest.fixture
def serve(platform: SimulatedPlatform, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start a worker on loopback; keyword arguments are the Worker's, `certificate` replaces its TLS certificate."""
    stops: list[Callable[[], None]] = []

    def start(certificate: Callable[[Worker], x509.Certificate] | None = None, **options: Any) -> Served:
        worker = Worker(platform, tmp_path, **options)
        shown = certificate(worker) if certificate else worker.certificate
        (tmp_path / "tls.pem").write_bytes(
            shown.public_bytes(serialization.Encoding.PEM)
            + worker.tls_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        app = Starlette(
            routes=[
                Route("/.well-known/attestation", worker.attestation),
                Route("/v1/embeddings", worker.embeddings, methods=["POST"]),
                Route("/v1/receipts", worker.receipts),
                Route("/v1/clients", worker.clients, methods=["PUT"]),
            ]
        )
        config = uvicorn.Config(app, host="127.0.0.1", port=0, ssl_certfile=tmp_path / "tls.pem", log_config=None, access_log=False)
        config.load()
        assert isinstance(config.ssl, ssl.SSLContext)
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]

        def stop() -> None:
            server.should_exit = True
            thread.join(60)

        stops.append(stop)
        return Served(worker, f"https://127.0.0.1:{port}")

    yield start
    for stop in stops:
        stop()
