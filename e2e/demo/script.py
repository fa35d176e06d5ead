"""The twelve steps in their order.  A step that is not built has no function, is named as such and never counted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from e2e.demo import attacks, chain, evidence, ground, hardware, install, money, serving
from e2e.demo.story import Console, Step
from e2e.demo.world import World


def steps(world: World) -> list[Step]:
    """The demo's steps, bound to one world."""

    def of(run: Callable[[World, Console], str]) -> Callable[[Console], str]:
        return partial(run, world)

    return [
        Step(1, "Prerequisites", of(ground.prerequisites)),
        Step(2, "Cluster", of(ground.cluster)),
        Step(3, "Simulated TDX", of(hardware.simulated_tdx)),
        Step(4, "TON devnet", of(chain.ton_devnet)),
        Step(5, "Images", of(ground.images)),
        Step(6, "Real evidence", evidence.real_evidence),
        Step(7, "Install, seal, apply, Ready", of(install.install)),
        Step(8, "A client that verifies", of(serving.verifying_client)),
        Step(9, "Triton is really there", of(serving.triton)),
        Step(10, "Settlement", of(money.settlement)),
        Step(11, "What must not work, does not", of(attacks.must_not_work)),
        Step(12, "Down again", of(ground.down)),
    ]
