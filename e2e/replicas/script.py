"""The scenes in their order, each as a step that can be told and tested."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from e2e.cluster.layout import instance_for
from e2e.demo import ground as demo_ground
from e2e.demo import hardware
from e2e.demo.story import Console, Step
from e2e.demo.world import World
from e2e.replicas import ground, rollback, scenes
from e2e.replicas.ground import Brokers

INSTANCE = instance_for("brokers")


def steps(world: World) -> list[Step]:
    """From nothing to nothing."""
    brokers = Brokers(world)

    def of(run: Callable[[Brokers, Console], str]) -> Callable[[Console], str]:
        return partial(run, brokers)

    def down(console: Console) -> str:
        brokers.down()
        return demo_ground.down(world, console)

    played: list[tuple[str, Callable[[Console], str]]] = [
        ("Prerequisites", partial(demo_ground.prerequisites, world)),
        ("Cluster", partial(demo_ground.cluster, world)),
        ("Simulated TDX", partial(hardware.simulated_tdx, world)),
        ("Images", partial(demo_ground.images, world)),
        ("Two brokers over PostgreSQL", of(ground.chart)),
        ("A worker", of(ground.worker)),
        ("A broker is killed mid-attestation", of(scenes.killed_mid_attestation)),
        ("The PCCS is down past half-life", of(scenes.pccs_down)),
        ("The policy is tightened", of(scenes.policy_tightened)),
        ("The database goes back behind its anchor", of(rollback.state_rolled_back)),
        ("Down again", down),
    ]
    return [Step(number, title, run) for number, (title, run) in enumerate(played, 1)]
