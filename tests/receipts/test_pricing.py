"""Money of one job: exact, bounded, rounded down once."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.amounts import LIMIT, PRICE_LIMIT, AmountError
from chrysalis.api.worker import Prices
from chrysalis.receipts import pricing
from chrysalis.receipts.objects import PriceList, Status, Use

counts = st.integers(0, LIMIT - 1)
prices = st.integers(0, PRICE_LIMIT - 1)
KINDS = pricing.KINDS


@given(st.tuples(*[counts] * 5), st.tuples(*[prices] * 5), st.integers(0, LIMIT - 1))
def test_the_amount_is_the_exact_price_rounded_down_once_and_capped(c: tuple[int, ...], p: tuple[int, ...], maximum: int) -> None:
    exact = sum(Fraction(a * b, pricing.PER) for a, b in zip(c, p, strict=True))
    got = pricing.amount(Use(**dict(zip(KINDS, c, strict=True))), PriceList(**dict(zip(KINDS, p, strict=True))), maximum)
    assert got == min(maximum, exact.__floor__())


@given(st.integers(0, LIMIT - 1), st.integers(0, 10_000))
def test_fee_and_net_are_the_whole_amount_and_the_fee_never_exceeds_its_share(amt: int, bps: int) -> None:
    fee, net = pricing.fee(amt, bps), pricing.net(amt, bps)
    assert fee + net == amt
    assert fee * 10_000 <= amt * bps < (fee + 1) * 10_000


def test_configured_prices_are_the_offers_prices() -> None:
    configured = Prices(prompt=3, cached=1, completion=9, reasoning=2, job=5)
    assert PriceList.of(configured).model_dump() == {k: str(v) for k, v in configured.model_dump().items()}
    use = Use(prompt=1_000_000, completion=500_000)
    assert pricing.amount(use, configured, 10**9) == pricing.amount(use, PriceList.of(configured), 10**9) == 3 + 4


def test_a_failed_job_bills_nothing_and_the_others_what_they_used() -> None:
    use, price = Use(job=1), PriceList(job=5_000_000)
    assert {s: pricing.billed(s, use, price, 100) for s in Status} == {
        Status.DONE: 5,
        Status.CANCELLED: 5,
        Status.EXHAUSTED: 5,
        Status.FAILED: 0,
    }


@pytest.mark.parametrize(("amt", "bps"), [(-1, 0), (LIMIT, 0), (1, -1), (1, 10_001)])
def test_fees_outside_their_range_are_refused(amt: int, bps: int) -> None:
    with pytest.raises(AmountError):
        pricing.fee(amt, bps)
