"""Rules over the boot event log: what an event's datum must be.  A datum counts only where the event's digest is its hash.

Event types: TCG PC Client Platform Firmware Profile, section 10.4.1.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from chrysalis.api.base import Hex48, Model


class EventType(StrEnum):
    """Types of boot events that a rule may name, as the TCG calls them."""

    EV_POST_CODE = "EV_POST_CODE"
    EV_SEPARATOR = "EV_SEPARATOR"
    EV_ACTION = "EV_ACTION"
    EV_EVENT_TAG = "EV_EVENT_TAG"
    EV_PLATFORM_CONFIG_FLAGS = "EV_PLATFORM_CONFIG_FLAGS"
    EV_IPL = "EV_IPL"
    EV_EFI_VARIABLE_DRIVER_CONFIG = "EV_EFI_VARIABLE_DRIVER_CONFIG"
    EV_EFI_VARIABLE_BOOT = "EV_EFI_VARIABLE_BOOT"
    EV_EFI_BOOT_SERVICES_APPLICATION = "EV_EFI_BOOT_SERVICES_APPLICATION"
    EV_EFI_BOOT_SERVICES_DRIVER = "EV_EFI_BOOT_SERVICES_DRIVER"
    EV_EFI_GPT_EVENT = "EV_EFI_GPT_EVENT"
    EV_EFI_ACTION = "EV_EFI_ACTION"
    EV_EFI_PLATFORM_FIRMWARE_BLOB = "EV_EFI_PLATFORM_FIRMWARE_BLOB"
    EV_EFI_HANDOFF_TABLES = "EV_EFI_HANDOFF_TABLES"
    EV_EFI_PLATFORM_FIRMWARE_BLOB2 = "EV_EFI_PLATFORM_FIRMWARE_BLOB2"
    EV_EFI_HANDOFF_TABLES2 = "EV_EFI_HANDOFF_TABLES2"
    EV_EFI_VARIABLE_BOOT2 = "EV_EFI_VARIABLE_BOOT2"
    EV_EFI_VARIABLE_AUTHORITY = "EV_EFI_VARIABLE_AUTHORITY"


TEXT_TYPES = frozenset({EventType.EV_POST_CODE, EventType.EV_ACTION, EventType.EV_EVENT_TAG, EventType.EV_IPL, EventType.EV_EFI_ACTION})
"""Types that measure a text which stands in the log, too."""
VARIABLE_TYPES = frozenset({EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, EventType.EV_EFI_VARIABLE_BOOT2, EventType.EV_EFI_VARIABLE_AUTHORITY})
"""Types whose digest covers a UEFI variable's GUID, name and value; EV_EFI_VARIABLE_BOOT's covers the value alone."""


class VariableRule(Model):
    """A UEFI variable and its exact value: in hexadecimal, or (where it is long) the value's SHA-384."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    guid: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", max_length=36)] | None = None  # absent: any
    value: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{2})*$", max_length=8192)] | None = None
    value_sha384: Hex48 | None = None

    @model_validator(mode="after")
    def _one_value(self) -> VariableRule:
        if (self.value is None) == (self.value_sha384 is None):
            raise ValueError("give exactly one of value and valueSha384")
        return self


class EventRule(Model):
    """There must be an event of this type in this register that measures exactly this.

    register: 0–3, the RTMR.  Exactly one of: text (of types that measure a text; a loader's prefix such as
    `kernel_cmdline: ` and the NUL behind it are not measured and may be left out), variable (of types that measure a UEFI
    variable), sha384 (the event's digest, of any type).  closed: every event in this register, of whatever type, must be one
    that the policy's rules list, separators excepted: no register measures an event's type, so the log's word for it counts for
    nothing.
    """

    register_index: Annotated[int, Field(ge=0, le=3, alias="register")]
    type: EventType
    text: Annotated[str, Field(min_length=1, max_length=8192)] | None = None
    variable: VariableRule | None = None
    sha384: Hex48 | None = None
    closed: bool = False

    @model_validator(mode="after")
    def _one_datum_that_can_be_recomputed(self) -> EventRule:
        if sum(datum is not None for datum in (self.text, self.variable, self.sha384)) != 1:
            raise ValueError("give exactly one of text, variable and sha384")
        if self.text is not None and self.type not in TEXT_TYPES:
            raise ValueError(f"{self.type} measures no text that could be recomputed; give the event's sha384")
        if self.variable is not None and self.type not in VARIABLE_TYPES:
            raise ValueError(f"{self.type} does not measure a variable's name with its value; give the event's sha384")
        return self
