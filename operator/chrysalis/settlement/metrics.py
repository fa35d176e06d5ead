"""The settler's metrics, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """Counters by reason and gauges for each account; labels are names of the cluster's objects and our own reasons."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["account"]
        self.receipts = Counter("chrysalis_settlement_receipts", "receipts taken into the ledger", labels, registry=self.registry)
        self.refused = Counter(
            "chrysalis_settlement_receipts_unpaid", "receipts taken and not paid", [*labels, "reason"], registry=self.registry
        )
        self.problems = Gauge(
            "chrysalis_settlement_workers_with_problems", "workers whose last visit failed", labels, registry=self.registry
        )
        self.epoch = Gauge("chrysalis_settlement_epoch", "newest proven epoch", labels, registry=self.registry)
        self.earned = Gauge("chrysalis_settlement_earned_nanoton", "committed for workers", labels, registry=self.registry)
        self.claimed = Gauge("chrysalis_settlement_claimed_nanoton", "paid out by the contract", labels, registry=self.registry)
        self.balance = Gauge("chrysalis_settlement_balance_nanoton", "the contract's balance", labels, registry=self.registry)
        self.stopped = Gauge(
            "chrysalis_settlement_stopped", "1 while settlement needs a person", [*labels, "reason"], registry=self.registry
        )
        self.round_at = Gauge("chrysalis_settlement_round_timestamp_seconds", "when the last round ended", labels, registry=self.registry)
        self.leader = Gauge("chrysalis_settlement_leader", "1 on the replica that holds the Lease", registry=self.registry)
