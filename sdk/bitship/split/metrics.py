"""What a server counts, for Prometheus; read over HTTP on loopback."""

from typing import Any

from bitship.extras import require
from bitship.split.security import is_loopback

STAGES = ("queue", "decode", "inference", "encode")
_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_BYTES = (32, 64, 128, 256, 512, 1024, 4096, 16384, 65536)


class Metrics:
    """Counters and histograms in a registry of their own."""

    def __init__(self) -> None:
        p = require("prometheus_client", "split", "a server's metrics")
        self._library = p
        self.registry = p.CollectorRegistry()
        r = {"registry": self.registry}
        self._requests = p.Counter("bitship_split_requests", "Requests by outcome", ["outcome"], **r)
        self._stages = p.Histogram("bitship_split_stage_seconds", "Seconds by stage", ["stage"], buckets=_SECONDS, **r)
        self._batches = p.Histogram("bitship_split_batch_size", "Inputs of a batch", buckets=_SIZES, **r)
        self._runs = p.Histogram("bitship_split_batch_seconds", "Seconds of a batch", buckets=_SECONDS, **r)
        self._bytes = p.Histogram("bitship_split_frame_bytes", "Bytes of a request's frame", buckets=_BYTES, **r)
        self._waiting = p.Gauge("bitship_split_waiting", "Requests that wait", **r)
        self._outcomes: dict[str, int] = {}

    def answered(self, nbytes: int, seconds: dict[str, float]) -> None:
        """Count a request that was answered."""
        self._count("answered")
        self._bytes.observe(nbytes)
        for stage in STAGES:
            self._stages.labels(stage).observe(seconds[stage])

    def refused(self, name: str) -> None:
        """Count a request that was refused, by the refusal's name."""
        self._count(name)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch that was run."""
        self._batches.observe(size)
        self._runs.observe(seconds)

    def waits(self, count: int) -> None:
        """Say how many requests wait now."""
        self._waiting.set(count)

    def outcomes(self) -> dict[str, int]:
        """Return how many requests ended how."""
        return dict(self._outcomes)

    def serve(self, port: int, host: str = "127.0.0.1") -> Any:
        """Serve the registry over HTTP on loopback; returns what has ``shutdown`` and ``server_port``."""
        assert is_loopback(host)
        server, _thread = self._library.start_http_server(port, addr=host, registry=self.registry)
        return server

    def _count(self, outcome: str) -> None:
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self._requests.labels(outcome).inc()
