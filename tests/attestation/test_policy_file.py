"""Policies that people write: a resource or a bare spec, and messages that name the wrong field."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.api import policy
from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation.policy_envelope import read_envelope
from chrysalis.attestation.policy_file import MAX_POLICY_BYTES, read_policy
from chrysalis.attestation.reasons import AttestationError
from tests.stopwatch import at_most


def resource(spec: dict[str, Any], **changes: Any) -> bytes:
    document = {"apiVersion": "chrysalis.dev/v1alpha1", "kind": "AttestationPolicy", "metadata": {"name": "p"}, "spec": spec}
    return yaml.safe_dump(document | changes).encode()


def enveloped(spec: dict[str, Any], signed: dict[str, Any]) -> dict[str, Any]:
    payload = base64.b64encode(json.dumps({"schemaVersion": "chrysalis/v1", "name": "p", "spec": signed}).encode()).decode()
    return spec | {"envelope": {"payloadType": "t", "payload": payload, "signatures": [{"keyid": "k", "sig": "s"}]}}


def test_a_resource_and_its_bare_spec_are_the_same(policy_document: dict[str, Any]) -> None:
    expected = AttestationPolicySpec.model_validate(policy_document)
    assert read_policy(resource(policy_document)) == expected
    assert read_policy(yaml.safe_dump(policy_document).encode()) == expected
    assert read_policy(json.dumps(policy_document).encode()) == expected
    assert read_policy(resource(enveloped(policy_document, policy_document))) == expected
    assert type(read_policy(resource(policy_document | {"ownerPublicKey": "0" * 64}))) is AttestationPolicySpec


def refusal(text: bytes) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        read_policy(text)
    assert caught.value.reason == "PolicyUnreadable"
    return caught.value


def laughs(rest: str) -> bytes:
    """Ten million texts in seven hundred bytes, and one more member."""
    lists = "".join(f"{chr(98 + level)}: &{chr(98 + level)} [{(f'*{chr(97 + level)}, ') * 10}]\n" for level in range(6))
    return f"a: &a [{'x, ' * 10}]\n{lists}{rest}\n".encode()


@pytest.mark.parametrize(
    "rest", ["payloadType: *g", "envelope: {payloadType: *g}", "spec: {}\nkind: *g", "version: *g", "tdx: {measurements: *g}"]
)
def test_aliases_of_aliases_are_not_written_out(rest: str) -> None:
    for read in (read_policy, read_envelope):
        with pytest.raises(AttestationError, match="PolicyUnreadable") as caught:
            read(laughs(rest))
        assert "once its aliases are written out" in caught.value.detail


def test_a_signed_policy_that_differs_from_the_readable_one(policy_document: dict[str, Any]) -> None:
    error = refusal(resource(enveloped(policy_document, policy_document | {"version": 2})))
    assert "differs" in error.message
    twice = json.dumps({"name": "p", "spec": policy_document}).replace('"name"', '"name": "q", "name"', 1)
    for payload in ("%%", base64.b64encode(b"no json").decode(), base64.b64encode(twice.encode()).decode()):
        broken = enveloped(policy_document, {})
        broken["envelope"]["payload"] = payload
        refusal(resource(broken))


def test_the_wrong_field_is_named(policy_document: dict[str, Any]) -> None:
    assert "unknown" in refusal(resource(policy_document | {"unknown": 1})).message
    del policy_document["tdx"]["tcb"]["allowedStatuses"]
    assert "tdx.tcb.allowedStatuses" in refusal(resource(policy_document)).message


@pytest.mark.parametrize("name", ["trustRoot", "tdx", "version"])
def test_required_fields(policy_document: dict[str, Any], name: str) -> None:
    del policy_document[name]
    assert name in refusal(resource(policy_document)).message


def test_another_kind_of_resource(policy_document: dict[str, Any]) -> None:
    assert "ConfigMap" in refusal(resource(policy_document, kind="ConfigMap")).message
    assert "v9" in refusal(resource(policy_document, apiVersion="chrysalis.dev/v9")).message


@pytest.mark.parametrize(
    "text",
    [b"", b"- a", b"hello", b"a: [", b"\xff\xfe", b"[" * 100_000, b"a: !!python/object/apply:os.system [x]", b"x" * (MAX_POLICY_BYTES + 1)],
    ids=["empty", "list", "word", "cut", "bytes", "deep", "python", "large"],
)
def test_what_is_no_policy(text: bytes) -> None:
    refusal(text)


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    refusal(text.encode("utf-8", "surrogatepass"))


def _nested(form: bytes) -> bytes:
    """Each line is nine times the line before."""
    lines = [b"a%d: &a%d " % (number, number) + form % b",".join([b"*a%d" % (number - 1)] * 9) for number in range(1, 30)]
    return b"a0: &a0 {x: 1}\n" + b"\n".join(lines)


HOSTILE = {
    "a list": b"[" + b"a," * 500_000 + b"a]",
    "lines": b"- a\n" * 250_000,
    "names": b"".join(b"a%d: 1\n" % number for number in range(90_000)),
    "fewer names": b"".join(b"a%d: 1\n" % number for number in range(9_000)),
    "times": b"- 2001-01-01\n" * 80_000,
    "a number to the base of 60": b"a: 1" + b":1" * 500_000,
    "a number": b"a: " + b"1" * 1_000_000,
    "merged maps": _nested(b"{<<: [%s]}"),
    "aliases": _nested(b"[%s]"),
    "brackets": b"{a: " * 3000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_within_a_second(name: str) -> None:
    with at_most(1):
        refusal(HOSTILE[name])


def test_a_member_twice_is_refused(policy_document: dict[str, Any]) -> None:
    """A person reads the first, a parser takes the last."""
    text = yaml.safe_dump(policy_document)
    assert read_policy(text.encode()).version == 1
    assert "twice" in refusal(b"version: 2\n" + text.encode()).detail


def test_maps_may_be_merged(policy_document: dict[str, Any]) -> None:
    text = yaml.safe_dump(policy_document)
    policy_document["tdx"]["measurements"] = []
    merged = yaml.safe_dump(policy_document).replace("measurements: []", "measurements: [&one {ROW}, {<<: *one, name: two}]")
    row = yaml.safe_load(text)["tdx"]["measurements"][0]
    found = read_policy(merged.replace("{ROW}", json.dumps(row)).encode())
    assert [item.name for item in found.tdx.measurements] == ["simulated", "two"]


def test_intels_root_is_named_and_not_given(policy_document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As DER it would stand beside Development and simulated GPUs, and its results would be of hardware."""
    read_policy(resource(policy_document))
    der = base64.b64decode(policy_document["trustRoot"]["der"])
    monkeypatch.setattr(policy, "INTEL_ROOT_SHA256", hashlib.sha256(der).hexdigest())
    assert "Intel's own root" in refusal(resource(policy_document)).detail
