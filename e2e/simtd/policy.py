"""The owner's policy that accepts a worker of a Simulated platform, as every test bench needs it."""

from __future__ import annotations

import base64
from typing import Any

from chrysalis.api import initdata
from e2e.simtd.pki import SimulatedPlatform

REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")


def measurement(platform: SimulatedPlatform, toml: bytes, image_digest: str) -> dict[str, Any]:
    """The tuple of reference values of a worker with this initdata, by rule and for any wallet."""
    values = platform.reference_values()
    rule = {
        "policyDigests": [initdata.policy_digest(toml)],
        "templateVersions": [1],
        "imageDigests": [image_digest],
        "wallets": "Any",
    }
    return {"name": "simulated", **{name: values[name] for name in REGISTERS}, "initdata": rule}


def accepting(platform: SimulatedPlatform, *measurements: dict[str, Any], version: int = 1, max_age_seconds: int = 600) -> dict[str, Any]:
    """A policy's spec (camelCase) with these tuples, for a broker in development."""
    values = platform.reference_values()
    return {
        "version": version,
        "trustRoot": {"der": base64.b64encode(platform.root_der).decode()},
        "brokerPlacement": ["Development"],
        "tdx": {
            "tcb": {"allowedStatuses": ["UpToDate"]},
            "measurements": list(measurements),
            "tdAttributes": values["tdAttributes"],
            "xfam": values["xfam"],
        },
        "eventLog": {"required": True},
        "freshness": {"maxResultAgeSeconds": max_age_seconds},
    }
