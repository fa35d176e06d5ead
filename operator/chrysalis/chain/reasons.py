"""Why the chain package refuses or fails."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class ChainReason(StrEnum):
    """Stable words; see the remedy of each error."""

    CELL_MALFORMED = "CellMalformed"
    """Bytes that are not a bag of cells, or cells that are not what they should be."""
    DICTIONARY_MALFORMED = "DictionaryMalformed"
    WALLET_NOT_IN_ROOT = "WalletNotInRoot"
    ADDRESS_INVALID = "AddressInvalid"
    SEED_INVALID = "SeedInvalid"
    LITESERVERS_UNREACHABLE = "LiteserversUnreachable"
    LITESERVERS_DISAGREE = "LiteserversDisagree"
    HEAD_STALE = "HeadStale"
    PROOF_INVALID = "ProofInvalid"
    MESSAGE_REFUSED = "MessageRefused"
    CONTRACT_ABSENT = "ContractAbsent"
    CONTRACT_FOREIGN = "ContractForeign"
    """There is a contract, but not one whose code this version of Chrysalis knows."""
    BALANCE_TOO_LOW = "BalanceTooLow"
    ROOT_NOT_ACTIVE = "RootNotActive"
    """The dictionary is of a root that cannot be claimed against: pending, superseded, or of another contract."""
    NOTHING_TO_CLAIM = "NothingToClaim"
    FILES_UNREACHABLE = "FilesUnreachable"
    """The pool's published files (earned.boc and the like) cannot be fetched."""
    WAIT_TIMED_OUT = "WaitTimedOut"


class ChainError(ChrysalisError):
    """The chain, its servers or bytes that come from there are not what they must be."""

    exit_code: int | None = None
    """Of MessageRefused: the exit code with which the contract refused, where the server told it."""


UNREACHABLE = frozenset(
    {ChainReason.LITESERVERS_UNREACHABLE, ChainReason.FILES_UNREACHABLE, ChainReason.HEAD_STALE, ChainReason.WAIT_TIMED_OUT}
)
"""Reasons that mean "a service could not be reached" (exit code 3 of the command line)."""

STATE_SAYS_NO = frozenset(
    {
        ChainReason.WALLET_NOT_IN_ROOT,
        ChainReason.MESSAGE_REFUSED,
        ChainReason.CONTRACT_ABSENT,
        ChainReason.CONTRACT_FOREIGN,
        ChainReason.BALANCE_TOO_LOW,
        ChainReason.ROOT_NOT_ACTIVE,
        ChainReason.NOTHING_TO_CLAIM,
        ChainReason.LITESERVERS_DISAGREE,
        ChainReason.PROOF_INVALID,
    }
)
"""Reasons that are a state or a verdict (exit code 1 of the command line); what is in neither set is unreadable input."""


def malformed(what: str, detail: str = "") -> ChainError:
    """The error of bytes that do not parse."""
    return ChainError(ChainReason.CELL_MALFORMED, f"{what} is malformed", "get it again from its source", detail)
