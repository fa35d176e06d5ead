"""The named points of steps 7 to 10 at which a process is killed, and the choice of some by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from e2e.demo.marks import Mark
from e2e.faults.processes import Victim
from e2e.faults.sight import MANY, Sight

Holds = Callable[[Sight], bool]


@dataclass(frozen=True)
class Point:
    """A moment for a kill.

    mark: the moment of the scenario from which on it is looked for.  holds: what must be true at the kill; None: the mark itself
    is the point.  before: must hold before the chain is disturbed.  lose_messages, hide_blocks: what the devnet does
    from then on until the kill, so that the point cannot be missed.
    """

    name: str
    victim: Victim
    mark: Mark
    what: str
    holds: Holds | None = None
    before: Holds | None = None
    lose_messages: bool = False
    hide_blocks: bool = False


def _rows(sight: Sight, query: str) -> bool:
    return bool(sight.ledger(query))


def _committed(epochs: int) -> Holds:
    return lambda sight: len(sight.ledger("select 1 from epochs where state = 'committed'")) >= epochs


def _signed(epoch: int) -> Holds:
    query = f"select 1 from bodies join epochs using (epoch) where epoch = {epoch} and state = 'frozen'"
    return lambda sight: _rows(sight, query)


def _settler(epoch: int) -> list[Point]:
    """The settler's points in the life of one epoch."""
    uncovered = "select 1 from receipts where position >= (select coalesce(max(log_size), 0) from epochs where state = 'committed')"
    signed = _signed(epoch)

    def received(sight: Sight) -> bool:
        return _rows(sight, uncovered) and not _committed(epoch)(sight)

    def lost(sight: Sight) -> bool:
        return signed(sight) and int(sight.chain()["faults"]["drop_externals"]) < MANY

    def included(sight: Sight) -> bool:
        return signed(sight) and int(sight.chain()["unlisted"]) > 0

    def point(name: str, what: str, holds: Holds, *, lose_messages: bool = False, hide_blocks: bool = False) -> Point:
        return Point(
            f"settler.{name}-{epoch}",
            Victim.SETTLER,
            Mark.KEY_STORED,
            what,
            holds,
            _committed(epoch - 1) if lose_messages or hide_blocks else None,
            lose_messages,
            hide_blocks,
        )

    return [
        point("received", f"receipts are in the ledger, epoch {epoch} is not committed", received, lose_messages=True),
        point("signed", f"the signed commit of epoch {epoch} is persisted, and never reaches the chain", signed, lose_messages=True),
        point("lost", f"the commit of epoch {epoch} was sent, and the network forgot it", lost, lose_messages=True),
        point("included", f"the chain took epoch {epoch}, and no proof of it was seen", included, hide_blocks=True),
        point("booked", f"epoch {epoch} is booked as committed; files and status may lag", _committed(epoch)),
    ]


def _children(sight: Sight) -> bool:
    return bool(sight.pods())


def _gate_open(sight: Sight) -> bool:
    return any(not pod["spec"].get("schedulingGates") for pod in sight.pods())


def _attested(sight: Sight) -> bool:
    return sight.conditions("cw").get("Attested", ("", ""))[0] == "True"


def _unreleased(sight: Sight) -> bool:
    """A result is accepted and its key not released."""
    return bool(sight.broker("select 1 from results where verdict = 'Accepted' and released_at is null"))


POINTS: tuple[Point, ...] = (
    Point("operator.children", Victim.OPERATOR, Mark.KEY_STORED, "the first pod exists", _children),
    Point("operator.gate", Victim.OPERATOR, Mark.KEY_STORED, "the first gate was opened", _gate_open),
    Point("operator.attested", Victim.OPERATOR, Mark.KEY_STORED, "Attested has turned True", _attested),
    Point("operator.jobs", Victim.OPERATOR, Mark.HALF_OF_THE_JOBS, "jobs run"),
    Point("operator.canary", Victim.OPERATOR, Mark.CANARY_FAILED, "a replica has just become unready"),
    Point("broker.key", Victim.BROKER, Mark.KEY_STORED, "it has just answered that the model's key is stored"),
    Point("broker.attest", Victim.BROKER, Mark.KEY_STORED, "evidence was accepted, the key not yet released", _unreleased),
    Point("broker.jobs", Victim.BROKER, Mark.HALF_OF_THE_JOBS, "jobs run"),
    Point("broker.stub", Victim.BROKER, Mark.STUB_KILLED, "Triton's stub is dead"),
    Point("broker.committed", Victim.BROKER, Mark.COMMITTED, "all receipts are committed, nothing is claimed"),
    *_settler(1),
    *_settler(2),
    Point("settler.jobs", Victim.SETTLER, Mark.HALF_OF_THE_JOBS, "jobs run"),
    Point("settler.committed", Victim.SETTLER, Mark.COMMITTED, "all receipts are committed, nothing is claimed"),
)


def draw(seed: int) -> list[Point]:
    """One point for each of the three processes; the same ones for the same seed."""
    chance = random.Random(seed)
    return [chance.choice(points_of(victim)) for victim in Victim]


def rounds() -> list[list[Point]]:
    """Every point at least once, in as few runs as there are points of the process that has most."""
    most = max(len(points_of(victim)) for victim in Victim)
    return [[points_of(victim)[number % len(points_of(victim))] for victim in Victim] for number in range(most)]


def points_of(victim: Victim) -> Sequence[Point]:
    """The points of one process, in the order of the scenario."""
    return [point for point in POINTS if point.victim == victim]
