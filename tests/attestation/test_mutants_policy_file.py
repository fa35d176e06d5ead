"""Bounds of policy files to the byte, and names of resources from both sides: what mutants showed to be untested."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chrysalis.api.names import API_VERSION, KIND_POLICY
from chrysalis.attestation.policy_file import MAX_POLICY_BYTES, read_policy
from chrysalis.attestation.reasons import AttestationError


def test_a_policy_of_the_largest_size_is_read_and_one_byte_more_is_not(policy_document: dict[str, Any]) -> None:
    assert MAX_POLICY_BYTES == 1 << 20
    text = json.dumps(policy_document).encode()
    assert read_policy(text.ljust(MAX_POLICY_BYTES)).version == policy_document["version"]
    for size in (MAX_POLICY_BYTES + 1, MAX_POLICY_BYTES + 2):
        with pytest.raises(AttestationError, match=f"has {size} bytes"):
            read_policy(text.ljust(size))


@pytest.mark.parametrize("member", ["apiVersion", "kind"])
@pytest.mark.parametrize("word", ["A", "zzz", None])
def test_a_resource_of_another_name(policy_document: dict[str, Any], member: str, word: str | None) -> None:
    resource: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND_POLICY, "spec": policy_document}
    assert read_policy(json.dumps(resource).encode()).version == policy_document["version"]
    with pytest.raises(AttestationError, match="not " + API_VERSION):
        read_policy(json.dumps(resource | {member: word}).encode())


def test_a_resources_name_is_told_at_a_bounded_length() -> None:
    with pytest.raises(AttestationError) as caught:
        read_policy(json.dumps({"apiVersion": "a" * 65, "kind": "k" * 65, "spec": {}}).encode())
    assert caught.value.message.startswith(f"the resource is {'a' * 64} {'k' * 64}, not ")


def test_the_first_eight_problems_are_told(policy_document: dict[str, Any]) -> None:
    spoiled = policy_document | {f"unknown{number}": 1 for number in range(12)}
    with pytest.raises(AttestationError) as caught:
        read_policy(json.dumps(spoiled).encode())
    problems = caught.value.detail.split("; ")
    assert len(problems) == 8
    assert caught.value.message.endswith(problems[0])


@pytest.mark.parametrize(
    "text",
    ["&a {version: *a}", "&a {tdx: *a}", "&a {spec: *a, apiVersion: x, kind: y}", "&a [*a]", "{tdx: &a {measurements: &b [*a, *b]}}"],
)
def test_a_policy_that_holds_itself(text: str) -> None:
    with pytest.raises(AttestationError):
        read_policy(text.encode())
