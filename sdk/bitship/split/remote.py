"""How a client reaches a tail: over gRPC, or by frames over a serial line or TCP to a gateway."""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from bitship.split.frame import Answer, Frame, Kind, Reader, Refusal, RefusedError, refused, unpack
from bitship.split.oip import service
from bitship.split.oip.service import ANSWER, FRAME, IDENTITY, SERVICE, TIMES
from bitship.split.security import Security
from bitship.split.wire import Wire

_GRPC_OVERHEAD = 200  # bytes of a steady request around its frame: message, identity, headers (measured: 183 to 200)


@dataclass(frozen=True)
class Reply:
    """What came back: the answer, how long the server says it took, the request's bytes as far as they are known."""

    answer: Answer
    server_s: float
    bytes_up: int


class Remote(Protocol):
    """A way to a tail.

    overhead  how many bytes go up around a frame; loses  whether a frame may be lost on the way, as on a serial line
    """

    overhead: int
    loses: bool

    def send(self, frame: Frame, timeout_s: float) -> Reply:
        """Send a features frame and wait for its answer; RefusedError says why there is none."""
        ...

    def probe(self, nbytes: int, timeout_s: float) -> float:
        """Send about ``nbytes`` and wait for a sign of life; its seconds. RefusedError where there is none."""
        ...

    def reconnect(self, timeout_s: float) -> bool:
        """Begin anew; whether the other side is there."""
        ...

    def close(self) -> None:
        """Let go of the link."""
        ...


class GrpcRemote:
    """A server of the Open Inference Protocol v2."""

    overhead, loses = _GRPC_OVERHEAD, False

    def __init__(self, wire: Wire, address: str, security: Security | None = None) -> None:
        self._wire, self._address, self._security = wire, address, security
        self._metadata = security.metadata() if security else ()
        self._lock = threading.Lock()
        self._channel = self._open()
        self._calls = _calls(self._channel)

    def send(self, frame: Frame, timeout_s: float) -> Reply:
        request = infer_request(self._wire, frame)
        response = self._call("ModelInfer", request, timeout_s)
        reply = unpack(_output(response, ANSWER))
        if reply.kind != Kind.ANSWER or (reply.sequence, reply.model) != (frame.sequence, frame.model):
            raise RefusedError(Refusal.DAMAGED, "the answer is to another request")
        parameters = response.parameters
        server_s = sum(parameters[name].int64_param for name in TIMES if name in parameters) / 1e6
        return Reply(Answer.unpack(reply.payload), server_s, request.ByteSize())

    def probe(self, nbytes: int, timeout_s: float) -> float:
        start = time.monotonic()
        padding = (("bitship-probe", os.urandom(nbytes // 2).hex()),) if nbytes else ()
        self._call("ServerLive", service.messages().ServerLiveRequest(), timeout_s, padding)
        return time.monotonic() - start

    def reconnect(self, timeout_s: float) -> bool:
        channel = self._open()
        calls = _calls(channel)
        try:
            calls["ServerReady"](
                service.messages().ServerReadyRequest(), timeout=timeout_s, metadata=self._metadata, wait_for_ready=True
            )
        except service.grpc().RpcError:
            channel.close()
            return False
        with self._lock:
            old, self._channel, self._calls = self._channel, channel, calls
        old.close()
        return True

    def close(self) -> None:
        self._channel.close()

    def _open(self) -> Any:
        grpc = service.grpc()
        if self._security is None:
            return grpc.insecure_channel(self._address, options=_CHANNEL)
        return grpc.secure_channel(self._address, self._security.client(), options=_CHANNEL)

    def _call(self, name: str, request: Any, timeout_s: float, more: tuple[tuple[str, str], ...] = ()) -> Any:
        with self._lock:
            call = self._calls[name]
        try:
            return call(request, timeout=max(timeout_s, 1e-3), metadata=(*self._metadata, *more))
        except service.grpc().RpcError as e:
            status, details = e.code().name, e.details() or ""
            code = service.refusal_of(status, details)
            raise RefusedError(code, details.removeprefix(f"{code.name}: ")) from None
        except ValueError:  # the channel was replaced meanwhile
            raise RefusedError(Refusal.UNAVAILABLE, f"{self._address}: the connection was given up") from None


class FramedRemote:
    """A gateway, by frames: ``open_line`` gives a serial line or a socket as a ``Line``."""

    overhead, loses = 0, True

    def __init__(self, wire: Wire, open_line: "Callable[[], Line]") -> None:
        self._wire, self._open_line = wire, open_line
        self._lock = threading.Lock()
        self._line: Line | None = None
        self._reader = Reader()

    def send(self, frame: Frame, timeout_s: float) -> Reply:
        reply = self._exchange(frame, Kind.ANSWER, timeout_s)
        return Reply(Answer.unpack(reply.payload), 0.0, len(frame.pack()))

    def probe(self, nbytes: int, timeout_s: float) -> float:
        start = time.monotonic()
        self._exchange(Frame(**{**vars(self._wire.hello()), "payload": bytes(nbytes)}), Kind.HELLO, timeout_s)
        return time.monotonic() - start

    def reconnect(self, timeout_s: float) -> bool:
        self.close()
        try:
            self.probe(0, timeout_s)
        except RefusedError:
            return False
        return True

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line, self._reader = None, Reader()

    def _exchange(self, frame: Frame, kind: Kind, timeout_s: float) -> Frame:
        until = time.monotonic() + timeout_s
        with self._lock:
            try:
                if self._line is None:
                    self._line = self._open_line()
                self._line.write(frame.pack())
                while (left := until - time.monotonic()) > 0:
                    for found in self._reader.feed(self._line.read(left)):
                        if found.sequence != frame.sequence:
                            continue  # of a request that was given up
                        if found.kind == Kind.REFUSAL:
                            raise refused(found.payload)
                        if found.kind == kind:
                            return found
            except OSError as e:
                self._drop()
                raise RefusedError(Refusal.UNAVAILABLE, f"the line is gone: {e}") from None
        raise RefusedError(Refusal.LATE, f"no answer within {timeout_s:.3f} s")


class Line(Protocol):
    """Bytes both ways. OSError where the other side is gone."""

    def read(self, timeout_s: float) -> bytes:
        """Return what is there, at least a byte, or nothing after ``timeout_s``."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of it."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class SocketLine:
    """A TCP connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection

    @classmethod
    def connect(cls, host: str, port: int, timeout_s: float = 2.0) -> "SocketLine":
        """Connect to a gateway."""
        return cls(socket.create_connection((host, port), timeout_s))

    def read(self, timeout_s: float) -> bytes:
        self._socket.settimeout(max(timeout_s, 1e-3))
        try:
            data = self._socket.recv(4096)
        except TimeoutError:
            return b""
        if not data:
            raise OSError("the other side closed the connection")
        return data

    def write(self, data: bytes) -> None:
        self._socket.settimeout(5.0)
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


class SerialLine:
    """A serial port, or a pseudo terminal by its path."""

    def __init__(self, path: str, baud: int = 115200) -> None:
        import serial

        self._port = serial.Serial(path, baud, timeout=0.1, write_timeout=5.0)

    def read(self, timeout_s: float) -> bytes:
        self._port.timeout = max(timeout_s, 1e-3)
        first: bytes = self._port.read(1)
        return first + self._port.read(self._port.in_waiting) if first else b""

    def write(self, data: bytes) -> None:
        self._port.write(data)
        self._port.flush()

    def close(self) -> None:
        self._port.close()


def infer_request(wire: Wire, frame: Frame) -> Any:
    """Return the ModelInferRequest of a frame, with the identity that a server asks for."""
    pb = service.messages()
    data = frame.pack()
    wire.check_rung(frame.rung)
    tensor = pb.ModelInferRequest.InferInputTensor(name=FRAME, datatype="UINT8", shape=[len(data)])
    request = pb.ModelInferRequest(model_name=wire.manifest.name, inputs=[tensor], raw_input_contents=[data])
    for name, value in zip(IDENTITY, (wire.model, wire.tables[frame.rung], wire.split), strict=True):
        request.parameters[name].string_param = value
    return request


_CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]


def _calls(channel: Any) -> dict[str, Any]:
    pb = service.messages()
    return {
        name: channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=getattr(pb, f"{name}Request").SerializeToString,
            response_deserializer=getattr(pb, f"{name}Response").FromString,
        )
        for name in service.METHODS
    }


def _output(response: Any, name: str) -> bytes:
    """Return a UINT8 tensor of a response, raw or not: servers may answer either way."""
    raw = response.raw_output_contents
    for i, tensor in enumerate(response.outputs):
        if tensor.name == name:
            return bytes(raw[i]) if i < len(raw) else bytes(tensor.contents.uint_contents)
    raise RefusedError(Refusal.DAMAGED, f"the response has no tensor '{name}'")
