"""A split server of this process, in a thread with a loop of its own, and what tests of it share."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bitship.split.metrics import Metrics
from bitship.split.package import SplitPackage
from bitship.split.server import ServerOptions, SplitServer
from bitship.split.tails import GraphTail, Tail
from bitship.split.wire import Wire

START_S = 20.0


@dataclass
class Running:
    server: SplitServer
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def stop(self) -> None:
        if self.thread.is_alive():
            asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(START_S)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(START_S)
            self.loop.close()


def start(made: SplitPackage, tail: Tail | None = None, options: ServerOptions | None = None) -> Running:
    options = options or ServerOptions()
    tail = tail or GraphTail.on_host(made.tail, options.batch)
    loop = asyncio.new_event_loop()
    server = SplitServer(Wire(made), tail, options, Metrics())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(START_S)
    return Running(server, loop, thread)


@contextmanager
def serving(made: SplitPackage, tail: Tail | None = None, options: ServerOptions | None = None) -> Iterator[Running]:
    running = start(made, tail, options)
    try:
        yield running
    finally:
        running.stop()
