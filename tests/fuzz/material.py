"""Good inputs for every parser, made at run time from the Simulated platform and keys: where fuzzing starts from.

The keys are made once on a machine and kept in the cache, so that an input that broke something breaks it again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api import initdata as initdata_form
from chrysalis.api.names import API_VERSION, KIND_POLICY
from chrysalis.attestation import binding
from chrysalis.attestation.collateral import Collateral
from e2e import cache
from e2e.simtd import pki
from e2e.simtd.pki import SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
EARLIER = AT - timedelta(hours=1)


def vector_files(*parts: str) -> list[bytes]:
    """Real files below the vectors' folder whose path begins with one of these; empty where the folder is not there."""
    folder = Path(os.environ.get("CHRYSALIS_VECTORS") or cache.REPOSITORY.parent / "shared" / "vectors")
    return [path.read_bytes() for part in parts for path in sorted(folder.glob(part)) if path.is_file()]


class Material:
    """One platform, one owner, one session."""

    def __init__(self) -> None:
        folder = cache.root() / "fuzz-material"
        self.platform = SimulatedPlatform.load_or_create(folder)
        secret = hashlib.sha256(pki.public_bytes(self.platform.keys["attestation"])).digest()
        self.owner = Ed25519PrivateKey.from_private_bytes(secret)  # of nobody, so it need not be one
        self.owner_public = self.owner.public_key().public_bytes_raw()

    @cached_property
    def quotes(self) -> list[bytes]:
        """Of both versions."""
        return [self.platform.quote(bytes(range(64)), version=version) for version in (4, 5)]

    @cached_property
    def collateral_text(self) -> str:
        """QuoteCollateralV3 JSON."""
        return self.platform.collateral(AT)

    @cached_property
    def collateral(self) -> Collateral:
        """The same, read."""
        return Collateral.from_json(self.collateral_text)

    @cached_property
    def certificates(self) -> list[bytes]:
        """The chain of a quote, and that of the TCB signer, PEM."""
        return [self.platform.pck_chain.encode(), pki.pem(self.platform.certificates["tcb"], self.platform.certificates["root"]).encode()]

    @cached_property
    def toml(self) -> bytes:
        """A worker's initdata."""
        containers = [{"name": "gateway", "image": "chrysalis.local/worker@sha256:" + "2" * 64, "args": ["agent"]}]
        identity = {
            "templateVersion": 1,
            "isolation": "PodTD",
            "imageDigest": "sha256:" + "2" * 64,
            "model": {
                "name": "minilm",
                "package": {"url": "http://models/minilm", "digest": "sha256:" + "0" * 64, "sizeBytes": 5},
                "digest": "sha256:" + "1" * 64,
                "keyId": "minilm-key",
            },
            "policyName": "minilm",
            "broker": {"url": "https://broker:8443", "spkiSha256": "3" * 64, "earKey": "4" * 64},
            "wallet": "0:" + "5" * 64,
        }
        return initdata_form.Initdata.model_validate({"containers": containers, "identity": identity}).to_toml()

    @cached_property
    def policy(self) -> dict[str, Any]:
        """A policy that accepts the platform."""
        values = self.platform.reference_values()
        names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")
        rule = {"policyDigests": ["sha256:" + "7" * 64], "templateVersions": [1], "imageDigests": ["sha256:" + "2" * 64], "wallets": "Any"}
        return {
            "version": 1,
            "trustRoot": {"der": base64.b64encode(self.platform.root_der).decode()},
            "isolation": ["PodTD"],
            "brokerPlacement": ["External"],
            "tdx": {
                "tcb": {"allowedStatuses": ["UpToDate"], "advisories": {"allow": ["INTEL-SA-00001"]}},
                "measurements": [{"name": "first", **{name: values[name] for name in names}, "initdata": rule}],
                "tdAttributes": values["tdAttributes"],
                "xfam": values["xfam"],
                "fmspcs": [pki.FMSPC.hex()],
            },
            "eventLog": {"required": True},
            "freshness": {"maxResultAgeSeconds": 3600},
        }

    @cached_property
    def policy_resource(self) -> bytes:
        """The same as a resource, JSON, which is YAML."""
        resource = {"apiVersion": API_VERSION, "kind": KIND_POLICY, "metadata": {"name": "p"}, "spec": self.policy}
        return json.dumps(resource).encode()

    @cached_property
    def bound(self) -> binding.Binding:
        """A session's binding."""
        part = bytes(range(32))
        identity = {"measured": {"wallet": "0:" + "5" * 64}, "claimed": {}}
        return binding.bind(nonce=part, tls_spki_sha256=part, hpke=part, receipt=part, identity=identity)


MATERIAL = Material()


class Held:
    """An anchor's place that holds an input."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content = content

    def read(self) -> bytes | None:
        return self.content

    def update(self, change: Callable[[bytes | None], bytes | None]) -> None:
        self.content = change(self.content)
