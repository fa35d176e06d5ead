"""How the broker reaches the API server of its cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from chrysalis.api.base import HttpUrl, Model
from chrysalis.broker.tenants import ServiceAccount


class KubernetesSettings(Model):
    """How ServiceAccount tokens are checked (TokenReview); absent outside a cluster: then only owners read results.

    url, caFile, tokenFile: the API server, its authority, and the broker's own token (the defaults are those of a pod).
    serviceAccounts: who may read every tenant's results (the operator's own), as "NAMESPACE:NAME"; empty: nobody.
    """

    url: HttpUrl = "https://kubernetes.default.svc"
    ca_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
    token_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    service_accounts: Annotated[list[ServiceAccount], Field(max_length=64)] = []
