"""Reference values: what an AttestationPolicy must list so that exactly a rendered worker is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from chrysalis.api.policy import InitdataRule, Measurement
from chrysalis.rendering.reasons import RenderError, RenderReason
from chrysalis.rendering.worker import Rendered

REQUIRED = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam")
OPTIONAL = ("mrowner", "mrownerconfig")
"""Zero in a domain that was started without an owner's identity, which is what Kata does."""
ZERO = "00" * 48


class Judging(StrEnum):
    """How the tuple judges initdata."""

    EXACT = "exact"  # this MRCONFIGID and no other
    RULE = "rule"  # this container policy, template and image; wallet, broker, prices and account may differ


def measurement(name: str, rendered: Rendered, firmware: Mapping[str, Any], judging: Judging) -> Measurement:
    """The tuple for a rendered worker on this firmware; raises RenderError when the firmware's values cannot be read.

    firmware: hexadecimal values (or "Any", written out) of the guest's firmware, kernel and root file system; members
    other than REQUIRED and OPTIONAL describe where they come from and are not read.
    """
    missing = [key for key in REQUIRED if key not in firmware]
    if missing:
        raise _malformed(f"it lacks {', '.join(missing)}")
    values = {key: firmware[key] for key in REQUIRED} | {key: firmware.get(key, ZERO) for key in OPTIONAL}
    if judging == Judging.EXACT:
        values["mrconfigid"] = rendered.mrconfigid.hex()
    else:
        values["initdata"] = InitdataRule(
            policy_digests=[rendered.policy_digest],
            template_versions=[rendered.template_version],
            image_digests=[rendered.image_digest],
            wallets="Any",
        )
    try:
        return Measurement.model_validate({"name": name, **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise _malformed(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


def _malformed(why: str) -> RenderError:
    return RenderError(
        RenderReason.FIRMWARE_MALFORMED,
        f"the firmware's values cannot be used: {why}",
        "give a JSON object with mrtd, rtmr0 to rtmr3 and mrseam, each 96 hex digits, from the publisher of the guest image",
    )
