"""What the daemon counts about itself, in Prometheus' terms."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from moorage.server.engine.job import Job

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)


class Metrics:
    """One registry a daemon; served by `main` when the configuration asks for it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._running = Gauge("moorage_jobs_running", "Jobs running now.", ["verb"], registry=self.registry)
        self._jobs = Histogram(
            "moorage_job_seconds",
            "Duration of jobs by verb and how they ended.",
            ["verb", "status"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "moorage_job_stage_seconds",
            "Time of jobs in each stage.",
            ["verb", "stage"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._rpcs = Counter(
            "moorage_rpcs_total", "RPCs by method and gRPC status.", ["method", "code"], registry=self.registry
        )

    def job_started(self, job: Job) -> None:
        """A job left the queue."""
        self._running.labels(job.verb).inc()

    def job_ended(self, job: Job) -> None:
        """A job that had started has ended."""
        self._running.labels(job.verb).dec()
        self._jobs.labels(job.verb, job.state.value).observe(job.duration_ns / 1e9)
        for stage in job.stages:
            self._stages.labels(job.verb, stage.name).observe(stage.duration / 1e9)

    def rpc(self, method: str, code: str) -> None:
        """An RPC was answered."""
        self._rpcs.labels(method, code).inc()
