"""Prometheus metrics of the controller; labels are bounded except where they name workers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One registry for one controller."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter("chrysalis_operator_reconciles", "Reconciliations.", ["kind", "outcome"], registry=self.registry)
        self.seconds = Histogram("chrysalis_operator_reconcile_seconds", "Duration of a reconciliation.", registry=self.registry)
        self.gates_opened = Counter("chrysalis_operator_gates_opened", "Scheduling gates opened.", registry=self.registry)
        self.announced = Counter("chrysalis_operator_events", "Events written, by reason.", ["type", "reason"], registry=self.registry)
        self.queue = Gauge("chrysalis_operator_queue_length", "Keys that wait for work.", registry=self.registry)
        self.leading = Gauge("chrysalis_operator_leading", "1 while this replica leads.", registry=self.registry)
        self.broker_up = Gauge("chrysalis_operator_broker_up", "1 while the broker answers.", registry=self.registry)
        self.ready = Gauge("chrysalis_operator_worker_ready_replicas", "Ready replicas.", ["namespace", "worker"], registry=self.registry)
        self.expires = Gauge(
            "chrysalis_operator_result_expires_timestamp_seconds",
            "When the first live attestation result of a worker ends, Unix time; 0 without one.",
            ["namespace", "worker"],
            registry=self.registry,
        )

    def forget(self, namespace: str, worker: str) -> None:
        """Drop the series of a worker that is gone."""
        for gauge in (self.ready, self.expires):
            try:
                gauge.remove(namespace, worker)
            except KeyError:
                pass
