"""The fuzz target of what a worker shows to a client in modes `ear` and `offline` (a room of its own beside tests.fuzz.targets)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any


def stapled_document() -> tuple[Callable[[bytes], object], Sequence[bytes]]:
    """A kept document, judged by its result and by its evidence: whatever is accepted is about the session that the broker signed."""
    from pydantic import ValidationError

    from chrysalis.api import initdata
    from chrysalis.api.policy import AttestationPolicySpec
    from chrysalis.attestation import ratls
    from chrysalis.client.ear_mode import PolicyPin, verify_by_ear
    from chrysalis.client.verification import bind, verify_offline
    from chrysalis.clock import unix
    from chrysalis.errors import ChrysalisError
    from chrysalis.receipts.objects import ReceiptKeyCertificate
    from chrysalis.wire.broker import AttestationDocument, Evidence, Keys
    from chrysalis.wire.ear import Appraisal, Confirmation, Ear, EarResult, VerifierId
    from tests.fuzz.material import AT, MATERIAL

    broker = MATERIAL.owner_public
    toml = MATERIAL.toml.replace(b"4" * 64, broker.hex().encode())
    identity = initdata.parse(toml).identity
    tls, part, result = certificate_of(AT)
    keys = Keys(tls_spki_sha256=tls.hex(), hpke=part.hex(), receipt=broker.hex())
    bare = Evidence(nonce=part.hex(), quote="", initdata=base64.b64encode(toml).decode(), keys=keys)
    bound = bind(bare, identity)
    quote = MATERIAL.platform.quote(bound.report_data, mrconfigid=initdata.mrconfigid(toml))
    certificate = result(ratls.OID, ratls.extension(quote, bound.claims_buffer))
    evidence = bare.model_copy(
        update={"quote": base64.b64encode(quote).decode(), "event_log": base64.b64encode(MATERIAL.platform.event_log).decode()}
    )
    policy = AttestationPolicySpec.model_validate(MATERIAL.policy)
    said = EarResult.model_validate(
        {
            "evidenceClass": "Simulated",
            "placement": "External",
            "isolation": "PodTD",
            "tcbStatus": "UpToDate",
            "measurement": "first",
            "limitedBy": "l",
            "policyOwner": broker.hex(),
            "policyName": "p",
            "policyVersion": 1,
            "keyId": identity.model.key_id,
            "modelDigest": identity.model.digest,
        }
    )
    token = Ear(
        jti="r",
        iat=unix(AT),
        exp=unix(AT) + 600,
        nonce=part.hex(),
        verifier=VerifierId(developer="d", build="b"),
        submods={"tdx": Appraisal(status="contraindicated", vector={"hardware": 97}, policy_ids=["p"])},
        cnf=Confirmation(spki_sha256=tls.hex()),
        keys=keys,
        result=said,
    )
    certified = ReceiptKeyCertificate(
        receipt_key=broker.hex(), set="none", wallet=identity.wallet, reservation_keys=[], result_id="r", nbf=unix(AT), exp=unix(AT) + 600
    )
    good = AttestationDocument(
        mode="stored",
        evidence=evidence,
        claims_buffer=base64.b64encode(bound.claims_buffer).decode(),
        collateral=MATERIAL.collateral_text,
        ear=token.sign(MATERIAL.owner),
        receipt_certificate=certified.sign(MATERIAL.owner),
    )
    always: dict[str, Any] = {
        "certificate_der": certificate,
        "spki_sha256": tls,
        "policy": policy,
        "at": AT,
        "ear_key": broker,
        "model_digest": identity.model.digest,
    }
    assert verify_by_ear(good, pin=PolicyPin(broker, "p"), **always).identity == identity

    def call(data: bytes) -> None:
        try:
            document = AttestationDocument.model_validate_json(data)
        except ValidationError:
            return
        try:
            found = verify_by_ear(document, pin=PolicyPin(broker, "p"), **always)
            assert (found.identity, found.receipt_key, found.ear) == (identity, broker, token), "a result was accepted for something else"
        except ChrysalisError:
            pass
        verify_offline(document, **always)

    return call, [good.model_dump_json(by_alias=True, exclude_none=True).encode()]


def certificate_of(at: Any) -> tuple[bytes, bytes, Callable[[str, bytes], bytes]]:
    """SHA-256 of a TLS key's SubjectPublicKeyInfo, 32 other bytes, and what makes that key's certificate with an extension (OID, value)."""
    import hashlib
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.derive_private_key(12345, ec.SECP256R1())  # guards nothing
    name = x509.Name([])

    def make(oid: str, value: bytes) -> bytes:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        builder = builder.not_valid_before(at).not_valid_after(at + timedelta(days=1))
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest(), bytes(range(32)), make
