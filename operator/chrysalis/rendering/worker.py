"""render: from a worker's spec to its measured identity and its objects.

One function for the operator and for `chrysalis measure`, so that what an owner signs is what the operator starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chrysalis.api import initdata as document
from chrysalis.api.account import SettlementAccountSpec
from chrysalis.api.initdata import Initdata
from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.rendering import identity, pod
from chrysalis.rendering.children import children


@dataclass(frozen=True)
class Rendered:
    """A worker as it will be started."""

    initdata: Initdata
    toml: bytes  # the measured bytes
    annotation: str  # their packed form, on the pod
    mrconfigid: bytes  # 48 bytes
    policy_digest: str  # sha256:<hex> of the allow-list
    pod_template: dict[str, Any]
    children: list[dict[str, Any]]  # in order of application, without owner references

    @property
    def image_digest(self) -> str:
        """sha256:<hex> of the worker's image."""
        return self.initdata.identity.image_digest

    @property
    def template_version(self) -> int:
        """Which template this is."""
        return self.initdata.identity.template_version


def render(name: str, namespace: str, spec: ConfidentialWorkerSpec, account: SettlementAccountSpec | None) -> Rendered:
    """Render a worker; raises RenderError, or WalletError for a wallet that cannot be paid.

    account: of the worker's settlementAccountRef; None where it has none (an account beside it is ignored then).
    """
    found = identity.initdata(spec, account)
    toml = found.to_toml()
    annotation = document.to_annotation(toml)
    template = pod.template(name, spec, annotation)
    return Rendered(
        initdata=found,
        toml=toml,
        annotation=annotation,
        mrconfigid=document.mrconfigid(toml),
        policy_digest=document.policy_digest(toml),
        pod_template=template,
        children=children(name, namespace, spec, template),
    )
