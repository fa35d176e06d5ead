"""Settings of the broker's evidence about itself."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

from pydantic import Field, model_validator

from chrysalis.api.base import HttpUrl, Model
from chrysalis.api.policy import DerRoot

GUEST_REST = "http://127.0.0.1:8006"
"""Where the guest of a Kata pod offers evidence (Confidential Containers' api-server-rest)."""


class OwnEvidenceSettings(Model):
    """Where a broker in a trust domain gets evidence about itself.

    url: base of the guest's attestation service.  trustRoot: whose collateral goes with the evidence, Intel or {der: base64}.
    timeoutSeconds: for one quote.
    """

    url: HttpUrl = GUEST_REST
    trust_root: Literal["Intel"] | DerRoot = "Intel"
    timeout_seconds: Annotated[int, Field(ge=1, le=60)] = 20

    @model_validator(mode="after")
    def _root_is_base64(self) -> OwnEvidenceSettings:
        _ = self.root  # binascii.Error is a ValueError
        return self

    @property
    def root(self) -> bytes:
        """The trust root's DER; empty for Intel's."""
        return base64.b64decode(self.trust_root.der, validate=True) if isinstance(self.trust_root, DerRoot) else b""
