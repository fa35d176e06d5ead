"""JSON without hidden members: json.loads and nothing else, except where a name stands twice or a number is not whole."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chrysalis import strict_json
from chrysalis.api.policy import SignedPolicy
from chrysalis.attestation import envelope
from chrysalis.receipts import jws
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.strict_json import MemberTwice, NotWhole
from chrysalis.wire.bundle import BundleFile
from chrysalis.wire.reasons import WireError

NUMBERS = st.integers() | st.floats(allow_nan=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30
)
DEEP = "[" * 200_000


@given(VALUES, st.booleans())
def test_where_no_name_stands_twice_it_is_what_json_loads_gives(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert strict_json.loads(text) == json.loads(text) == value
    assert strict_json.loads(text.encode("utf-8", "surrogatepass")) == value


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers()), max_size=6))
@example([("a", 1), ("b", 2), ("b", 3), ("a", 4)])
def test_the_first_name_that_comes_back_is_told(pairs: list[tuple[str, int]]) -> None:
    text = '{"x": [{' + ", ".join(f'"{name}": {number}' for name, number in pairs) + "}]}"
    names = [name for name, _ in pairs]
    again = [name for place, name in enumerate(names) if name in names[:place]]
    if not again:
        assert strict_json.loads(text) == {"x": [dict(pairs)]}
        return
    with pytest.raises(MemberTwice) as caught:
        strict_json.loads(text)
    assert caught.value.name == again[0]


TWICE: list[tuple[str, str, str, str]] = [
    # where, wrong, its twin, the name that is told
    ("at the top", '{"a": 1, "a": 2}', '{"a": 1, "b": 2}', "a"),
    ("the same value", '{"a": 1, "a": 1}', '{"a": 1, "b": 1}', "a"),
    ("not side by side", '{"a": 1, "b": 2, "a": 3}', '{"a": 1, "b": 2, "c": 3}', "a"),
    ("within an object", '{"o": {"a": 1, "a": 2}}', '{"o": {"a": 1}, "a": 2}', "a"),
    ("within a list", '[{"a": 1, "a": 2}]', '[{"a": 1}, {"a": 2}]', "a"),
    ("once with an escape", '{"a": 1, "\\u0061": 2}', '{"a": 1, "\\u0062": 2}', "a"),
    ("the empty name", '{"": 1, "": 2}', '{"": 1, " ": 2}', ""),
    ("a long name", f'{{"{"n" * 999}": 1, "{"n" * 999}": 2}}', f'{{"{"n" * 999}": 1, "{"n" * 998}": 2}}', "n" * strict_json.MOST_OF_NAME),
    ("half a character", '{"\\ud800": 1, "\\ud800": 2}', '{"\\ud800": 1, "\\ud801": 2}', "\ud800"),
    ("an outer one", '{"o": {"a": 1}, "o": 2}', '{"o": {"o": 1}}', "o"),
]


@pytest.mark.parametrize(("where", "wrong", "right", "name"), TWICE, ids=[row[0] for row in TWICE])
@pytest.mark.parametrize("whole", [False, True])
def test_a_member_that_stands_twice(where: str, wrong: str, right: str, name: str, whole: bool) -> None:
    assert strict_json.loads(right, whole=whole) == json.loads(right)
    with pytest.raises(MemberTwice) as caught:
        strict_json.loads(wrong, whole=whole)
    assert caught.value.name == name
    assert str(caught.value) == f"the member {name!r} stands twice in one object"


def test_many_members_are_no_more_work_for_each() -> None:
    many = {f"n{number}": number for number in range(200_000)}
    text = json.dumps(many)
    assert strict_json.loads(text) == many
    with pytest.raises(MemberTwice, match="'n199999'"):
        strict_json.loads(text[:-1] + ', "n199999": 0}')


@pytest.mark.parametrize("number", ["1.0", "-0.5", "1e3", "1E-3", "NaN", "Infinity", "-Infinity", "9" * 100 + ".5"])
@pytest.mark.parametrize("form", ["%s", "[%s]", '{"a": {"b": %s}}'])
def test_numbers_that_are_not_whole(number: str, form: str) -> None:
    assert strict_json.loads(form % "1", whole=True) == json.loads(form % "1")
    strict_json.loads(form % number)  # the twin: they are read where nobody asks for whole ones
    with pytest.raises(NotWhole) as caught:
        strict_json.loads(form % number, whole=True)
    assert str(caught.value) == f"{number[:32]} is not a whole number"


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", '{"a"}', "nul", '"\n"', "1 2", "'a'", b"\xff\xfe\xfa", "1" * 5000])
@pytest.mark.parametrize("whole", [False, True])
def test_what_is_no_json_is_refused_as_json_loads_does(text: str | bytes, whole: bool) -> None:
    expected = refusal(json.loads, text)
    caught = refusal(lambda text: strict_json.loads(text, whole=whole), text)
    assert (type(caught), str(caught)) == (type(expected), str(expected))


@pytest.mark.parametrize("whole", [False, True])
def test_depth_is_for_the_reader_to_judge(whole: bool) -> None:
    with pytest.raises(RecursionError):
        strict_json.loads(DEEP, whole=whole)


def refusal(read: Callable[[Any], object], text: str | bytes) -> Exception:
    """What a reader says; of these kinds alone."""
    try:
        read(text)
    except (ValueError, ReceiptError, WireError) as error:
        return error
    raise AssertionError("it was read")


def token(payload: str) -> str:
    header = jws.b64u(b'{"alg":"EdDSA","kid":"k","typ":"t"}')
    return f"{header}.{jws.b64u(payload.encode())}.AA"


READERS: list[tuple[str, Callable[[str], object], type[Exception], str, str]] = [
    # reader, its error, what it says of a member that stands twice, and of too deep a text
    ("agents' JSON", envelope.parsed, envelope.Ambiguous, "it names 'a' twice", "it has more than"),
    (
        "a signed policy",
        lambda text: SignedPolicy.of_payload(text.encode()),
        ValueError,
        "the member 'a' stands twice in one object",
        "the JSON is nested too deeply",
    ),
    ("a token", lambda text: jws.peek(token(text)), ReceiptError, "payload: a member stands twice", "payload: maximum recursion depth"),
    ("a bundle", lambda text: BundleFile.read(text.encode()), WireError, "a member stands there twice", "it has more than 20000 objects"),
]


@pytest.mark.parametrize(("reader", "read", "kind", "twice", "deep"), READERS, ids=[row[0] for row in READERS])
def test_each_reader_refuses_in_its_own_words(
    reader: str, read: Callable[[str], object], kind: type[Exception], twice: str, deep: str
) -> None:
    error = refusal(read, '{"a": 1, "b": {"a": 1, "a": 2}}')
    assert isinstance(error, kind)
    assert twice in (str(error), getattr(error, "detail", ""))
    error = refusal(read, DEEP)
    assert isinstance(error, kind)
    assert (getattr(error, "detail", "") or str(error)).startswith(deep)


@pytest.mark.parametrize(
    ("text", "twice"), [(b'{"a":1}', False), (b'[{"a":1,"a":1}]', True), (b"{", False), (b"[" * 100_000, False), (b"\xff", False)]
)
def test_each_once_says_nothing_of_what_is_no_json(text: bytes, twice: bool) -> None:
    with pytest.raises(strict_json.MemberTwice) if twice else contextlib.nullcontext():
        strict_json.each_once(text)
