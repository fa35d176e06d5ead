"""Why a worker cannot be rendered."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class RenderReason(StrEnum):
    """Stable words."""

    ACCOUNT_NOT_FOUND = "AccountNotFound"
    ISOLATION_NOT_SUPPORTED = "IsolationNotSupported"
    TEMPLATE_VERSION_UNKNOWN = "TemplateVersionUnknown"
    FIRMWARE_MALFORMED = "FirmwareMalformed"


class RenderError(ChrysalisError):
    """The worker asks for something that no template renders."""
