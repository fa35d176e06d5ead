"""The worker's Prometheus metrics; labels are bounded (reasons and statuses)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One registry for each worker, so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter("chrysalis_worker_jobs_total", "Jobs by how they ended", ["status"], registry=self.registry)
        self.refused = Counter("chrysalis_worker_requests_refused_total", "Requests refused, by reason", ["reason"], registry=self.registry)
        self.tokens = Counter("chrysalis_worker_prompt_tokens_total", "Input tokens of jobs that were done", registry=self.registry)
        self.billed = Counter("chrysalis_worker_billed_nanoton_total", "Sum of the receipts' amounts", registry=self.registry)
        self.job_seconds = Histogram(
            "chrysalis_worker_job_seconds",
            "From the whole request to its receipt",
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60),
            registry=self.registry,
        )
        self.attestations = Counter(
            "chrysalis_worker_attestations_total", "Attestations, by outcome or reason", ["outcome"], registry=self.registry
        )
        self.results_ended = Counter(
            "chrysalis_worker_results_ended_total", "Results that ended before their time, as the broker said", registry=self.registry
        )
        self.result_expiry = Gauge(
            "chrysalis_worker_result_expiry_seconds", "Unix time at which the attestation result ends", registry=self.registry
        )
        self.ready = Gauge("chrysalis_worker_ready", "1 while jobs are taken", registry=self.registry)
        self.canary_failures = Counter("chrysalis_worker_canary_failures_total", "Canaries that failed", registry=self.registry)
        self.triton_restarts = Counter("chrysalis_worker_triton_restarts_total", "Restarts of Triton", registry=self.registry)
        self.gpus_ready = Gauge("chrysalis_worker_gpus_ready", "1 while the driver lets the GPUs take work", registry=self.registry)
        self.gpu_ready_changes = Counter(
            "chrysalis_worker_gpu_ready_changes_total",
            "Changes of the GPUs' ready state, by what it became",
            ["state"],
            registry=self.registry,
        )

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
