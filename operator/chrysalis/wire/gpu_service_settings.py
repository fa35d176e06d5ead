"""Where NVIDIA's attestation service and its OCSP responder are; of the broker's settings, and of a client's options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from chrysalis.api.base import HttpUrl, Model
from chrysalis.attestation.gpu.nras import ISSUER

NRAS_URL = "https://nras.attestation.nvidia.com"
OCSP_URL = "https://ocsp.ndis.nvidia.com"
HttpsUrl = Annotated[str, Field(pattern=r"^https://[^\s]+$", max_length=2048)]
Timeout = Annotated[int, Field(ge=1, le=30)]


class NrasSettings(Model):
    """NVIDIA's Remote Attestation Service.

    url: its base, to which /v4/attest/gpu is appended; TLS alone says who answers, so it is https.
    jwksUrl: of the keys that sign its answers; absent: url with /.well-known/jwks.json.  jwksFile: a pinned key set instead, read
      again whenever it is needed; then nothing is fetched.
    issuer: whose tokens they have to be.
    caFile: PEM of the authorities that the service's certificate must chain to; absent: the system's.
    timeoutSeconds: for one request, from the name's lookup to the last byte.
    """

    url: HttpsUrl = NRAS_URL
    jwks_url: HttpsUrl | None = None
    jwks_file: Path | None = None
    issuer: Annotated[str, Field(min_length=1, max_length=256)] = ISSUER
    ca_file: Path | None = None
    timeout_seconds: Timeout = 10

    @model_validator(mode="after")
    def _one_key_set(self) -> Self:
        if self.jwks_url is not None and self.jwks_file is not None:
            raise ValueError("give jwksUrl or jwksFile, not both")
        return self

    @property
    def keys_url(self) -> str:
        """Where the key set is fetched."""
        return self.jwks_url or self.url.rstrip("/") + "/.well-known/jwks.json"


class OcspSettings(Model):
    """The OCSP responder (RFC 6960) for the devices' certificates.

    url: the only address that is asked: what a certificate says of its responder is not followed.  Plain HTTP will do, since
      answers are signed and carry this request's nonce.
    nonce: false takes answers without it, as a caching proxy gives them; then whoever stands between may replay an older answer
      as long as that is current.
    caFile, timeoutSeconds: as of NrasSettings.
    """

    url: HttpUrl = OCSP_URL
    nonce: bool = True
    ca_file: Path | None = None
    timeout_seconds: Timeout = 10


class GpuServiceSettings(Model):
    """Which of NVIDIA's services are asked; an absent one is not, and what needs its answer is refused (GpuServiceNotConfigured)."""

    nras: NrasSettings | None = None
    ocsp: OcspSettings | None = None
