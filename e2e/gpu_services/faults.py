"""The ways in which the simulated services can be told to answer badly."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """One way each.  The first block is the server's, for any path; the others are of one service's answers."""

    NONE = "none"
    FAIL = "fail"  # 500
    REFUSE = "refuse"  # 400
    MISSING = "missing"  # 404
    THROTTLE = "throttle"  # 429
    HANG = "hang"  # takes the request and says nothing
    DROP = "drop"  # closes the connection without an answer
    GARBAGE = "garbage"  # 200 with random bytes
    EMPTY = "empty"
    REDIRECT = "redirect"
    HUGE = "huge"  # without a length, and without an end
    HUGE_STATED = "huge-stated"
    DRIP = "drip"  # the body byte by byte
    PAGE = "page"  # text/html
    PACKED = "packed"  # says that it is compressed
    # The attestation service
    OTHER_NONCE = "other-nonce"
    ALG_NONE = "alg-none"
    OTHER_KEY = "other-key"  # the right id, another key
    UNKNOWN_KEY = "unknown-key"  # an id that the key set does not have
    OTHER_ISSUER = "other-issuer"
    EXPIRED = "expired"
    FUTURE = "future"
    OTHER_DEVICE = "other-device"
    OTHER_VERSION = "other-version"
    DENIED = "denied"  # the overall result is false
    MEASURES_DIFFER = "measures-differ"
    DEBUG = "debug"
    NO_KEYS = "no-keys"  # the key set is empty
    # The responder
    UNKNOWN = "unknown"
    STALE = "stale"  # its nextUpdate has passed
    NO_NONCE = "no-nonce"
    WRONG_NONCE = "wrong-nonce"
    FORGED = "forged"  # its signature does not hold
    TRY_LATER = "try-later"
    OTHER_CERTIFICATE = "other-certificate"
