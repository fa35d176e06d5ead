"""The custom resources that the demo applies, as plain dictionaries: what a person would write by hand."""

from __future__ import annotations

from typing import Any

from chrysalis.api import names

MODEL = "minilm"
KEY_ID = "minilm-key"
POLICY = "minilm-policy"
ACCOUNT = "pool"
NAMESPACE = "pool"


def worker(
    *,
    name: str = "embedder",
    namespace: str = NAMESPACE,
    image: str,
    package: dict[str, Any] | None = None,
    model_digest: str = "sha256:" + "0" * 64,
    key_id: str = KEY_ID,
    policy: str = POLICY,
    broker: dict[str, Any] | None = None,
    replicas: int = 2,
    account: str | None = None,
    wallet: str | None = None,
    prices: dict[str, int] | None = None,
) -> dict[str, Any]:
    """A ConfidentialWorker."""
    spec: dict[str, Any] = {
        "replicas": replicas,
        "isolation": "PodTD",
        "runtimeClassName": names.RUNTIME_CLASS_SIMULATED,
        "templateVersion": 1,
        "image": image,
        "model": {
            "name": MODEL,
            "package": package or {"url": "http://packages.example/minilm.age", "digest": "sha256:" + "0" * 64, "sizeBytes": 1},
            "digest": model_digest,
            "keyId": key_id,
        },
        "policyRef": {"name": policy},
        "broker": broker or {"url": "https://broker.example:8443", "spkiSha256": "0" * 64, "earKey": "0" * 64},
        "resources": {"cpu": "400m", "memory": "768Mi"},
    }
    if account is not None:
        spec["settlementAccountRef"] = {"name": account}
    if wallet is not None:
        spec["payout"] = {"wallet": wallet}
    if prices is not None:
        spec["prices"] = prices
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND_WORKER,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
