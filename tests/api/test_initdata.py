"""Initdata out of strangers' hands: whatever it holds, it is read or refused at once."""

from __future__ import annotations

import pytest

from chrysalis.api import initdata
from chrysalis.api.initdata import InitdataError
from tests.stopwatch import at_most

LONG = "a" * 70
HOSTILE = {
    "a key of many parts": "a." * 100_000 + "a = 1",
    "many keys of many parts": "".join("a." * 60 + f"a{number} = 1\n" for number in range(1900)),
    "a quoted key of many parts": '"\\"".' * 40_000 + "a = 1",
    "a literal key of many parts": "'a' . " * 40_000 + "a = 1",
    "a key of many long parts": ".".join([f'"{LONG}"'] * 3500) + " = 1",
    "a table of many parts": "[" + "a." * 100_000 + "a]",
    "an inline table of many parts": "x = {" + "a." * 100_000 + "a = 1}",
    "brackets": "a = " + "[" * 100_000,
    "quotes": "\"'" * 120_000,
    "escaped quotes": 'a = "' + '\\"' * 120_000,
    "a number of a quarter of a million digits": "a = " + "9" * 250_000,
    "a character that TOML does not have": 'a = "\0"',
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("inside", [False, True])
def test_hostile_toml_is_refused_within_a_second(name: str, inside: bool) -> None:
    toml = HOSTILE[name]
    if inside:
        text = toml[:200_000].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\0", "\\u0000")
        toml = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"allow.json" = "[]"\n"chrysalis.toml" = "' + text + '"\n'
    with at_most(1), pytest.raises(InitdataError):
        initdata.parse(toml.encode()[: initdata.MAX_TOML_BYTES])


def test_keys_of_a_few_parts_are_read() -> None:
    containers = [{"name": "gateway", "image": "i@sha256:" + "2" * 64, "args": [".".join("a" * 60), "1.2.3.4"]}]
    identity = {
        "templateVersion": 1,
        "isolation": "PodTD",
        "imageDigest": "sha256:" + "2" * 64,
        "model": {
            "name": "minilm",
            "package": {"url": "http://models/minilm", "digest": "sha256:" + "0" * 64, "sizeBytes": 5},
            "digest": "sha256:" + "1" * 64,
            "keyId": "minilm-key",
        },
        "policyName": "minilm",
        "broker": {"url": "https://broker:8443", "spkiSha256": "3" * 64, "earKey": "4" * 64},
    }
    document = initdata.Initdata.model_validate({"containers": containers, "identity": identity})
    assert initdata.parse(document.to_toml()) == document
