"""Where the broker's anchor is kept, as the settings name it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from chrysalis.api.base import DnsLabel, Model

ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]


class ConfigMapName(Model):
    """A ConfigMap of the cluster that `kubernetes` of the settings names."""

    namespace: DnsLabel
    name: ObjectName


class AnchorSettings(Model):
    """Where the anchor is kept: exactly one of file and configMap.

    file: a file that is not on the database's volume (another volume, another machine's share); its directory must exist.
    configMap: an object of the cluster, which must exist (empty at first); the broker's ServiceAccount may get and update it.
    maxStalenessSeconds: how long the anchor may lag behind a commit; a broker whose anchor lags longer is not ready.
    """

    file: Path | None = None
    config_map: ConfigMapName | None = None
    max_staleness_seconds: Annotated[int, Field(ge=1, le=300)] = 2

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.config_map is None):
            raise ValueError("name exactly one of file and configMap")
        return self
