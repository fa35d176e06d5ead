"""Which signing keys of a broker are recalled: its anchor's word that what they signed counts no more.

A signing key that was stolen can sign results, with any time in them, until its certificate ends, and a reader that only pins the
anchor cannot tell.  The broker publishes a list: a compact JWS of typ `chrysalis-ear-recall+jwt`, signed by the pinned key, with the
thumbprints (kid) of all keys ever recalled and the time at which it was signed.  `chrysalis.wire.ear.verify` takes it.
What a list cannot say is what was recalled after it was signed: a reader that cares asks for a fresh one, and bounds its age.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, ValidationError

from chrysalis.api.base import Model
from chrysalis.clock import unix
from chrysalis.receipts import jws
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire.reasons import WireError, WireReason

TYP = "chrysalis-ear-recall+jwt"
MAX_RECALLED = 4096
MAX_LIST_BYTES = 512 * 1024
LEEWAY_SECONDS = 60
"""How far the broker's clock may be ahead of the reader's."""
Kid = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""A key's thumbprint (RFC 7638)."""
Seconds = Annotated[int, Field(ge=0, lt=1 << 53)]


class RecalledKey(Model):
    """One of them, and when it was recalled (Unix seconds).  What it signed before then counts no more either: times can be forged."""

    kid: Kid
    recalled_at: Seconds


class RecallList(Model):
    """The claims of a list."""

    iat: Seconds
    keys: Annotated[list[RecalledKey], Field(max_length=MAX_RECALLED)]

    def sign(self, anchor: jws.SigningKey) -> str:
        """The compact token."""
        return jws.sign(TYP, self.to_json_dict(), anchor)

    def check_age(self, now: datetime, max_age_seconds: int) -> None:
        """Refuse a list that was signed longer ago, or in the future; raises WireError (RecallsTooOld)."""
        at = unix(now)
        if not at - max_age_seconds <= self.iat <= at + LEEWAY_SECONDS:
            raise WireError(
                WireReason.RECALLS_TOO_OLD,
                "the list of recalled keys is older than this reader takes, or from the future",
                "ask the broker for it again (/.well-known/ear-recalls); check this machine's clock",
                f"signed {self.iat}, now {at}",
            )

    @property
    def kids(self) -> frozenset[str]:
        """The thumbprints."""
        return frozenset(key.kid for key in self.keys)


class Recalls(Model):
    """The answer at `/.well-known/ear-recalls`."""

    recalls: Annotated[str, Field(max_length=MAX_LIST_BYTES)]


def open_list(token: str, anchor: bytes) -> RecallList:
    """A list that the anchor (raw Ed25519) signed, of any age; raises WireError (RecallsInvalid)."""
    try:
        return RecallList.model_validate(jws.verify(token, TYP, anchor))
    except (ReceiptError, ValidationError) as error:
        raise WireError(
            WireReason.RECALLS_INVALID,
            "this is not the pinned broker's list of recalled keys",
            "ask the broker for it again (/.well-known/ear-recalls) over the pinned connection",
            str(error)[:512],
        ) from error
