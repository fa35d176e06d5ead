"""The controller's configuration file: YAML, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from chrysalis.api.base import DnsLabel, Hex32, HttpUrl, Model
from chrysalis.api.names import PORT_HEALTH, PORT_METRICS
from chrysalis.controller.reasons import ControllerError, ControllerReason

MAX_FILE_BYTES = 256 * 1024
Port = Annotated[int, Field(ge=0, le=65535)]
"""0 lets the system choose; for tests."""


class BrokerSettings(Model):
    """The one broker that the controller asks.

    url: its address as seen from the operator's pod.  The controller's token is sent to no other.
    spkiSha256: the pin of its TLS key; absent: each worker's own spec.broker.spkiSha256, which the server at `url` must prove.
    tokenFile: a projected ServiceAccount token of audience chrysalis-broker.
    """

    url: HttpUrl
    spki_sha256: Hex32 | None = None
    token_file: Path | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=60)] = 5


class LeaseSettings(Model):
    """The lease that decides which replica acts."""

    name: DnsLabel = "chrysalis-operator"
    namespace: DnsLabel
    duration_seconds: Annotated[int, Field(ge=3, le=300)] = 15
    renew_seconds: Annotated[int, Field(ge=1, le=100)] = 4


class Settings(Model):
    """Everything that `python -m chrysalis.controller.main --config FILE` reads.

    pendingPollSeconds: how often the broker is asked about a worker with pods that are not through yet.
    steadyPollSeconds: the same, when all is well; a revocation is noticed this late at most.
    resyncSeconds: how often the children are applied again, whatever happened.
    concurrency: how many workers are reconciled at a time.
    """

    broker: BrokerSettings
    lease: LeaseSettings
    host: Annotated[str, Field(max_length=64)] = ""  # empty: every address of the pod
    health_port: Port = PORT_HEALTH
    metrics_port: Port = PORT_METRICS
    pending_poll_seconds: Annotated[float, Field(ge=0.05, le=60)] = 0.5
    steady_poll_seconds: Annotated[float, Field(ge=0.05, le=3600)] = 10
    resync_seconds: Annotated[float, Field(ge=1, le=86400)] = 600
    concurrency: Annotated[int, Field(ge=1, le=64)] = 8


def load(path: Path) -> Settings:
    """Read the file; raises ControllerError (SettingsInvalid) that names what is wrong."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ValueError(f"over {MAX_FILE_BYTES} bytes")
        return Settings.model_validate(yaml.safe_load(text))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, ValidationError) as error:
        raise ControllerError(
            ControllerReason.SETTINGS_INVALID,
            f"{path} is not a configuration of the controller",
            "compare it with the keys in chrysalis/controller/settings.py",
            str(error),
        ) from error
