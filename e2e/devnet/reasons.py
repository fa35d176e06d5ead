"""Why the devnet refuses or fails."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class DevnetReason(StrEnum):
    """Stable words."""

    NODE_MISSING = "NodeMissing"
    PACKAGES_NOT_INSTALLED = "PackagesNotInstalled"
    NOT_COMPILED = "NotCompiled"
    TVM_FAILED = "TvmFailed"
    MESSAGE_NOT_ACCEPTED = "MessageNotAccepted"
    MESSAGE_MALFORMED = "MessageMalformed"
    UNSUPPORTED = "Unsupported"


class DevnetError(ChrysalisError):
    """The devnet cannot do that."""

    exit_code: int | None = None
    """Of MessageNotAccepted: the exit code of the contract."""
