"""docs/broker-settings.md: its example is a configuration, and its table names every setting with the default that it has."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from chrysalis.broker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "broker-settings.md").read_text()


def test_the_example_is_read() -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    settings = Settings.model_validate(yaml.safe_load(example[1]))
    assert (settings.placement, settings.tenants[0].name, settings.anchor is not None) == ("External", "acme", True)


def test_every_setting_is_named_and_no_other() -> None:
    named = [name for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(field.alias or name for name, field in Settings.model_fields.items())


def test_the_numbers_are_the_defaults() -> None:
    settings = Settings.model_validate({"stateDir": "x", "placement": "External"})
    assert (settings.port, settings.health_port, settings.metrics_port) == (8443, 8081, 9090)
    assert (settings.nonce_seconds, settings.max_concurrent_attestations) == (120, 8)
    assert settings.result_retention_seconds == settings.ear_keys.rotate_after_seconds == 7 * 86400
    assert (settings.state_keys, settings.ear_keys.algorithm) == ("Files", "EdDSA")
