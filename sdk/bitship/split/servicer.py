"""What answers the Open Inference Protocol for one package's tail, whatever carries the calls (docs/split.md)."""

import time
from typing import Any

from bitship.errors import BitshipError
from bitship.extras import require
from bitship.split.answers import tail_answer
from bitship.split.batching import Batcher, Ran
from bitship.split.frame import Frame, Kind, Refusal, RefusedError, unpack
from bitship.split.identity import check_identity
from bitship.split.metrics import Metrics
from bitship.split.oip import service
from bitship.split.oip.service import ANSWER, FRAME, INFER, LOGITS, UnknownModelError
from bitship.split.tails import Tail
from bitship.split.tracing import Tracing
from bitship.split.wire import Wire
from bitship.version import VERSION

PLATFORM = "bitship_split"
EXTENSIONS = ("bitship_frame",)
MAX_MESSAGE_BYTES = 72 * 1024  # the largest frame, and what a request has around it
_NO_DEADLINE_S = 10.0


class Servicer:
    """Answers requests, which it batches, by name and bytes. ``start`` and ``stop`` in the event loop that asks it.

    batch, wait_s  most inputs of a batch, and how long the first of them waits for others
    queue          requests that may wait
    """

    def __init__(
        self, wire: Wire, tail: Tail, batch: int, wait_s: float, queue: int, metrics: Metrics, tracing: Tracing
    ) -> None:
        self.wire, self.metrics, self.tracing = wire, metrics, tracing
        self._tail = tail
        self._batcher = Batcher(tail, batch, wait_s, queue, metrics.batch)
        self._draining = False

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._batcher.start()

    def drain(self) -> None:
        """Say from now on that it is not ready."""
        self._draining = True

    async def stop(self) -> None:
        """Refuse what still waits, and let go of the tail."""
        self.drain()
        await self._batcher.stop()
        self._tail.close()

    async def answer(self, name: str, data: bytes, left_s: float | None) -> Any:
        """Return the response to a request, one of ``service.METHODS``; RefusedError where there is none.

        data    the serialized request, as it came
        left_s  until its deadline; None where it has none or where what carries it does not tell
        """
        start = time.monotonic()
        deadline = start + (_NO_DEADLINE_S if left_s is None else left_s)
        try:
            if name == INFER:
                self._batcher.check_room()
                return await self._model_infer(_parsed(name, data), start, deadline)
            return self._about(name, _parsed(name, data))
        except BitshipError as e:
            raise self.refused(e) from None

    def refused(self, error: BitshipError) -> RefusedError:
        """Count what went wrong with a request; returns what its sender is told."""
        found = error if isinstance(error, RefusedError) else RefusedError(Refusal.INTERNAL, str(error))
        self.metrics.refused(found.code.name)
        return found

    def _about(self, name: str, message: Any) -> Any:
        pb = service.messages()
        match name:
            case "ServerLive":
                return pb.ServerLiveResponse(live=True)
            case "ServerReady":
                return pb.ServerReadyResponse(ready=not self._draining)
            case "ServerMetadata":
                return pb.ServerMetadataResponse(name="bitship", version=VERSION, extensions=EXTENSIONS)
            case "ModelReady":
                self._check_name(message.name, message.version)
                return pb.ModelReadyResponse(ready=not self._draining)
        assert name == "ModelMetadata"
        self._check_name(message.name, message.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=self.wire.manifest.name,
            versions=[self.wire.model],
            platform=PLATFORM,
            inputs=[tensor(name=FRAME, datatype="UINT8", shape=[-1])],
            outputs=[
                tensor(name=LOGITS, datatype=self._tail.datatype, shape=[1, self.wire.manifest.classes]),
                tensor(name=ANSWER, datatype="UINT8", shape=[-1]),
            ],
        )

    def _check_name(self, name: str, version: str) -> None:
        m = self.wire.manifest
        if name != m.name or version not in ("", self.wire.model):
            raise UnknownModelError(f"model '{name}' {version}: '{m.name}' {self.wire.model} is served here")

    async def _model_infer(self, message: Any, start: float, deadline: float) -> Any:
        self._check_name(message.model_name, message.model_version)
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


def _parsed(name: str, data: bytes) -> Any:
    """Return the message of a method's request."""
    request = getattr(service.messages(), f"{name}Request")
    decode_error = require("google.protobuf.message", "split", "a split server").DecodeError
    try:
        return request.FromString(data)
    except decode_error:
        raise RefusedError(Refusal.DAMAGED, f"{len(data)} B are no {request.DESCRIPTOR.name}") from None
