"""Reference values on the wire: GET and PUT /v1/reference-values."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chrysalis.api.policy import Envelope
from chrysalis.wire.broker import Versioned

PAYLOAD_REFERENCE_VALUES = "application/vnd.chrysalis.reference-values.v1+json"
"""Payload type of the publisher's envelope; the payload is chrysalis.api.reference.ReferenceValues in JSON."""


class ReferenceList(Versioned):
    """GET /v1/reference-values: the newest envelope of each publisher that the broker knows; whoever reads checks the signatures."""

    documents: Annotated[list[Envelope], Field(max_length=64)]
