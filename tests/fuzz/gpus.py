"""The fuzz targets of GPU evidence: reports, certificates, reference manifests and OCSP answers."""

from __future__ import annotations

import base64
import json

from chrysalis.errors import ChrysalisError
from tests.fuzz.target import Built, split


def gpu_report() -> Built:
    from chrysalis.attestation.gpu import spdm
    from tests.fuzz.material import vector_files

    def call(data: bytes) -> None:
        report = spdm.parse(spdm.read(data))
        for field in spdm.Field:
            _ = field.name
        _ = report.gpu_vbios_version, report.gpu_links, report.switch_pdi, report.switch_gpus

    return call, vector_files("nvidia-*/*report*", "nvidia-*/*.bin", "nvidia-*/*.txt")[:20] or [bytes(2048)]


def gpu_evidence() -> Built:
    from chrysalis.attestation.gpu import evidence

    device = {"evidence": base64.b64encode(bytes(64)).decode(), "certificate": "", "arch": "HOPPER", "nonce": "0" * 64}
    return evidence.read, [json.dumps([device]).encode(), json.dumps(device).encode()]


def gpu_chain() -> Built:
    from chrysalis.attestation.gpu import chain
    from tests.fuzz.material import AT, MATERIAL, vector_files

    def call(data: bytes) -> None:
        read = chain.read(chain.read_pem(data))
        read.check(AT)

    return call, [*MATERIAL.certificates, *vector_files("nvidia-*/*cert*")[:6]]


def gpu_der() -> Built:
    from chrysalis.attestation.gpu import der
    from tests.fuzz.material import MATERIAL

    def call(data: bytes) -> None:
        der.elements(data)
        der.sequence(data)

    return call, [MATERIAL.platform.root_der, bytes.fromhex("3003020105")]


def rim() -> Built:
    from chrysalis.attestation.gpu import rim
    from tests.fuzz.material import AT, vector_files

    return lambda data: rim.digest(data, at=AT), [*vector_files("nvidia-*/*.swidtag", "nvidia-*/*.xml")[:4], b"<SoftwareIdentity/>"]


def nras() -> Built:
    from cryptography.hazmat.primitives.asymmetric import ec

    from chrysalis.attestation.gpu import nras
    from tests.fuzz.material import AT

    keys = {"k": ec.generate_private_key(ec.SECP384R1()).public_key()}

    def segment(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    token = ".".join([segment({"alg": "ES384", "kid": "k", "typ": "JWT"}), segment({"iss": nras.ISSUER, "exp": 1 << 40}), "A" * 128])

    def call(data: bytes) -> None:
        one, other = split(data)
        try:
            nras.read_keys(other)
        except ChrysalisError:
            pass
        nras.check(one, keys=keys, nonce=bytes(32), at=AT)

    jwks = {"keys": [{"kty": "EC", "crv": "P-384", "kid": "k", "x": "A" * 64, "y": "A" * 64}]}
    answer = json.dumps([["JWT", token], {"GPU-0": token}]).encode()
    return call, [answer, answer + b"\0--\0" + json.dumps(jwks).encode()]


def ocsp() -> Built:
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
