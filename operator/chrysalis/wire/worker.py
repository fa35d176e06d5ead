"""What a worker's gateway offers to the settler and to the controller, besides inference."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chrysalis.api.base import Hex32
from chrysalis.wire.broker import Versioned

HEADER_TICKET = "Chrysalis-Ticket"
HEADER_SALT = "Chrysalis-Salt"
"""32 bytes in base64url without padding."""
HEADER_RECEIPT = "Chrysalis-Receipt"
MAX_BODY_BYTES = 8 * 1024 * 1024


class ReceiptPage(Versioned):
    """GET /v1/receipts?after=SEQ&limit=N: receipts in order of seq, each a compact JWS.

    The caller shows a bearer JWS (typ "chrysalis-settler+jwt", members {aud: wrk, iat, exp}) signed by a measured
    reservation key.
    """

    wrk: Hex32
    receipts: list[str]
    last: int  # the highest seq that the worker has issued; 0 before the first, seq counts from 1
    offers: list[str] = []  # the offers that these receipts name by hash, each a compact JWS


class ClientList(Versioned):
    """PUT /v1/clients: the allow-list, a compact JWS of typ chrysalis-clients+jwt; an older iat than held is refused."""

    clients: Annotated[str, Field(max_length=512 * 1024)]
