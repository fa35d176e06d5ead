"""The settler's configuration file: YAML, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from chrysalis.api.base import DnsLabel, Hex32, HttpUrl, Model
from chrysalis.api.names import PORT_SETTLER
from chrysalis.settlement.reasons import SettlementError, SettlementReason

MAX_FILE_BYTES = 256 * 1024
Port = Annotated[int, Field(ge=0, le=65535)]
"""0 lets the system choose; for tests."""


class BrokerSettings(Model):
    """The broker whose results name the workers.

    url, spkiSha256, earKey: as in a ConfidentialWorker's spec.broker.
    tokenFile: a projected ServiceAccount token of audience chrysalis-broker, read anew for each request.
    """

    url: HttpUrl
    spki_sha256: Hex32
    ear_key: Hex32
    token_file: Path


class LeaseSettings(Model):
    """The Lease that lets one of several replicas settle; namespace defaults to the pod's own."""

    name: DnsLabel = "chrysalis-settler"
    namespace: DnsLabel | None = None
    duration_seconds: Annotated[int, Field(ge=2, le=300)] = 15


class Settings(Model):
    """Everything that `python -m chrysalis.settlement.main --config FILE` reads.

    stateDir: outlives the process; holds a ledger and the published files for each contract.
    settlementKeyFiles: seeds of the settlement key, two during a rotation; the one that proven state names is used.
    reservationKeyFile: seed of the reservation key (client lists, receipts from workers).
    namespaces: where SettlementAccounts are looked for; empty: in the whole cluster.
    minServers: how many liteservers must agree; 1 only where there is but one (a devnet), and then it is logged.
    host, port: HTTP for published epochs and parties' receipts; with tlsCertificateFile and tlsKeyFile it is HTTPS.
    healthPort, metricsPort: plain; not the usual ones, since the settler shares the operator's pod.
    collectSeconds: between two rounds.  validSeconds: how long a signed commit is good (at most 600 by the contract).
    drainSeconds: how long receipts are still taken after a revocation.
    """

    state_dir: Path
    settlement_key_files: Annotated[list[Path], Field(min_length=1, max_length=2)]
    reservation_key_file: Path
    broker: BrokerSettings
    namespaces: Annotated[list[DnsLabel], Field(max_length=64)] = []
    min_servers: Annotated[int, Field(ge=1, le=16)] = 2
    lease: LeaseSettings = LeaseSettings()
    host: Annotated[str, Field(max_length=64)] = "0.0.0.0"  # noqa: S104 - a pod's own address; NetworkPolicies say who reaches it
    port: Port = PORT_SETTLER
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    health_port: Port = 8082
    metrics_port: Port = 9091
    collect_seconds: Annotated[int, Field(ge=1, le=3600)] = 5
    valid_seconds: Annotated[int, Field(ge=5, le=540)] = 120
    drain_seconds: Annotated[int, Field(ge=0, le=86_400)] = 3_600


def load(path: Path) -> Settings:
    """Read the file; raises SettlementError (SettingsInvalid) that names what is wrong."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ValueError(f"over {MAX_FILE_BYTES} bytes")
        return Settings.model_validate(yaml.safe_load(text))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, ValidationError) as error:
        raise SettlementError(
            SettlementReason.SETTINGS_INVALID,
            f"{path} is not a configuration of the settler",
            "see chrysalis.settlement.settings",
            str(error),
        ) from error
