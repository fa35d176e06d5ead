"""Challenges prove their own origin and age."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chrysalis.broker.nonces import SKEW_SECONDS, Nonces
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import ManualClock, unix


def test_a_nonce_lives_as_long_as_it_says(clock: ManualClock) -> None:
    nonces = Nonces(b"k" * 32, clock, 60)
    nonce, expires = nonces.make()
    assert len(nonce) == 32
    assert expires == clock.now() + timedelta(seconds=60)
    clock.advance(59)
    assert nonces.check(nonce) == expires
    clock.advance(1)
    with pytest.raises(BrokerError) as caught:
        nonces.check(nonce)
    assert caught.value.reason == BrokerReason.NONCE_EXPIRED


def test_no_two_are_alike(clock: ManualClock) -> None:
    nonces = Nonces(b"k" * 32, clock, 60)
    assert len({nonces.make()[0] for _ in range(100)}) == 100


@given(position=st.integers(0, 31), change=st.integers(1, 255))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_byte_may_change(clock: ManualClock, position: int, change: int) -> None:
    nonces = Nonces(b"k" * 32, clock, 60)
    nonce = bytearray(nonces.make()[0])
    nonce[position] ^= change
    with pytest.raises(BrokerError) as caught:
        nonces.check(bytes(nonce))
    assert caught.value.reason == BrokerReason.NONCE_INVALID


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_another_length(clock: ManualClock, length: int) -> None:
    with pytest.raises(BrokerError):
        Nonces(b"k" * 32, clock, 60).check(bytes(length))


def test_replicas_share_the_key_and_strangers_do_not(clock: ManualClock) -> None:
    nonce, _ = Nonces(b"k" * 32, clock, 60).make()
    Nonces(b"k" * 32, clock, 60).check(nonce)
    with pytest.raises(BrokerError):
        Nonces(b"x" * 32, clock, 60).check(nonce)


def test_replicas_clocks_may_differ_a_little(clock: ManualClock) -> None:
    behind = ManualClock(clock.now())
    clock.advance(SKEW_SECONDS)
    nonce, expires = Nonces(b"k" * 32, clock, 60).make()
    assert Nonces(b"k" * 32, behind, 60).check(nonce) == expires
    clock.advance(1)
    nonce, _ = Nonces(b"k" * 32, clock, 60).make()
    with pytest.raises(BrokerError) as caught:
        Nonces(b"k" * 32, behind, 60).check(nonce)
    assert caught.value.reason == BrokerReason.NONCE_EXPIRED


def test_a_spent_nonce_outlives_its_life_on_every_replica(world: Any) -> None:
    """A replica whose clock is ahead sweeps spent nonces; one whose clock is behind must still find them."""
    evidence = world.domain(world.acme).evidence()
    assert world.post("/v1/attest", evidence).status_code == 200
    end = unix(world.deps.nonces.check(bytes.fromhex(evidence.nonce)))
    ahead, behind = end + SKEW_SECONDS - 1, end - SKEW_SECONDS - 1  # the same moment
    assert world.deps.store.spend_nonce("another", ahead + 60, ahead)
    assert world.deps.store.nonce_spent(evidence.nonce, behind)
