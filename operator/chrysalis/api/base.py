"""The base of every model that a stranger may write: camelCase names, unknown fields refused, immutable."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """Fields are snake_case in Python and camelCase in JSON; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)

    def to_json_dict(self) -> dict[str, Any]:
        """The JSON form: camelCase, absent fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


EXPLANATION = "x-chrysalis-explanation"
"""In a field's json_schema_extra: the sentence with which the API server refuses a wrong value (see crd.py)."""


def _expressible(at: datetime) -> datetime:
    if at.tzinfo is not None:
        try:
            at.astimezone(UTC)
        except OverflowError as error:
            raise ValueError("the time lies before the first or after the last year") from error
    return at


InUtc = AfterValidator(_expressible)
"""Of a time: UTC can express it.  0001-01-01T00:00:00+14:00 is a time that every comparison in UTC would fail at."""
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Sha256Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$", max_length=64)]
"""32 bytes in hexadecimal."""
Hex48 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{96}$", max_length=96)]
"""48 bytes (a SHA-384 measurement register) in hexadecimal."""
ImageByDigest = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][-a-z0-9._/:]*@sha256:[0-9a-f]{64}$",
        max_length=512,
        json_schema_extra={
            EXPLANATION: "name the image by its digest, NAME@sha256:<64 hex digits>: a tag can be moved, and evidence is about bytes"
        },
    ),
]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)]
