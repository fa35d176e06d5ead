"""The broker's configuration file: YAML, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from chrysalis.api.base import Hex32, Model
from chrysalis.api.names import PORT_BROKER, PORT_HEALTH, PORT_METRICS
from chrysalis.api.policy import Placement
from chrysalis.broker.anchor_settings import AnchorSettings
from chrysalis.broker.collateral_settings import CollateralSettings
from chrysalis.broker.database_settings import DatabaseSettings
from chrysalis.broker.ear_keys import EarKeySettings
from chrysalis.broker.encryption_settings import KeyEncryptionSettings
from chrysalis.broker.kubernetes_settings import KubernetesSettings
from chrysalis.broker.limits import LimitSettings
from chrysalis.broker.oidc import OidcProvider
from chrysalis.broker.own_evidence_settings import OwnEvidenceSettings
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tenants import TenantList, Tenants
from chrysalis.wire.gpu_service_settings import GpuServiceSettings

MAX_FILE_BYTES = 256 * 1024
Port = Annotated[int, Field(ge=0, le=65535)]
"""0 lets the system choose; for tests."""


class Settings(Model):
    """Everything that `python -m chrysalis.broker.main --config FILE` reads.

    stateDir: a directory of its own that outlives the process: database, TLS key, EAR key, nonce key, root key.
    rootKeyFile: 32 bytes in hex that encrypt the stored model keys; absent: made in stateDir at first start.
    placement: External, InTD or Development; stands in every result.
    oidc: whose OpenID Connect tokens are believed (chrysalis.broker.oidc).
    tenants: whose keys, policies and results this broker holds (chrysalis.broker.tenants); empty: nobody's.
    host, port: the TLS address; an empty host means every address of the pod.
    healthPort: plain /healthz and /readyz.  metricsPort: plain /metrics.
    nonceSeconds: how long a challenge is good.  resultRetentionSeconds: how long ended and refused results are kept.
    maxConcurrentAttestations: judged at once.  limits: of strangers (chrysalis.broker.limits).
    database: absent, SQLite in stateDir; PostgreSQL for replicas (chrysalis.broker.database_settings).
    keyEncryption: what seals secrets at rest (chrysalis.broker.encryption_settings); absent: the root key.
    previousKeyEncryption: keys that only open, until `chrysalis broker rotate-root` has sealed everything again.
    stateKeys: Files, the broker's own keys lie in stateDir; Database, sealed in the database, shared by replicas (then the root key
    must come from rootKeyFile or keyEncryption).
    earKeys: how the keys that sign results rotate (chrysalis.broker.ear_keys).
    anchor: where the newest state is noted outside of the database (chrysalis.broker.anchors); absent: nowhere, and a database that
    had an anchor is refused (AnchorMissing).
    ownEvidence: where a broker in a trust domain gets evidence about itself (chrysalis.broker.own_evidence); needed for, and only
    for, placement InTD.
    referencePublishers: raw Ed25519 public keys (hex) of those whose reference values are taken; what they withdraw is refused.
    gpu: which of NVIDIA's services are asked, where a policy demands it (chrysalis.wire.gpu_service_settings); absent: none.
    collateral, kubernetes: see there.
    """

    state_dir: Path
    root_key_file: Path | None = None
    database: DatabaseSettings | None = None
    placement: Placement
    tenants: TenantList = []
    oidc: Annotated[list[OidcProvider], Field(max_length=16)] = []
    host: Annotated[str, Field(max_length=64)] = ""
    port: Port = PORT_BROKER
    health_port: Port = PORT_HEALTH
    metrics_port: Port = PORT_METRICS
    nonce_seconds: Annotated[int, Field(ge=5, le=300)] = 120
    result_retention_seconds: Annotated[int, Field(ge=60, le=366 * 86400)] = 7 * 86400
    max_concurrent_attestations: Annotated[int, Field(ge=1, le=64)] = 8
    limits: LimitSettings = LimitSettings()
    key_encryption: KeyEncryptionSettings | None = None
    previous_key_encryption: Annotated[list[KeyEncryptionSettings], Field(max_length=8)] = []
    state_keys: Literal["Files", "Database"] = "Files"
    ear_keys: EarKeySettings = EarKeySettings()
    anchor: AnchorSettings | None = None
    own_evidence: OwnEvidenceSettings | None = None
    reference_publishers: Annotated[list[Hex32], Field(max_length=16)] = []
    collateral: CollateralSettings = CollateralSettings()
    kubernetes: KubernetesSettings | None = None
    gpu: GpuServiceSettings = GpuServiceSettings()

    @model_validator(mode="after")
    def _in_a_domain_with_evidence(self) -> Self:
        if (self.placement == Placement.IN_TD) != (self.own_evidence is not None):
            raise ValueError("placement InTD needs ownEvidence, and only it has any: a broker in a trust domain can show that it is in one")
        return self

    @model_validator(mode="after")
    def _a_config_map_is_in_a_cluster(self) -> Self:
        if self.anchor is not None and self.anchor.config_map is not None and self.kubernetes is None:
            raise ValueError("anchor.configMap needs kubernetes: the API server that keeps it")
        return self

    @model_validator(mode="after")
    def _shared_keys_need_another_key(self) -> Self:
        if self.state_keys == "Database" and self.root_key_file is None and self.key_encryption is None:
            raise ValueError("stateKeys: Database needs rootKeyFile or keyEncryption: the root key cannot lie beside what it seals")
        return self

    @property
    def publisher_keys(self) -> frozenset[bytes]:
        """The raw public keys of the publishers of reference values."""
        return frozenset(bytes.fromhex(key) for key in self.reference_publishers)

    @property
    def owner_keys(self) -> frozenset[bytes]:
        """The allowed owners' raw public keys."""
        return Tenants(self.tenants).owner_keys


def load(path: Path) -> Settings:
    """Read the file; raises BrokerError (SettingsInvalid) that names what is wrong."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ValueError(f"over {MAX_FILE_BYTES} bytes")
        return Settings.model_validate(yaml.safe_load(text))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, ValidationError) as error:
        raise BrokerError(
            BrokerReason.SETTINGS_INVALID,
            f"{path} is not a configuration of the broker",
            "correct what the detail names; docs/broker-settings.md lists all settings",
            _said(error),
        ) from None


def _said(error: Exception) -> str:
    """What is wrong, without the file's own text: a secret may stand in it, where it does not belong."""
    if isinstance(error, ValidationError):
        found = error.errors(include_input=False, include_url=False, include_context=False)
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found[:16])
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        return f"{error.problem}" + (f", line {mark.line + 1}, column {mark.column + 1}" if mark else "")
    return str(error)
