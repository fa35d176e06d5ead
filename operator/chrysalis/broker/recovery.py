"""An owner's way back to its keys without the broker's root key: a copy of each key record, sealed to the owner itself.

The record names age recipients (X25519).  What is sealed to them is the signed record, key included, so that the owner can store it
again at any broker.  The broker cannot open a copy; it lies in the database and in backups, which an administrator may hand over.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyrage
from pyrage import x25519

from chrysalis.broker.reasons import BrokerError, BrokerReason


def seal(payload: bytes, recipients: Sequence[str]) -> bytes:
    """The payload of a key record for its owner's recipients; empty when there are none.  Raises BrokerError (KeyMalformed)."""
    if not recipients:
        return b""
    try:
        return bytes(pyrage.encrypt(payload, [x25519.Recipient.from_str(recipient) for recipient in recipients]))
    except (pyrage.RecipientError, pyrage.EncryptError, ValueError) as error:
        raise BrokerError(
            BrokerReason.KEY_MALFORMED,
            "a recovery recipient is not an age recipient",
            "give the text that begins with age1, as `age-keygen -y` prints it",
            str(error)[:256],
        ) from error
