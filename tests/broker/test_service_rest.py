"""A service that is silent is left alone, and asked once before everybody asks again."""

from __future__ import annotations

import pytest

from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.broker.service_rest import ServiceRest
from chrysalis.clock import ManualClock


def test_after_a_rest_one_asks_and_the_others_wait_for_what_comes_of_it(clock: ManualClock) -> None:
    rest = ServiceRest("a service", clock)
    rest.begin()
    rest.begin()  # nothing is known against it
    rest.ended(silent=True)
    with pytest.raises(GpuError, match="a service gave no usable answer"):
        rest.check()
    clock.advance(3)
    rest.begin()
    with pytest.raises(GpuError):
        rest.begin()
    rest.ended(silent=True)
    clock.advance(3)  # the second rest is longer
    with pytest.raises(GpuError):
        rest.begin()
    clock.advance(3)
    rest.begin()
    rest.ended(silent=False)
    rest.begin()
