"""Money is exact: parsing, bounds and the one division."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis import amounts


@given(st.integers(min_value=0, max_value=amounts.LIMIT - 1))
def test_the_wire_form_comes_back(value: int) -> None:
    assert amounts.parse(str(value)) == value


@pytest.mark.parametrize("text", ["", "-1", "+1", "01", " 1", "1 ", "1.0", "1e3", "٣", str(1 << 63), "9" * 100, None, 5, True])
def test_what_is_not_an_amount_is_refused(text: object) -> None:
    with pytest.raises(amounts.AmountError):
        amounts.parse(text)


@given(st.integers(min_value=0, max_value=amounts.LIMIT), st.integers(min_value=1, max_value=amounts.LIMIT))
def test_division_rounds_down(numerator: int, denominator: int) -> None:
    quotient = amounts.div(numerator, denominator)
    assert quotient * denominator <= numerator < (quotient + 1) * denominator


@pytest.mark.parametrize(("numerator", "denominator"), [(-1, 1), (1, 0), (1, -1)])
def test_division_refuses_what_has_no_meaning(numerator: int, denominator: int) -> None:
    with pytest.raises(amounts.AmountError):
        amounts.div(numerator, denominator)


@pytest.mark.parametrize(("value", "text"), [(0, "0 TON"), (1, "0.000000001 TON"), (1_500_000_000, "1.5 TON"), (10**9, "1 TON")])
def test_amounts_read_well(value: int, text: str) -> None:
    assert amounts.ton(value) == text
