"""Bounds of a policy's YAML, to the event: the largest that is read and the first that is not."""

from __future__ import annotations

import pytest
import yaml

from chrysalis.attestation import policy_yaml

AROUND_A_LIST = 6
"""Events: the beginning and the end of the stream, of the document and of the list."""
TOO_MUCH = "more than 20000 keys and values, "


def test_the_number_of_events() -> None:
    most = 20_000 - AROUND_A_LIST
    assert policy_yaml.load(b"[" + b"1," * most + b"]") == [1] * most
    for more in (1, 2):
        with pytest.raises(ValueError, match=TOO_MUCH):
            policy_yaml.load(b"[" + b"1," * (most + more) + b"]")


def test_the_number_of_merged_maps() -> None:
    one = b"- &one {x: 1}\n"
    for count in (0, 1, 15, 16):
        assert policy_yaml.load(one + b"- {<<: *one, y: 2}\n" * count) == [{"x": 1}] + [{"x": 1, "y": 2}] * count
    for count in (17, 18):
        with pytest.raises(ValueError, match=TOO_MUCH):
            policy_yaml.load(one + b"- {<<: *one, y: 2}\n" * count)


@pytest.mark.parametrize(("begin", "end"), [(b"[", b"]"), (b"{a: ", b"}")])
def test_the_number_of_levels(begin: bytes, end: bytes) -> None:
    for levels in (1, 63, 64):
        policy_yaml.load(begin * levels + b"1" + end * levels)
    for levels in (65, 66):
        with pytest.raises(ValueError, match=TOO_MUCH):
            policy_yaml.load(begin * levels + b"1" + end * levels)
    policy_yaml.load(b"[" + (begin + b"1" + end + b",") * 200 + b"]")  # beside one another


@pytest.mark.parametrize(("colons", "good"), [(1, True), (31, True), (32, False), (33, False)])
@pytest.mark.parametrize(("begin", "end"), [("1", ""), ("-1", ""), ("+1_0", ""), ("1", ".5")])
def test_the_length_of_a_number_to_the_base_of_60(colons: int, good: bool, begin: str, end: str) -> None:
    text = begin + ":1" * colons + end
    assert policy_yaml.load(f"'{text}'".encode()) == text  # quoted, it is a text
    if good:
        assert policy_yaml.load(text.encode()) == yaml.safe_load(text)
    else:
        with pytest.raises(ValueError, match="to the base of 60"):
            policy_yaml.load(text.encode())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{a: 1, a: 1}", "a"),
        ("{a: {b: 1, b: 2}}", "b"),
        ("[{c: 1, c: 1}]", "c"),
        ("{'d': 1, d: 2}", "d"),
        ("{1: 1, 1: 2}", "1"),
        ("{" + "e" * 70 + ": 1, " + "e" * 70 + ": 2}", "e" * 64),
    ],
)
def test_a_name_stands_once_in_a_map(text: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"^'{name}' is there twice"):
        policy_yaml.load(text.encode())


@pytest.mark.parametrize("text", ["[{a: 1}, {a: 1}]", "{a: {a: 1}}", "{a: 1, A: 1}", "{a: 1, b: 1}"])
def test_the_same_name_in_another_map(text: str) -> None:
    assert policy_yaml.load(text.encode()) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text", ["{[a]: 1}", "{{a: 1}: 1}", "!!python/name:os.system", "*nothing", "[", "a: 1\n---\nb: 1\n", "[&a x, &a y]"]
)
def test_what_no_policy_has(text: str) -> None:
    with pytest.raises((yaml.YAMLError, ValueError)):
        policy_yaml.load(text.encode())


LAUGHS = "a: &a [" + "x, " * 10 + "]\n"


def _laughs(levels: int) -> str:
    """Lists of ten aliases of the list before, level upon level."""
    return LAUGHS + "".join(f"{chr(98 + level)}: &{chr(98 + level)} [{(f'*{chr(97 + level)}, ') * 10}]\n" for level in range(levels))


def test_aliases_of_aliases_do_not_multiply() -> None:
    assert policy_yaml.load(_laughs(2).encode())["c"] == [[["x"] * 10] * 10] * 10
    for levels in (4, 9):
        with pytest.raises(ValueError, match="once its aliases are written out"):
            policy_yaml.load(_laughs(levels).encode())


@pytest.mark.parametrize(
    ("anchored", "size"),
    [("[x, x]", 3), ("{x: y}", 3), ("[[x], {}]", 4)],
)
def test_what_an_alias_counts(anchored: str, size: int) -> None:
    """To the event: as much as what it stands for, and itself nothing."""
    for levels in (1, 2):  # also through an alias of what holds an alias
        inner = size if levels == 1 else 1 + 2 * size
        head = f"- &a {anchored}\n" + ("- &b [*a, *a]\n" if levels == 2 else "")
        held = 1 + size + (inner if levels == 2 else 0)
        count, rest = divmod(20_000 - held, inner)
        text = head + f"- *{'ab'[levels - 1]}\n" * count
        assert len(policy_yaml.load((text + "- x\n" * rest).encode())) == levels + count + rest
        with pytest.raises(ValueError, match="once its aliases are written out"):
            policy_yaml.load((text + "- x\n" * (rest + 1)).encode())


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: [*a]}", "&a [x, {y: *a}]"])
def test_an_alias_within_itself(text: str) -> None:
    with pytest.raises(ValueError, match="stands for nothing, or within itself"):
        policy_yaml.load(text.encode())


def test_an_anchors_name_is_told_at_a_bounded_length() -> None:
    long = "n" * 65
    with pytest.raises(ValueError, match=f"^the alias '{'n' * 64}' stands for nothing"):
        policy_yaml.load(f"&{long} [*{long}]".encode())
