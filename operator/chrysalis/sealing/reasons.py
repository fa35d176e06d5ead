"""Why a model cannot be sealed or opened."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class SealingReason(StrEnum):
    """Stable words; never renamed."""

    SOURCE_UNUSABLE = "SourceUnusable"
    ARCHIVE_MALFORMED = "ArchiveMalformed"
    ARCHIVE_ENTRY_REFUSED = "ArchiveEntryRefused"
    ARCHIVE_TOO_LARGE = "ArchiveTooLarge"
    PACKAGE_MALFORMED = "PackageMalformed"
    PACKAGE_DAMAGED = "PackageDamaged"
    PACKAGE_KEY_WRONG = "PackageKeyWrong"
    MODEL_DIGEST_MISMATCH = "ModelDigestMismatch"
    IDENTITY_MALFORMED = "IdentityMalformed"
    DESTINATION_UNUSABLE = "DestinationUnusable"
    WRAPPED_KEY_INVALID = "WrappedKeyInvalid"


class SealingError(ChrysalisError):
    """A model, a package or a wrapped key is not what it must be."""
