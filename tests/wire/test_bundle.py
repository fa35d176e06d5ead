"""The bundle's form: one content, one file; bounded, strict, and described by the published schema."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chrysalis.wire.bundle import (
    MAX_BUNDLE_BYTES,
    MAX_CONTAINERS,
    MAX_ITEMS,
    MAX_WIDE_BYTES,
    Bundle,
    BundleFile,
    canonical,
    digest,
    to_bytes,
)
from chrysalis.wire.reasons import WireError, WireReason
from tests.stopwatch import at_most

Document = dict[str, Any]


def document(file: bytes) -> Document:
    found: Document = json.loads(file)
    return found


def test_a_file_reads_back_as_what_was_written(make: Callable[..., bytes]) -> None:
    file = make()
    read = BundleFile.read(file)
    assert to_bytes(read.bundle) == file
    assert read.digest == digest(file) == "sha256:" + hashlib.sha256(file).hexdigest()
    assert read.bare_digest != read.digest
    assert len(file) < 64 * 1024


def test_the_published_schema_describes_it(make: Callable[..., bytes]) -> None:
    schema = json.loads((Path(__file__).resolve().parents[2] / "docs" / "wire" / "bundle.schema.json").read_text())
    check = jsonschema_rs.validator_for(schema)
    found = document(make())
    assert check.is_valid(found), [str(error) for error in check.iter_errors(found)][:3]
    for wrong in (found | {"extra": 1}, found | {"schemaVersion": "chrysalis/bundle/v2"}, found | {"evidence": {}}):
        assert not check.is_valid(wrong)


def without(name: str) -> Callable[[Document], bytes]:
    return lambda d: canonical({key: value for key, value in d.items() if key != name})


@pytest.mark.parametrize(
    ("name", "change", "detail"),
    [
        ("spaces", lambda d: json.dumps(d).encode() + b"\n", "canonical"),
        ("no newline", lambda d: canonical(d)[:-1], "canonical"),
        ("two newlines", lambda d: canonical(d) + b"\n", "canonical"),
        ("other order", lambda d: json.dumps(dict(reversed(d.items())), separators=(",", ":")).encode() + b"\n", "canonical"),
        ("twice", lambda d: canonical(d).replace(b'{"broker"', b'{"source":"Broker","broker"', 1), "twice"),
        ("float", lambda d: canonical(d | {"madeAt": 1}).replace(b'"madeAt":1', b'"madeAt":1.5'), "whole number"),
        ("NaN", lambda d: canonical(d | {"madeAt": 1}).replace(b'"madeAt":1', b'"madeAt":NaN'), "whole number"),
        ("unknown member", lambda d: canonical(d | {"extra": 1}), "extra"),
        ("unknown member inside", lambda d: canonical(d | {"evidence": d["evidence"] | {"extra": 1}}), "extra"),
        ("other version", lambda d: canonical(d | {"schemaVersion": "chrysalis/bundle/v2"}), "schemaVersion"),
        ("no version", without("schemaVersion"), "schemaVersion"),
        ("no evidence", without("evidence"), "evidence"),
        ("two policies", lambda d: canonical(d | {"policy": {}}), "exactly one"),
        ("naive time", lambda d: canonical(d | {"judgedAt": "2026-11-01T12:00:00"}), "judgedAt"),
        ("part of a second", lambda d: canonical(d | {"judgedAt": "2026-11-01T12:00:00.5Z"}), "whole seconds"),
        ("a list", lambda d: b"[]\n", "not one JSON object"),
        ("nothing", lambda d: b"", "Expecting value"),
        ("not UTF-8", lambda d: b'{"a":"\xff"}', "decode"),
        ("half a surrogate", lambda d: b'{"schemaVersion":"chrysalis/bundle/v1","x":"\\ud800"}\n', "surrogates"),
        ("deep", lambda d: b"[" * 20_000, "recursion"),
    ],
)
def test_any_other_form_is_refused(make: Callable[..., bytes], name: str, change: Callable[[Document], bytes], detail: str) -> None:
    with pytest.raises(WireError) as refused:
        BundleFile.read(change(document(make())))
    assert refused.value.reason == WireReason.BUNDLE_MALFORMED
    assert detail in refused.value.detail
    assert BundleFile.read(canonical(document(make())))  # the twin


def test_a_file_over_the_bound_is_not_parsed() -> None:
    with pytest.raises(WireError) as refused:
        BundleFile.read(b" " * (MAX_BUNDLE_BYTES + 1))
    assert refused.value.reason == WireReason.BUNDLE_TOO_LARGE
    with pytest.raises(WireError) as refused:
        BundleFile.read(b" " * MAX_BUNDLE_BYTES)
    assert refused.value.reason == WireReason.BUNDLE_MALFORMED


HEAD = b'{"schemaVersion":"chrysalis/bundle/v1","x":'
WIDE = "\U0001f600".encode()
LARGE: dict[str, tuple[bytes, str]] = {
    "one text": (HEAD + b'"' + b"a" * (MAX_BUNDLE_BYTES - 100) + b'"}\n', "BundleMalformed"),
    "one wide text": (HEAD + b'"' + b"a" * (MAX_WIDE_BYTES - 100) + WIDE + b'"}\n', "BundleMalformed"),
    "a wide text over its bound": (HEAD + b'"' + b"a" * MAX_WIDE_BYTES + WIDE + b'"}\n', "BundleTooLarge"),
    "lists": (HEAD + b"[" + b"[]," * (MAX_BUNDLE_BYTES // 3 - 100) + b"[]]}\n", "BundleMalformed"),
    "objects": (HEAD + b"[" + b"{}," * (MAX_BUNDLE_BYTES // 3 - 100) + b"{}]}\n", "BundleMalformed"),
    "numbers": (HEAD + b"[" + b"1," * (MAX_BUNDLE_BYTES // 2 - 100) + b"1]}\n", "BundleMalformed"),
    "as many lists as are read": (HEAD + b"[" + b"[]," * (MAX_CONTAINERS - 3) + b"[]]}\n", "BundleMalformed"),
    "as many numbers as are read": (HEAD + b"[" + b"1," * (MAX_ITEMS - 1) + b"1]}\n", "BundleMalformed"),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_file_makes_the_reader_grow(name: str) -> None:
    file, reason = LARGE[name]
    error = None
    tracemalloc.start()
    try:
        BundleFile.read(file)
    except WireError as refused:
        error = refused
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert error is not None
    assert error.reason == reason
    assert peak < 50 * 1024 * 1024


def test_the_bounds_are_far_above_a_bundle(make: Callable[..., bytes]) -> None:
    file = make()
    assert 20 * (file.count(b"{") + file.count(b"[")) < MAX_CONTAINERS
    assert 20 * file.count(b",") < MAX_ITEMS
    for more, good in ((b"[" * MAX_CONTAINERS, True), (b"[" * (MAX_CONTAINERS + 1), False), (b"," * (MAX_ITEMS + 1), False)):
        with pytest.raises(WireError) as refused:
            BundleFile.read(more)
        assert ("objects and lists, or" in refused.value.detail) != good


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(sorted(Bundle.model_json_schema()["properties"])), inner),
    max_leaves=12,
)


@given(st.binary(max_size=2048) | JSON_VALUES.map(lambda value: json.dumps(value).encode() + b"\n"))
@settings(max_examples=300)
def test_whatever_is_read_is_a_bundle_or_refused_with_a_reason(file: bytes) -> None:
    error = None
    with at_most(1):
        try:
            assert to_bytes(BundleFile.read(file).bundle) == file
        except WireError as refused:
            error = refused
    assert error is None or (error.reason == WireReason.BUNDLE_MALFORMED and len(error.detail) <= 1024)
