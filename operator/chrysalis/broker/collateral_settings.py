"""The part of the broker's configuration that says where Intel's documents come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from chrysalis.api.base import HttpUrl, Model

INTEL_CERTIFICATES = "certificates.trustedservices.intel.com"
"""Where Intel's root certificate says that its revocation list is."""
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$", max_length=255)]


class CollateralSettings(Model):
    """Where Intel's documents come from.

    url: base of a PCCS or of Intel's PCS (paths of version 4 are appended); absent: only preloaded files are used.
    rootCrlUrl: where the root CA's revocation list is; absent: the PCCS's path, or where there is none (Intel's PCS), the
      distribution point in the trusted root certificate, if its host is one of allowedHosts.
    allowedHosts: HOST or HOST:PORT, as they stand in that distribution point.
    caFile: PEM of the authorities that the PCCS's certificate must chain to; absent: the system's.
    update: standard or early (Intel's parameter: when a new TCB recovery takes effect); each keeps documents of its own.
    timeoutSeconds: for each document, from the name's lookup to its last byte.
    preload: files of QuoteCollateralV3 JSON, or folders of *.json, that are loaded at start and whenever they change
      (clusters without a way out).  A document that is older than the stored one is left out, and that is reported.
    """

    url: HttpUrl | None = None
    root_crl_url: HttpUrl | None = None
    allowed_hosts: Annotated[list[Host], Field(max_length=16)] = [INTEL_CERTIFICATES]
    ca_file: Path | None = None
    update: Literal["standard", "early"] = "standard"
    timeout_seconds: Annotated[int, Field(ge=1, le=60)] = 10
    preload: Annotated[list[Path], Field(max_length=64)] = []
