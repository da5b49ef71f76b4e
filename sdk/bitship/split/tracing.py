"""Spans of a request - queue, decode, inference, encode - where OpenTelemetry is installed; nothing where it is not."""

import importlib
import time
from pathlib import Path
from typing import Any

from bitship.extras import require

REQUEST = "bitship.split.request"


class Tracing:
    """Makes spans after the fact, of seconds that were measured anyway.

    provider  an OpenTelemetry tracer provider; None for the process's own, if the package is there
    """

    def __init__(self, provider: Any = None) -> None:
        self._tracer: Any = None
        try:
            self._api = importlib.import_module("opentelemetry.trace")
        except ImportError:
            return
        self._tracer = (provider or self._api.get_tracer_provider()).get_tracer("bitship.split")

    def request(self, seconds: dict[str, float], attributes: dict[str, int | str]) -> None:
        """Record a request whose stages, in order, took ``seconds`` and which ends now."""
        if self._tracer is None:
            return
        end = time.time_ns()
        at = end - round(sum(seconds.values()) * 1e9)
        root = self._tracer.start_span(REQUEST, start_time=at, attributes=attributes)
        context = self._api.set_span_in_context(root)
        for stage, length in seconds.items():
            span = self._tracer.start_span(stage, context=context, start_time=at)
            at += round(length * 1e9)
            span.end(end_time=at)
        root.end(end_time=end)


def to_file(path: Path) -> tuple[Any, Any]:
    """Return a provider that writes spans into a file as JSON, and what flushes and closes it."""
    sdk = require("opentelemetry.sdk.trace", "split", "traces")
    export = require("opentelemetry.sdk.trace.export", "split", "traces")
    file = path.open("a")
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.BatchSpanProcessor(export.ConsoleSpanExporter(out=file)))

    def close() -> None:
        provider.shutdown()
        file.close()

    return provider, close
