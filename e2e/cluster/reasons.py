"""Why the development cluster could not do what it was asked to."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class Reason(StrEnum):
    """Stable words; each is used with one sentence of what is wrong and one of what to do."""

    TOOL_MISSING = "ToolMissing"
    PROGRAM_BUILD_FAILED = "ProgramBuildFailed"
    NOT_ROOT = "NotRoot"
    INSTANCE_NAME_INVALID = "InstanceNameInvalid"
    STATE_PATH_TOO_LONG = "StatePathTooLong"
    NO_FREE_ADDRESSES = "NoFreeAddresses"
    COMMAND_FAILED = "CommandFailed"
    PROCESS_ENDED = "ProcessEnded"
    NOT_READY_IN_TIME = "NotReadyInTime"
    CLUSTER_NOT_UP = "ClusterNotUp"
    IMAGE_IMPORT_FAILED = "ImageImportFailed"
    LEFTOVERS = "Leftovers"


class ClusterError(ChrysalisError):
    """The development cluster cannot go on; the message says at which step, the remedy which log to read."""
