"""Reference values for a policy, from a rendered worker and a firmware's values."""

from __future__ import annotations

from typing import Any

import pytest

from chrysalis.api.account import SettlementAccountSpec
from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.rendering import Judging, RenderError, measurement, render

FIRMWARE = {key: f"{index:02x}" * 48 for index, key in enumerate(["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam"])}


def test_exact(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    rendered = render("a", "x", spec, account)
    entry = measurement("a", rendered, FIRMWARE | {"source": "a guest image"}, Judging.EXACT)
    assert entry.mrconfigid == rendered.mrconfigid.hex()
    assert entry.initdata is None
    assert entry.mrowner == "00" * 48


def test_rule(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    rendered = render("a", "x", spec, account)
    entry = measurement("a", rendered, FIRMWARE, Judging.RULE)
    assert entry.mrconfigid is None
    assert entry.initdata is not None
    assert entry.initdata.policy_digests == [rendered.policy_digest]
    assert entry.initdata.image_digests == [rendered.image_digest]


@pytest.mark.parametrize(
    "firmware",
    [{k: v for k, v in FIRMWARE.items() if k != "rtmr2"}, FIRMWARE | {"mrtd": "00"}, FIRMWARE | {"mrseam": 5}, FIRMWARE | {"rtmr3": None}],
)
def test_what_cannot_be_used(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec, firmware: dict[str, Any]) -> None:
    with pytest.raises(RenderError) as caught:
        measurement("a", render("a", "x", spec, account), firmware, Judging.EXACT)
    assert caught.value.reason == "FirmwareMalformed"
    measurement("a", render("a", "x", spec, account), FIRMWARE | {"rtmr3": "Any"}, Judging.EXACT)  # the twin
