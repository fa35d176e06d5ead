"""The broker's Prometheus metrics; labels are bounded: reasons, outcomes and nothing that a stranger chooses."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One process's metrics in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.attestations = Counter(
            "chrysalis_broker_attestations_total",
            "Attempts to attest, by verdict and first reason",
            ["verdict", "reason"],
            registry=self.registry,
        )
        self.attestation_seconds = Histogram(
            "chrysalis_broker_attestation_seconds", "Time to judge an attempt, collateral included", registry=self.registry
        )
        self.releases = Counter(
            "chrysalis_broker_key_releases_total", "Requests for a model key, by outcome", ["outcome", "reason"], registry=self.registry
        )
        self.collateral_fetches = Counter(
            "chrysalis_broker_collateral_fetches_total", "Requests for collateral, by outcome", ["outcome"], registry=self.registry
        )
        self.collateral_expiry = Gauge(
            "chrysalis_broker_collateral_expiry_timestamp_seconds",
            "When a stored document of the collateral ends",
            ["document", "name", "root"],
            registry=self.registry,
        )
        self.collateral_age = Gauge(
            "chrysalis_broker_collateral_age_seconds",
            "Time since a source confirmed a stored document of the collateral",
            ["document", "name", "root"],
            registry=self.registry,
        )
        self.collateral_failures = Counter(
            "chrysalis_broker_collateral_failures_total",
            "Documents of the collateral that could not be had or were not taken",
            ["document", "reason"],
            registry=self.registry,
        )
        self.gpu_service_requests = Counter(
            "chrysalis_broker_gpu_service_requests_total",
            "Requests to NVIDIA's attestation service and OCSP responder, by outcome",
            ["service", "outcome"],
            registry=self.registry,
        )
        self.requests = Counter(
            "chrysalis_broker_requests_total", "HTTP requests, by operation and status", ["operation", "status"], registry=self.registry
        )
        self.revocations = Counter(
            "chrysalis_broker_revocations_total",
            "Results that re-appraisal revoked, by its cause and the first reason",
            ["cause", "reason"],
            registry=self.registry,
        )
