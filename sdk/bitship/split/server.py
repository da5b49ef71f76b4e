"""The server of a tail: a grpc servicer of the Open Inference Protocol v2 (docs/split.md, The server)."""

import asyncio
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bitship.errors import DeviceError
from bitship.extras import require
from bitship.split.frame import Refusal, RefusedError
from bitship.split.metrics import Metrics
from bitship.split.oip import service
from bitship.split.oip.service import METHODS, SERVICE
from bitship.split.security import Security, check_exposure
from bitship.split.servicer import MAX_MESSAGE_BYTES, Servicer
from bitship.split.tails import Tail
from bitship.split.tracing import Tracing
from bitship.split.wire import Wire

_SWITCH_S = 0.0005  # a tail that is done is not to wait long for the interpreter while requests come in


@dataclass(frozen=True)
class ServerOptions:
    """How a server behaves.

    port       0: any free one; batch, wait_ms  most inputs of a batch, and how long the first of them waits for others
    queue      requests that may wait; grace_s  how long a drain waits for what was accepted
    security   required beyond loopback
    """

    host: str = "127.0.0.1"
    port: int = 0
    batch: int = 8
    wait_ms: float = 2.0
    queue: int = 64
    grace_s: float = 5.0
    security: Security | None = None


class SplitServer:
    """Serves one package's tail. ``start`` and ``stop`` in an event loop; ``run`` until a signal."""

    def __init__(
        self, wire: Wire, tail: Tail, options: ServerOptions, metrics: Metrics, tracing: Tracing | None = None
    ) -> None:
        check_exposure(options.host, options.security)
        self.wire, self.options, self.metrics = wire, options, metrics
        self.servicer = Servicer(
            wire, tail, options.batch, options.wait_ms / 1e3, options.queue, metrics, tracing or Tracing()
        )
        self.port = 0
        self._server: Any = None

    async def start(self) -> None:
        """Listen; DeviceError where the address is taken."""
        grpc = service.grpc()
        aio = require("grpc.aio", "split", "a split server")
        self._server = aio.server(options=_channel_arguments())
        handlers = {name: self._handler(name) for name in METHODS}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        address = f"{self.options.host}:{self.options.port}"
        security = self.options.security
        try:
            if security is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, security.server())
        except RuntimeError:
            self.port = 0
        if self.port == 0:
            raise DeviceError(f"{address}: cannot listen there; another program may hold the port")
        self.servicer.start()
        await self._server.start()

    async def stop(self) -> None:
        """Drain: take no more requests, answer those that were accepted, then end."""
        self.servicer.drain()
        if self._server is not None:
            await self._server.stop(self.options.grace_s)
        await self.servicer.stop()

    async def run(self, ready: Callable[["SplitServer"], None]) -> None:
        """Serve until SIGTERM or SIGINT, then drain."""
        sys.setswitchinterval(_SWITCH_S)
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, done.set)
        await self.start()
        ready(self)
        try:
            await done.wait()
        finally:
            await self.stop()

    def _handler(self, name: str) -> Any:
        grpc, response = service.grpc(), getattr(service.messages(), f"{name}Response")

        async def call(data: bytes, context: Any) -> Any:
            try:
                self._authenticate(context)
                return await self.servicer.answer(name, data, context.time_remaining())
            except RefusedError as e:
                await context.abort(service.status_of(e), str(e))

        return grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=None, response_serializer=response.SerializeToString
        )

    def _authenticate(self, context: Any) -> None:
        security = self.options.security
        if security is not None and not security.allows(context.invocation_metadata() or ()):
            raise self.servicer.refused(
                RefusedError(Refusal.NOT_ALLOWED, "the request has no token, or another than this server's")
            )


def _channel_arguments() -> list[tuple[str, int]]:
    """Limits against clients that send much, or little and slowly."""
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", 8192),
        ("grpc.max_concurrent_streams", 256),
        ("grpc.server_handshake_timeout_ms", 5000),
        ("grpc.keepalive_time_ms", 20000),
        ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.http2.ping_timeout_ms", 10000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.so_reuseport", 0),
    ]
