"""When documents are asked for again: bounds that hold for every input."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chrysalis.broker import collateral_schedule as schedule
from chrysalis.broker.collateral_schedule import Allowance, after_failure, after_success

SPREAD = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 1 << 33), st.integers(-(1 << 33), 1 << 33), SPREAD)
def test_half_of_the_life_is_left(now: int, life: int, spread: float) -> None:
    wait = after_success(now, now + life, spread) - now
    assert wait >= schedule.SHORTEST_SECONDS
    assert wait <= max(0.6 * life + 1, schedule.SHORTEST_SECONDS)
    if life > 1000:
        assert wait >= 0.4 * life - 1


@given(st.integers(1, 10_000), SPREAD, st.booleans(), st.booleans())
def test_waits_after_failures_are_bounded(failures: int, spread: float, held: bool, unknown: bool) -> None:
    wait = after_failure(0, failures, spread, held=held, unknown=unknown)
    longest = schedule.HELD_RETRY_SECONDS if held else schedule.UNKNOWN_RETRY_SECONDS if unknown else schedule.MISSING_RETRY_SECONDS
    assert 0.8 * schedule.FIRST_RETRY_SECONDS - 1 <= wait <= longest
    assert wait <= after_failure(0, failures + 1, spread, held=held, unknown=unknown)


def test_a_missing_document_is_asked_for_more_often_than_a_held_one() -> None:
    assert after_failure(0, 99, 0.0, held=False) == 300
    assert after_failure(0, 99, 0.0, held=True) == 3600
    assert after_failure(0, 1, 0.0, held=True) == after_failure(0, 1, 0.0, held=False) == 30
    assert after_failure(0, 1, 0.0, held=False, unknown=True) == 900


@given(st.lists(st.floats(0, 30), max_size=200))
def test_an_allowance_is_kept(pauses: list[float]) -> None:
    now, allowance, taken = 100.0, Allowance(3, 6, 100.0), 0
    for pause in pauses:
        now += pause
        taken += allowance.take(now)
    assert taken <= 3 + (now - 100.0) * 6 / 60 + 1e-6


def test_an_allowance_grows_back_to_its_burst() -> None:
    allowance = Allowance(2, 60, 0.0)
    assert [allowance.take(0.0) for _ in range(3)] == [True, True, False]
    assert [allowance.take(1.0) for _ in range(2)] == [True, False]
    assert [allowance.take(100.0) for _ in range(3)] == [True, True, False]
