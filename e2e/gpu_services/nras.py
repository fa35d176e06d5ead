"""Simulated NRAS: tokens in the form of NVIDIA's service, signed by a key of its own, about GPUs that it does not judge."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from chrysalis.attestation.gpu import chain, spdm
from chrysalis.attestation.gpu.spdm import Field
from chrysalis.clock import Clock, unix
from e2e.gpu_services.faults import Fault
from e2e.simtd.gpu import raw_signature

ISSUER = "https://nras.simulated.test"
LIFE_SECONDS = 3600


class SimulatedNras:
    """Answers for evidence that has the right form; whether the measurements are right is not looked at.

    life_seconds: of its tokens.  rotate() gives it another key, which its key set then has instead of the old one.
    """

    def __init__(self, clock: Clock, issuer: str = ISSUER) -> None:
        self.clock = clock
        self.issuer = issuer
        self.life_seconds = LIFE_SECONDS
        self._generation = 0
        self.rotate()

    def rotate(self) -> None:
        """Sign with a new key from now on."""
        self._generation += 1
        self._key = ec.generate_private_key(ec.SECP384R1())

    @property
    def jwks(self) -> str:
        """The key set, as it is served."""
        numbers = self._key.public_key().public_numbers()
        x, y = (_b64url(part.to_bytes(48, "big")) for part in (numbers.x, numbers.y))
        return json.dumps({"keys": [{"kty": "EC", "crv": "P-384", "alg": "ES384", "use": "sig", "kid": self._kid, "x": x, "y": y}]})

    def answer(self, body: bytes, fault: Fault = Fault.NONE) -> bytes | None:
        """The answer to a request's body; None where that is no request in the service's form."""
        try:
            asked = json.loads(body)
            nonce, arch, listed = str(asked["nonce"]), asked["arch"], asked["evidence_list"]
            if asked["claims_version"] != "3.0" or arch not in ("HOPPER", "BLACKWELL") or not listed:
                return None
            gpus = {f"GPU-{place}": self._claims(one, nonce, fault) for place, one in enumerate(listed)}
        except (ValueError, KeyError, TypeError):
            return None
        tokens = {name: self._token(claims, fault) for name, claims in gpus.items()}
        digests = {name: ["DIGEST", ["SHA-256", hashlib.sha256(token.encode()).hexdigest()]] for name, token in tokens.items()}
        overall = self._common(nonce, fault) | {"x-nvidia-overall-att-result": fault is not Fault.DENIED, "submods": digests}
        return json.dumps([["JWT", self._token(overall, fault)], tokens]).encode()

    @property
    def _kid(self) -> str:
        return f"simulated-{self._generation}"

    def _claims(self, one: dict[str, str], nonce: str, fault: Fault) -> dict[str, Any]:
        report = spdm.parse(base64.b64decode(one["evidence"], validate=True))
        certificates = chain.read(base64.b64decode(one["certificate"], validate=True)).certificates
        serial = certificates[0].serial_number + (1 if fault is Fault.OTHER_DEVICE else 0)
        return self._common(nonce, fault) | {
            "measres": "fail" if fault is Fault.MEASURES_DIFFER else "success",
            "secboot": True,
            "dbgstat": "enabled" if fault is Fault.DEBUG else "disabled",
            "ueid": str(serial),
            "hwmodel": "Simulated",
            "x-nvidia-gpu-driver-version": "1.0" if fault is Fault.OTHER_VERSION else report.text(Field.DRIVER_VERSION),
            "x-nvidia-gpu-vbios-version": report.gpu_vbios_version,
        }

    def _common(self, nonce: str, fault: Fault) -> dict[str, Any]:
        now = unix(self.clock.now())
        begins = now + 3600 if fault is Fault.FUTURE else now
        return {
            "iss": "https://nras.example" if fault is Fault.OTHER_ISSUER else self.issuer,
            "iat": begins,
            "nbf": begins,
            "exp": now - 1 if fault is Fault.EXPIRED else begins + self.life_seconds,
            "eat_nonce": "00" * 32 if fault is Fault.OTHER_NONCE else nonce,
            "x-nvidia-ver": "3.0",
        }

    def _token(self, claims: dict[str, Any], fault: Fault) -> str:
        header = {"alg": "none" if fault is Fault.ALG_NONE else "ES384", "typ": "JWT"}
        header["kid"] = "nobody" if fault is Fault.UNKNOWN_KEY else self._kid
        signed = f"{_b64url(json.dumps(header).encode())}.{_b64url(json.dumps(claims).encode())}"
        key = ec.generate_private_key(ec.SECP384R1()) if fault is Fault.OTHER_KEY else self._key
        return f"{signed}.{'' if fault is Fault.ALG_NONE else _b64url(raw_signature(key, signed.encode()))}"


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
