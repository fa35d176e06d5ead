"""The broker's configuration file: YAML, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError

from chrysalis.api.base import HttpUrl, Model
from chrysalis.api.names import PORT_BROKER, PORT_HEALTH, PORT_METRICS
from chrysalis.api.policy import Placement
from chrysalis.broker.database_settings import DatabaseSettings
from chrysalis.broker.oidc import OidcProvider
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tenants import ServiceAccount, TenantList, Tenants

MAX_FILE_BYTES = 256 * 1024
Port = Annotated[int, Field(ge=0, le=65535)]
"""0 lets the system choose; for tests."""


class CollateralSettings(Model):
    """Where Intel's documents come from.

    url: base of a PCCS or of Intel's PCS (paths of version 4 are appended); absent: only preloaded files are used.
    rootCrlUrl: where the root CA's revocation list is, for Intel's PCS, which does not serve it; absent: the PCCS's path.
    caFile: PEM of the authorities that the PCCS's certificate must chain to; absent: the system's.
    update: standard or early (Intel's parameter: when a new TCB recovery takes effect).
    timeoutSeconds: for each request.
    preload: files of QuoteCollateralV3 JSON that are loaded at start (clusters without a way out).
    """

    url: HttpUrl | None = None
    root_crl_url: HttpUrl | None = None
    ca_file: Path | None = None
    update: Literal["standard", "early"] = "standard"
    timeout_seconds: Annotated[int, Field(ge=1, le=60)] = 10
    preload: Annotated[list[Path], Field(max_length=64)] = []


class KubernetesSettings(Model):
    """How ServiceAccount tokens are checked (TokenReview); absent outside a cluster: then only owners read results.

    url, caFile, tokenFile: the API server, its authority, and the broker's own token (the defaults are those of a pod).
    serviceAccounts: who may read every tenant's results (the operator's own), as "NAMESPACE:NAME"; empty: nobody.
    """

    url: HttpUrl = "https://kubernetes.default.svc"
    ca_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
    token_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    service_accounts: Annotated[list[ServiceAccount], Field(max_length=64)] = []


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
    maxConcurrentAttestations: more are answered 429.
    database: absent, SQLite in stateDir; PostgreSQL for replicas (chrysalis.broker.database_settings).
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
    collateral: CollateralSettings = CollateralSettings()
    kubernetes: KubernetesSettings | None = None

    @property
    def owner_keys(self) -> frozenset[bytes]:
        """The allowed owners' raw public keys."""
        return Tenants(self.tenants).owner_keys


def load(path: Path) -> Settings:
    """Read the file; raises BrokerError (SettingsInvalid) that names what is wrong."""
    try:
        text = path.read_bytes()
        if len(text) > MAX_FILE_BYTES:
            raise ValueError(f"over {MAX_FILE_BYTES} bytes")
        return Settings.model_validate(yaml.safe_load(text))
    except (OSError, ValueError, yaml.YAMLError, ValidationError) as error:
        raise BrokerError(
            BrokerReason.SETTINGS_INVALID, f"{path} is not a configuration of the broker", "see chrysalis.broker.settings", str(error)
        ) from error
