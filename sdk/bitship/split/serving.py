"""A split server inside this process: in a thread, with an event loop of its own."""

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
    """A server at work; ``stop`` drains it and ends its thread."""

    server: SplitServer
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.port

    @property
    def address(self) -> str:
        """Where to connect, HOST:PORT."""
        return f"{self.server.options.host}:{self.server.port}"

    def stop(self) -> None:
        """End; once is enough, and more does nothing."""
        if self.thread.is_alive():
            try:
                asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(START_S)
            finally:
                self.loop.call_soon_threadsafe(self.loop.stop)
                self.thread.join(START_S)
                self.loop.close()


def start(package: SplitPackage, tail: Tail | None = None, options: ServerOptions | None = None) -> Running:
    """Serve a package on loopback, by its integer tail on this machine when no other is given."""
    options = options or ServerOptions()
    server = SplitServer(Wire(package), tail or GraphTail.on_host(package.tail, options.batch), options, Metrics())
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="bitship-split-server", daemon=True)
    thread.start()
    running = Running(server, loop, thread)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(START_S)
    except BaseException:
        running.stop()
        raise
    return running


@contextmanager
def serving(package: SplitPackage, tail: Tail | None = None, options: ServerOptions | None = None) -> Iterator[Running]:
    """Serve a package while open."""
    running = start(package, tail, options)
    try:
        yield running
    finally:
        running.stop()
