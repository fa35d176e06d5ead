"""What the HTTP edge is given: everything that `main` or a test has assembled."""

from __future__ import annotations

from dataclasses import dataclass, field

from anyio import CapacityLimiter

from chrysalis.broker.anchors import State
from chrysalis.broker.attestor import Attestor
from chrysalis.broker.audit_check import AuditCheck
from chrysalis.broker.callers import Callers
from chrysalis.broker.certificates import ClientCertificates
from chrysalis.broker.collateral import CollateralCache
from chrysalis.broker.ear_keys import EarKeys
from chrysalis.broker.gpu_services import BrokersGpuServices
from chrysalis.broker.limits import Limits
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.nonces import Nonces
from chrysalis.broker.own_evidence import OwnEvidence
from chrysalis.broker.reappraisal import Reappraiser
from chrysalis.broker.records import OwnersRecords
from chrysalis.broker.reference_values import References
from chrysalis.broker.release import Results
from chrysalis.broker.settings import Settings
from chrysalis.broker.simulation import Simulation
from chrysalis.broker.state_keys import StateKeys
from chrysalis.broker.store import Store
from chrysalis.clock import Clock

CHECKS = 8
"""Callers that are checked at once.  A check may wait for another service; it shall not hold the threads that judge evidence."""
KEY_CALLS = 24
"""Requests at once that need the key service, which may be slow: they shall not hold the threads that everybody shares."""
OWN_TASKS = 3
"""A thread for each thing that the broker does by itself (chrysalis.broker.app): no flood of requests makes a re-appraisal wait."""


@dataclass
class Heartbeat:
    """When the event loop last proved that it runs (monotonic seconds); 0 before the first time."""

    at: float = 0.0


@dataclass
class Ending:
    """Whether the process has been told to end: it finishes what it is answering, and takes no more."""

    begun: bool = False

    def begin(self) -> None:
        """From now on."""
        self.begun = True


@dataclass(frozen=True, kw_only=True)
class Deps:
    """Everything that the application needs."""

    settings: Settings
    clock: Clock
    keys: StateKeys
    ear_keys: EarKeys
    store: Store
    nonces: Nonces
    attestor: Attestor
    results: Results
    records: OwnersRecords
    references: References
    own_evidence: OwnEvidence
    callers: Callers
    certificates: ClientCertificates
    collateral: CollateralCache
    gpu_services: BrokersGpuServices
    reappraiser: Reappraiser
    simulation: Simulation
    metrics: Metrics
    audit_check: AuditCheck
    noted: State | None
    """What the anchor held when the broker had started; None without an anchor."""
    checks: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(CHECKS))
    key_calls: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(KEY_CALLS))
    own_tasks: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(OWN_TASKS))
    limits: Limits = field(init=False)
    beat: Heartbeat = field(default_factory=Heartbeat)
    ending: Ending = field(default_factory=Ending)

    def __post_init__(self) -> None:
        # frozen: the one member that is made of others
        object.__setattr__(self, "limits", Limits(self.settings.limits, self.settings.max_concurrent_attestations, self.clock))
