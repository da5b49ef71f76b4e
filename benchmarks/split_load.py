"""A split server as a process of its own, and load on it: as much as it answers, or at a rate whatever it answers."""

import asyncio
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bitship.errors import BitshipError
from bitship.extras import require
from bitship.graph.base import Array
from bitship.graph.ir import Quant
from bitship.split import package
from bitship.split.metrics import Metrics
from bitship.split.oip import service
from bitship.split.server import ServerOptions, SplitServer
from bitship.split.tails import Tail, TorchTail, open_tail
from bitship.split.wire import Wire

START_S = 120.0
DEADLINE_S = 2.0
PACE_S = 0.1


@dataclass(frozen=True)
class Server:
    """Where it listens."""

    port: int

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"


@dataclass
class Load:
    """What came of requests: seconds of the answered and of the refused; what else by its status."""

    sent: int = 0
    answered_s: list[float] = field(default_factory=list)
    rejected_s: list[float] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def goodput(self) -> float:
        """Answers a second."""
        return len(self.answered_s) / self.seconds

    @property
    def p50(self) -> float:
        """Median seconds of an answer."""
        return statistics.median(self.answered_s)


def _torch_tail(channels: int, classes: int, batch: int) -> Tail:
    """The float tail of the reference's size, 48,762 parameters for 8 channels, random weights."""
    torch = require("torch", "torch", "the torch tail")
    torch.set_num_threads(1)
    layers: list[Any] = []
    for wide, stride in ((40, 1), (48, 2), (64, 1)):
        layers += [
            torch.nn.Conv2d(channels, wide, 3, stride, 1, bias=False),
            torch.nn.BatchNorm2d(wide),
            torch.nn.ReLU(),
        ]
        channels = wide
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(channels, classes)]
    return TorchTail(torch.nn.Sequential(*layers, *head), batch)


def _dense_tail(inputs: int, classes: int, batch: int) -> Tail:
    """Three fully connected layers, 19 million weights of float32 for 512 inputs: a call reads them all."""
    torch = require("torch", "torch", "the torch tail")
    torch.set_num_threads(1)
    first, second = torch.nn.Linear(inputs, 4096), torch.nn.Linear(4096, 4096)
    relu = torch.nn.ReLU()
    layers = (torch.nn.Flatten(), first, relu, second, relu, torch.nn.Linear(4096, classes))
    return TorchTail(torch.nn.Sequential(*layers), batch)


class PacedTail:
    """Takes a fixed time for a batch and no processor, as an accelerator would: the rest is the service's work."""

    datatype = "INT32"

    def __init__(self, batch: int, classes: int) -> None:
        self.batch, self._classes = batch, classes
        self.quant: Quant | None = None

    def run(self, codes: Array) -> Array:
        """Return the same logits for every input, after PACE_S."""
        time.sleep(PACE_S)
        return np.tile(np.arange(self._classes, dtype=np.int32), (len(codes), 1))

    def close(self) -> None:
        """Nothing was opened."""


def _tail(made: package.SplitPackage, kind: str, batch: int) -> Tail:
    h, w, c = made.manifest.features
    match kind:
        case "torch":
            return _torch_tail(c, made.manifest.classes, batch)
        case "torch, dense":
            return _dense_tail(h * w * c, made.manifest.classes, batch)
        case "paced":
            return PacedTail(batch, made.manifest.classes)
        case name:
            return open_tail(made.tail, name, batch)


def _serve(folder: str, kind: str, batch: int, queue: int, pipe: Connection) -> None:
    made = package.read(Path(folder))
    server = SplitServer(Wire(made), _tail(made, kind, batch), ServerOptions(batch=batch, queue=queue), Metrics())
    asyncio.run(server.run(lambda running: pipe.send(running.port)))


@contextmanager
def serving(made: package.SplitPackage, kind: str, batch: int = 8, queue: int = 64) -> Iterator[Server]:
    """A server of the package in another process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(str(made.path), kind, batch, queue, there), daemon=True)
    process.start()
    try:
        if not here.poll(START_S):
            raise BitshipError("the server did not start")
        yield Server(here.recv())
    finally:
        process.terminate()
        process.join(20)


async def _one(call: Any, request: bytes, load: Load) -> None:
    start = time.monotonic()
    try:
        await call(request, timeout=DEADLINE_S)
    except service.grpc().RpcError as e:
        seconds = time.monotonic() - start
        if e.code().name == "RESOURCE_EXHAUSTED":
            load.rejected_s.append(seconds)
        else:
            load.other[e.code().name] += 1
    else:
        load.answered_s.append(time.monotonic() - start)


def _call(channel: Any) -> Any:
    return channel.unary_unary(f"/{service.SERVICE}/ModelInfer", request_serializer=bytes, response_deserializer=bytes)


async def closed(address: str, request: bytes, clients: int, seconds: float) -> Load:
    """So many clients, each sending its next request when it has an answer."""
    load = Load()
    aio = require("grpc.aio", "split", "load")
    async with aio.insecure_channel(address) as channel:
        call, start = _call(channel), time.monotonic()

        async def client() -> None:
            while time.monotonic() - start < seconds:
                load.sent += 1
                answered = len(load.answered_s)
                await _one(call, request, load)
                if len(load.answered_s) == answered:
                    await asyncio.sleep(0.01)

        await asyncio.gather(*(client() for _ in range(clients)))
        load.seconds = time.monotonic() - start
    return load


async def open_loop(address: str, request: bytes, rate: float, seconds: float) -> Load:
    """Requests at a rate, whatever comes of them."""
    load = Load()
    aio = require("grpc.aio", "split", "load")
    async with aio.insecure_channel(address) as channel:
        call, start, tasks = _call(channel), time.monotonic(), []
        while (now := time.monotonic() - start) < seconds:
            while load.sent < now * rate:
                load.sent += 1
                tasks.append(asyncio.create_task(_one(call, request, load)))
            await asyncio.sleep(0.002)
        load.seconds = time.monotonic() - start
        answered = len(load.answered_s)  # those of the window; the queue's rest comes later
        await asyncio.gather(*tasks)
        del load.answered_s[answered:]
    return load
