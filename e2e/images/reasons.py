"""Why an image could not be built."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class Reason(StrEnum):
    """Stable words."""

    TOOL_MISSING = "ToolMissing"
    DEBIAN_FAILED = "DebianPackagesFailed"
    PACKAGES_FAILED = "PythonPackagesFailed"
    BYTECODE_FAILED = "BytecodeFailed"


class ImageError(ChrysalisError):
    """An image could not be built; nothing half-built is kept."""
