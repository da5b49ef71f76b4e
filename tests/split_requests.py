"""Requests of the Open Inference Protocol, made by hand, to a server of this process."""

import time
from typing import Any, Protocol

import numpy as np
import pytest
from benchmarks.split_parts import SMALL, images

from bitship.graph.base import Array
from bitship.graph.ir import Quant
from bitship.split.frame import Frame
from bitship.split.oip import service
from bitship.split.package import SplitPackage
from bitship.split.remote import infer_request
from bitship.split.wire import Wire


class Served(Protocol):
    """A server by its address, HOST:PORT."""

    @property
    def address(self) -> str: ...


class SlowTail:
    """Takes as long as it is told to for every batch."""

    datatype = "INT32"

    def __init__(self, seconds: float, batch: int = 1) -> None:
        self.quant: Quant | None = None
        self.seconds, self.batch = seconds, batch
        self.batches: list[int] = []

    def run(self, codes: Array) -> Array:
        time.sleep(self.seconds)
        self.batches.append(len(codes))
        return np.arange(10 * len(codes), dtype=np.int32).reshape(-1, 10)

    def close(self) -> None:
        pass


def sent(wire: Wire, made: SplitPackage, rung: int = 0, zstd: bool = False) -> Frame:
    return wire.pack(made.head.run(images(SMALL, 1)[0])[0], rung, 7, zstd)


def call(server: Served, request: Any, timeout: float = 5.0, name: str = "ModelInfer") -> Any:
    grpc, pb = service.grpc(), service.messages()
    with grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary(
            f"/{service.SERVICE}/{name}",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=getattr(pb, f"{name}Response").FromString,
        )
        return method(request, timeout=timeout)


def refused(server: Served, request: Any, timeout: float = 5.0) -> tuple[str, str]:
    with pytest.raises(service.grpc().RpcError) as found:
        call(server, request, timeout)
    return found.value.code().name, found.value.details()


def still_serves(server: Served, wire: Wire, made: SplitPackage) -> None:
    assert call(server, infer_request(wire, sent(wire, made))).outputs[1].name == "answer"
