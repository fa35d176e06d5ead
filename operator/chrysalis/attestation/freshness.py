"""How fresh a judged piece of evidence is known to be, and by whose word: the words that every output uses."""

from __future__ import annotations

from enum import StrEnum


class FreshnessMode(StrEnum):
    """Which of a client's three ways of knowing was used (docs/wire/bundle.md)."""

    FRESH_QUOTE = "fresh-quote"  # the quote covers a nonce that the reader itself chose for this very reading
    EAR = "ear"  # a broker that the reader pins says, in an unexpired result, that the nonce was its own
    OFFLINE = "offline"  # neither: the evidence is genuine, and nobody here knows when it was made


class Freshness(StrEnum):
    """What is known of the evidence's age."""

    OWN_NONCE = "OwnNonce"
    BROKER_NONCE = "BrokerNonce"
    NOT_CHECKED = "NotChecked"


FRESHNESS = {
    FreshnessMode.FRESH_QUOTE: Freshness.OWN_NONCE,
    FreshnessMode.EAR: Freshness.BROKER_NONCE,
    FreshnessMode.OFFLINE: Freshness.NOT_CHECKED,
}
"""What each mode can say of freshness."""


class Revocation(StrEnum):
    """What is known of a later revocation of the result (revoked certificates are the collateral's matter)."""

    NOT_CHECKED = "NotChecked"
    NOT_REVOKED = "NotRevoked"  # the broker said so when it was asked; nobody knows what it would say a moment later
    REVOKED = "Revoked"
