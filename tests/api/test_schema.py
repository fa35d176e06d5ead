"""From models to structural schemas: what is expressed, and what is refused rather than lost."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import pytest
from pydantic import Field

from chrysalis.api.base import EXPLANATION, Model
from chrysalis.api.schema import SchemaError, structural


class Inner(Model):
    """An inner thing."""

    word: Annotated[str, Field(max_length=8, pattern=r"^[a-z]+$")]


class Unbounded(Model):
    """A string without a bound."""

    text: str


class UnboundedList(Model):
    """A list without a bound."""

    words: list[Annotated[str, Field(max_length=1)]]


class Map(Model):
    """A map without names."""

    words: dict[str, str]


class Number(Model):
    """A float."""

    value: float


class TwoForms(Model):
    """Two different objects in one place."""

    either: Inner | list[Annotated[str, Field(max_length=1)]]


@pytest.mark.parametrize("model", [Unbounded, UnboundedList, Map, Number, TwoForms], ids=lambda m: m.__name__)
def test_what_cannot_be_expressed_is_an_error(model: type[Model]) -> None:
    with pytest.raises(SchemaError):
        structural(model)
    assert structural(Inner)["properties"]["word"] == {"type": "string", "maxLength": 8, "pattern": "^[a-z]+$"}


class Whole(Model):
    """Everything that there is."""

    number: Annotated[int, Field(ge=0, lt=10)]
    price: Annotated[int, Field(ge=0, lt=5, json_schema_extra={EXPLANATION: "say it so"})] = 0
    name: Annotated[str, Field(max_length=9, pattern=r"^it's$", json_schema_extra={EXPLANATION: "write it so"})]
    either: Literal["Any"] | Annotated[str, Field(max_length=4, pattern=r"^[0-9]{4}$")]
    choice: Literal["Any"] | Inner
    maybe: Inner | None = None
    when: datetime
    flag: bool = True


def test_each_construct() -> None:
    schema = structural(Whole, {Inner: [{"rule": "true", "message": "m"}]})
    fields = schema["properties"]
    assert fields["number"] == {"type": "integer", "format": "int64", "minimum": 0, "maximum": 9}
    assert fields["price"]["x-kubernetes-validations"] == [{"rule": "self >= 0 && self <= 4", "message": "say it so"}]
    assert fields["price"]["default"] == 0
    assert fields["name"]["x-kubernetes-validations"][0]["rule"] == r"self.matches(r'^it\x27s$')"
    assert fields["either"] == {"type": "string", "pattern": "^(Any|[0-9]{4})$", "maxLength": 4}
    assert fields["choice"]["x-kubernetes-preserve-unknown-fields"] is True
    assert fields["choice"]["anyOf"][0] == {"enum": ["Any"]}
    assert fields["choice"]["anyOf"][1]["maxProperties"] == 1
    assert "type" not in fields["choice"]["anyOf"][1]["properties"]["word"]
    assert fields["maybe"]["x-kubernetes-validations"] == [{"rule": "true", "message": "m"}]
    assert fields["when"] == {"type": "string", "format": "date-time", "maxLength": 64}
    assert fields["flag"] == {"type": "boolean", "default": True}
    assert schema["required"] == ["number", "name", "either", "choice", "when"]
