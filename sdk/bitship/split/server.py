"""The server of a tail: a grpc servicer of the Open Inference Protocol v2 (docs/split.md, The server)."""

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from bitship.errors import BitshipError, DeviceError
from bitship.extras import require
from bitship.split.answers import tail_answer
from bitship.split.batching import Batcher, Ran
from bitship.split.frame import Frame, Kind, Refusal, RefusedError, unpack
from bitship.split.identity import check_identity
from bitship.split.metrics import Metrics
from bitship.split.oip import service
from bitship.split.oip.service import ANSWER, FRAME, INFER, LOGITS, METHODS, SERVICE, STATUS
from bitship.split.security import Security, check_exposure
from bitship.split.tails import Tail
from bitship.split.tracing import Tracing
from bitship.split.wire import Wire
from bitship.version import VERSION

PLATFORM = "bitship_split"
EXTENSIONS = ("bitship_frame",)
MAX_MESSAGE_BYTES = 72 * 1024  # the largest frame, and what a request has around it
_NO_DEADLINE_S = 10.0
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
        self.tracing = tracing or Tracing()
        self.port = 0
        self._tail = tail
        self._batcher = Batcher(tail, options.batch, options.wait_ms / 1e3, options.queue, metrics.batch)
        self._draining = False
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
        self._batcher.start()
        await self._server.start()

    async def stop(self) -> None:
        """Drain: take no more requests, answer those that were accepted, then end."""
        self._draining = True
        if self._server is not None:
            await self._server.stop(self.options.grace_s)
        await self._batcher.stop()
        self._tail.close()

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
        grpc, pb = service.grpc(), service.messages()
        request, response = getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")
        answer: Callable[[Any, Any], Awaitable[Any]] = getattr(self, f"_{_snake(name)}")

        async def call(data: bytes, context: Any) -> Any:
            try:
                self._authenticate(context)
                if name == INFER:
                    self._batcher.check_room()
                return await answer(_parsed(request, data), context)
            except RefusedError as e:
                self.metrics.refused(e.code.name)
                await context.abort(getattr(grpc.StatusCode, STATUS[e.code]), str(e))
            except BitshipError as e:
                self.metrics.refused(Refusal.INTERNAL.name)
                await context.abort(grpc.StatusCode.INTERNAL, f"{Refusal.INTERNAL.name}: {e}")

        return grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=None, response_serializer=response.SerializeToString
        )

    def _authenticate(self, context: Any) -> None:
        security = self.options.security
        if security is not None and not security.allows(context.invocation_metadata() or ()):
            raise RefusedError(Refusal.NOT_ALLOWED, "the request has no token, or another than this server's")

    async def _server_live(self, message: Any, context: Any) -> Any:
        return service.messages().ServerLiveResponse(live=True)

    async def _server_ready(self, message: Any, context: Any) -> Any:
        return service.messages().ServerReadyResponse(ready=not self._draining)

    async def _model_ready(self, message: Any, context: Any) -> Any:
        await self._check_name(message.name, message.version, context)
        return service.messages().ModelReadyResponse(ready=not self._draining)

    async def _server_metadata(self, message: Any, context: Any) -> Any:
        return service.messages().ServerMetadataResponse(name="bitship", version=VERSION, extensions=EXTENSIONS)

    async def _model_metadata(self, message: Any, context: Any) -> Any:
        await self._check_name(message.name, message.version, context)
        tensor = service.messages().ModelMetadataResponse.TensorMetadata
        return service.messages().ModelMetadataResponse(
            name=self.wire.manifest.name,
            versions=[self.wire.model],
            platform=PLATFORM,
            inputs=[tensor(name=FRAME, datatype="UINT8", shape=[-1])],
            outputs=[
                tensor(name=LOGITS, datatype=self._tail.datatype, shape=[1, self.wire.manifest.classes]),
                tensor(name=ANSWER, datatype="UINT8", shape=[-1]),
            ],
        )

    async def _check_name(self, name: str, version: str, context: Any) -> None:
        m = self.wire.manifest
        if name != m.name or version not in ("", self.wire.model):
            text = f"{Refusal.WRONG_MODEL.name}: model '{name}' {version}: '{m.name}' {self.wire.model} is served here"
            await context.abort(service.grpc().StatusCode.NOT_FOUND, text)

    async def _model_infer(self, message: Any, context: Any) -> Any:
        start = time.monotonic()
        left = context.time_remaining()
        deadline = start + (_NO_DEADLINE_S if left is None else left)
        await self._check_name(message.model_name, message.model_version, context)
        self.metrics.waits(self._batcher.waiting)
        frame, nbytes = self._frame(message)
        codes = self.wire.unpack(frame)
        decoded = time.monotonic()
        ran = await self._batcher.submit(codes, deadline)
        encoding = time.monotonic()
        response = self._response(message.id, frame, ran)
        seconds = {
            "decode": decoded - start,
            "queue": ran.queue_s,
            "inference": ran.inference_s,
            "encode": time.monotonic() - encoding,
        }
        for name, value in seconds.items():
            response.parameters[f"{name}_us"].int64_param = round(value * 1e6)
        response.parameters["batch"].int64_param = ran.batch
        self.metrics.answered(nbytes, seconds)
        self.tracing.request(seconds, {"rung": frame.rung, "bytes": nbytes, "batch": ran.batch})
        return response

    def _frame(self, message: Any) -> tuple[Frame, int]:
        """Return the request's frame, of a request whose identity is this server's."""
        if len(message.inputs) != 1 or message.inputs[0].name != FRAME or message.inputs[0].datatype != "UINT8":
            raise RefusedError(Refusal.DAMAGED, f"inputs: one tensor '{FRAME}' of UINT8 is needed")
        shape = list(message.inputs[0].shape)
        if len(message.raw_input_contents) != 1 or shape != [len(message.raw_input_contents[0])]:
            raise RefusedError(Refusal.DAMAGED, f"'{FRAME}' of shape {shape}: as many bytes in raw_input_contents")
        data = message.raw_input_contents[0]
        frame = unpack(data)
        check_identity(self.wire, frame, service.texts(message.parameters))
        return frame, len(data)

    def _response(self, request_id: str, frame: Frame, ran: Ran) -> Any:
        pb = service.messages()
        answer = tail_answer(ran.logits, self._tail.quant)
        reply = Frame(Kind.ANSWER, answer.pack(), 0, frame.rung, frame.sequence, frame.model, frame.table).pack()
        tensor = pb.ModelInferResponse.InferOutputTensor
        logits = ran.logits.reshape(1, -1)
        return pb.ModelInferResponse(
            model_name=self.wire.manifest.name,
            model_version=self.wire.model,
            id=request_id,
            outputs=[
                tensor(name=LOGITS, datatype=self._tail.datatype, shape=list(logits.shape)),
                tensor(name=ANSWER, datatype="UINT8", shape=[len(reply)]),
            ],
            raw_output_contents=[logits.tobytes(), reply],
        )


def _parsed(message: Any, data: bytes) -> Any:
    decode_error = require("google.protobuf.message", "split", "a split server").DecodeError
    try:
        return message.FromString(data)
    except decode_error:
        raise RefusedError(Refusal.DAMAGED, f"{len(data)} B are no {message.DESCRIPTOR.name}") from None


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


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
