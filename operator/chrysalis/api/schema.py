"""From a pydantic model to a structural schema of Kubernetes.  Pure.

What the API server cannot express is not dropped in silence: a construct that this module does not know raises
SchemaError, and so does a string, list or map without a bound.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from chrysalis.api.base import EXPLANATION

Schema = dict[str, Any]
_DROPPED = {"title", "additionalProperties", "$defs", "examples"}
_MAX_DATE_TIME = 64
_NO_SCALAR: dict[str, Any] = {"minLength": 1, "maxLength": 0, "minimum": 1, "maximum": 0, "not": {"enum": [True, False]}}
_NOTHING_BUT: dict[str, dict[str, Any]] = {
    "object": {**_NO_SCALAR, "minItems": 1, "maxItems": 0},
    "array": {**_NO_SCALAR, "minProperties": 1, "maxProperties": 0},
}
"""`type` may not stand below anyOf; bounds that no value of another type can meet say the same."""


class SchemaError(TypeError):
    """The model holds something that a structural schema cannot express, or a value without a bound."""


def structural(model: type[BaseModel], rules: dict[type[BaseModel], list[Schema]] | None = None, *, defaults: bool = True) -> Schema:
    """The structural schema of a model; raises SchemaError.

    rules: CEL rules (members of x-kubernetes-validations) for a model, wherever in the tree it stands.
    defaults: whether the API server fills in the models' defaults.
    """
    document = model.model_json_schema(by_alias=True)
    by_name = {kind.__name__: found for kind, found in (rules or {}).items()}
    return _Converter(document.get("$defs", {}), by_name, defaults).convert({**document, "$name": model.__name__}, model.__name__)


class _Converter:
    def __init__(self, definitions: dict[str, Schema], rules: dict[str, list[Schema]], defaults: bool) -> None:
        self._definitions = definitions
        self._defaults = defaults
        self._rules = rules

    def convert(self, node: Schema, path: str) -> Schema:
        """One node with all that is below it."""
        node = self._resolved(node)
        name = node.pop("$name", "")
        if "anyOf" in node:
            node = self._union(node, path)
            if "$union" in node:
                node.pop("$union")
                return node
            name = node.pop("$name", name)
        kind = node.get("type")
        if kind == "object":
            result = self._object(node, path)
        elif kind == "array":
            result = self._array(node, path)
        elif kind == "string":
            result = self._string(node, path)
        elif kind == "integer":
            result = _integer(node, path)
        elif kind == "boolean":
            result = {"type": "boolean"}
        else:
            raise SchemaError(f"{path}: cannot express {sorted(node)} of type {kind}")
        if node.get("description"):
            result["description"] = node["description"]
        if self._defaults and node.get("default") is not None:
            result["default"] = _without_null(node["default"])
        if self._rules.get(name):
            result["x-kubernetes-validations"] = result.get("x-kubernetes-validations", []) + self._rules[name]
        return result

    def _resolved(self, node: Schema) -> Schema:
        node = dict(node)
        if (reference := node.pop("$ref", None)) is not None:
            name = reference.rsplit("/", 1)[1]
            # What stands at the place of use (a default, a description) wins over the definition.
            node = {**self._definitions[name], **node, "$name": name}
        return node

    def _union(self, node: Schema, path: str) -> Schema:
        around = {k: v for k, v in node.items() if k not in {"anyOf", "title"} and v is not None}
        options = [self._resolved(option) for option in node["anyOf"] if option.get("type") != "null"]
        if len(options) == 1:
            return {**options[0], **around}
        if all(option.get("type") == "string" for option in options):
            return {"type": "string", **_any_string(options, path), **around}
        return {**self._either(options, path), **around, "$union": True}

    def _either(self, options: list[Schema], path: str) -> Schema:
        """A word, or something with a structure: the field has no one type, so each form is checked as a value."""
        words = [option["const"] for option in options if "const" in option]
        others = [self.convert(option, path) for option in options if "const" not in option]
        if len(others) != 1 or others[0]["type"] not in {"object", "array"}:
            raise SchemaError(f"{path}: a union must be of strings, or of a word and one object or list")
        values = _values_only(others[0])
        if "properties" in values:
            values["maxProperties"] = len(values["properties"])  # unknown fields are not pruned here, so refuse them
        forms: list[Schema] = [{"enum": words}, {**values, **_NOTHING_BUT[others[0]["type"]]}]
        return {"x-kubernetes-preserve-unknown-fields": True, "anyOf": forms, **_outline(others[0])}

    def _object(self, node: Schema, path: str) -> Schema:
        if "properties" not in node:
            raise SchemaError(f"{path}: a map without named fields has no bound")
        result: Schema = {
            "type": "object",
            "properties": {key: self.convert(value, f"{path}.{key}") for key, value in node["properties"].items()},
        }
        if node.get("required"):
            result["required"] = node["required"]
        return result

    def _array(self, node: Schema, path: str) -> Schema:
        if "maxItems" not in node:
            raise SchemaError(f"{path}: a list needs maxItems")
        result = {"type": "array", "items": self.convert(node["items"], f"{path}[]"), "maxItems": node["maxItems"]}
        if "minItems" in node:
            result["minItems"] = node["minItems"]
        return result

    def _string(self, node: Schema, path: str) -> Schema:
        if "enum" in node:
            return {"type": "string", "enum": list(node["enum"])}
        if "const" in node:
            return {"type": "string", "enum": [node["const"]]}
        if node.get("format") == "date-time":
            return {"type": "string", "format": "date-time", "maxLength": _MAX_DATE_TIME}
        if "maxLength" not in node:
            raise SchemaError(f"{path}: a string needs maxLength")
        result = {"type": "string", "maxLength": node["maxLength"]}
        if "pattern" in node and EXPLANATION in node:
            result["x-kubernetes-validations"] = [{"rule": f"self.matches({_cel(node['pattern'])})", "message": node[EXPLANATION]}]
        elif "pattern" in node:
            result["pattern"] = node["pattern"]
        return result


def _integer(node: Schema, path: str) -> Schema:
    low = node.get("minimum", node["exclusiveMinimum"] + 1 if "exclusiveMinimum" in node else None)
    high = node.get("maximum", node["exclusiveMaximum"] - 1 if "exclusiveMaximum" in node else None)
    result: Schema = {"type": "integer", "format": "int64"}
    if EXPLANATION in node:
        if low is None or high is None:
            raise SchemaError(f"{path}: an explained number needs both bounds")
        result["x-kubernetes-validations"] = [{"rule": f"self >= {low} && self <= {high}", "message": node[EXPLANATION]}]
        return result
    if low is not None:
        result["minimum"] = low
    if high is not None:
        result["maximum"] = high
    return result


def _any_string(options: list[Schema], path: str) -> Schema:
    """Several forms of one string as one pattern."""
    patterns, longest = [], 0
    for option in options:
        if "const" in option:
            patterns.append(option["const"])
            longest = max(longest, len(option["const"]))
        elif "pattern" in option and "maxLength" in option:
            patterns.append(option["pattern"].removeprefix("^").removesuffix("$"))
            longest = max(longest, option["maxLength"])
        else:
            raise SchemaError(f"{path}: a form of a string needs a pattern and maxLength")
    return {"pattern": f"^({'|'.join(patterns)})$", "maxLength": longest}


def _values_only(node: Schema) -> Schema:
    """The part of a schema that may stand below anyOf: no types, descriptions or defaults."""
    kept = {
        k: v for k, v in node.items() if k in {"required", "maxItems", "minItems", "maxLength", "pattern", "enum", "minimum", "maximum"}
    }
    if "properties" in node:
        kept["properties"] = {key: _values_only(value) for key, value in node["properties"].items()}
    if "items" in node:
        kept["items"] = _values_only(node["items"])
    return kept


def _outline(node: Schema) -> Schema:
    """The fields of a form, which must also stand outside of anyOf, with their types."""
    if node["type"] == "object":
        return {"properties": node["properties"]}
    return {"items": node["items"]}


def _without_null(value: Any) -> Any:
    """A default without members that are absent by default: the API server knows no null here."""
    return {k: _without_null(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _cel(pattern: str) -> str:
    return "r'" + pattern.replace("'", "\\x27") + "'"
