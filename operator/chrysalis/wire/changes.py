"""Messages about results that change, and about what a policy would change: watch and simulate."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from chrysalis.api.base import DnsLabel, Model
from chrysalis.wire.broker import NamedReason, ResultView, Versioned


class ResultChanges(Versioned):
    """GET /v1/results?wait=SECONDS&after=NUMBER: results that were issued, released or revoked after that change.

    Each stands there once, as it is now, in the order of its last change.  next: the `after` of the next request; where there
    were more changes than `limit`, the rest follows there at once.  That a result expires is no change: it says when it does.
    """

    results: list[ResultView]
    next: Annotated[int, Field(ge=0)]


class SimulatedChange(Model):
    """A worker whose admission a policy would change.

    resultId: the result that was judged again.  when: Immediately, as soon as the policy is stored; AtExpiry, when the result
    ends (at), because a renewal would be refused then.  reasons: every reason of the refusal; empty for who would gain.
    """

    result_id: str
    namespace: str
    worker_name: str
    pod_name: str
    pod_uid: str
    when: Literal["Immediately", "AtExpiry"]
    at: datetime
    reasons: list[NamedReason] = []


class PolicySimulation(Versioned):
    """POST /v1/policies/{name}:simulate: what would come of a policy that is not stored.

    judged: how many living results and refused attempts were judged again; complete: whether those are all.
    keeping: how many stay accepted.  losing, gaining: who would change.  unjudged: results that could not be judged, because
    the collateral of their platform is not at hand.
    """

    policy_name: DnsLabel
    policy_version: int
    stored_version: int  # 0 when there is none; a policy is stored only with a higher one
    at: datetime
    judged: int
    complete: bool
    keeping: int
    losing: list[SimulatedChange] = []
    gaining: list[SimulatedChange] = []
    unjudged: list[str] = []
