"""The generated definitions: current, bounded everywhere, and with the rules that the models cannot say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chrysalis.api.crd import CHART_COPIES, RESOURCES, definition, main, rendered

ROOT = Path(__file__).resolve().parents[2]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a schema that a value may stand at."""
    yield path, schema
    for key, value in schema.get("properties", {}).items():
        yield from nodes(value, f"{path}.{key}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


@pytest.mark.parametrize("folder", ["crds", str(CHART_COPIES)])
def test_the_committed_definitions_are_the_generated_ones(folder: str) -> None:
    committed = {path.name: path.read_text() for path in (ROOT / folder).glob("*.yaml")}
    assert committed == rendered(), "run `make crds` and commit what it writes"


def test_generating_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    assert main([str(tmp_path / "crds")]) == 0
    assert {path.name: path.read_text() for path in (tmp_path / "crds").iterdir()} == rendered()
    assert main([]) == 2


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: r.kind)
def test_every_value_has_a_bound(resource: Any) -> None:
    for path, node in nodes(definition(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec"):
        if node.get("type") == "string" and "enum" not in node:
            assert "maxLength" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        assert node.get("type") or node.get("x-kubernetes-preserve-unknown-fields"), path


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: r.kind)
def test_every_rule_says_what_to_do(resource: Any) -> None:
    schema = definition(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for path, node in nodes(schema, "spec"):
        for rule in node.get("x-kubernetes-validations", []):
            assert len(rule["message"]) > 20, path
            assert rule["message"].isprintable()


@pytest.mark.parametrize(("kind", "short"), [("ConfidentialWorker", "cw"), ("AttestationPolicy", "apol"), ("SettlementAccount", "sacct")])
def test_names_subresources_and_conditions(kind: str, short: str) -> None:
    resource = next(r for r in RESOURCES if r.kind == kind)
    found = definition(resource)["spec"]
    version = found["versions"][0]
    assert found["names"]["shortNames"] == [short]
    assert found["names"]["categories"] == ["chrysalis"]
    assert ("scale" in version["subresources"]) is (kind == "ConfidentialWorker")
    conditions = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_the_workers_columns() -> None:
    columns = definition(RESOURCES[0])["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown == ["Ready", "Reason", "Profile", "TCB", "Expires", "Replicas", "Serving", "Earned", "Age"]


def test_the_files_are_plain_yaml_without_anchors() -> None:
    for name, text in rendered().items():
        assert "&id" not in text, name
        assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"
