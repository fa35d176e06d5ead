"""Epoch contents: a pure function of a prefix of the log; money adds up, whatever the receipts are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.amounts import LIMIT, AmountError
from chrysalis.chain import contract
from chrysalis.settlement import epochs

lines = st.lists(
    st.builds(
        epochs.Line,
        hash=st.binary(min_size=32, max_size=32),
        wallet=st.sampled_from([bytes([n]) * 32 for n in range(1, 5)]),
        fee_nanoton=st.integers(0, 10**15),
        net_nanoton=st.integers(0, 10**15),
    ),
    max_size=30,
)


@given(lines)
def test_nothing_is_lost_and_no_leaf_is_zero(some: list[epochs.Line]) -> None:
    sums = epochs.totals(some)
    assert sums.earned_nanoton == sum(line.net_nanoton for line in some)
    assert sums.all_fees_nanoton == sum(line.fee_nanoton for line in some)
    assert 0 not in sums.leaves.values()
    content = epochs.content(1, bytes(32), sums, [line.hash for line in some])
    assert contract.earned_leaves(contract.earned_cell(sums.leaves)) == dict(sums.leaves)
    assert contract.CommitContent.from_boc(content.to_boc()) == content


@given(lines, st.integers(0, 10**16))
def test_a_longer_prefix_never_lowers_a_leaf_and_the_cap_is_kept(some: list[epochs.Line], cap: int) -> None:
    done = len(some) // 2
    size = epochs.within_cap(some, done, cap)
    assert done <= size <= len(some)
    before, after = epochs.totals(some[:done]), epochs.totals(some[:size])
    assert all(after.leaves[w] >= v for w, v in before.leaves.items())
    rise = after.earned_nanoton + after.all_fees_nanoton - before.earned_nanoton - before.all_fees_nanoton
    assert rise <= cap
    if size < len(some):
        assert rise + some[size].net_nanoton + some[size].fee_nanoton > cap


@given(lines)
def test_the_same_prefix_gives_the_same_bytes(some: list[epochs.Line]) -> None:
    entries = [line.hash for line in some]
    assert (
        epochs.content(3, b"p" * 32, epochs.totals(some), entries).hash
        == epochs.content(3, b"p" * 32, epochs.totals(list(some)), entries).hash
    )


def test_totals_stay_below_the_limit() -> None:
    half = epochs.Line(bytes(32), b"w" * 32, 0, LIMIT // 2)
    assert epochs.totals([half]).earned_nanoton == LIMIT // 2
    with pytest.raises(AmountError):
        epochs.totals([half, half])
