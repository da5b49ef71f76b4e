"""A split server inside this process: in a thread, with an event loop of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bitship.split.metrics import Metrics
from bitship.split.package import SplitPackage
from bitship.split.server import ServerOptions, SplitServer
from bitship.split.tails import GraphTail, Tail
from bitship.split.wire import Wire

START_S = 20.0


@contextmanager
def serving(
    package: SplitPackage, tail: Tail | None = None, options: ServerOptions | None = None
) -> Iterator[SplitServer]:
    """Serve a package on loopback while open, by its integer tail on this machine when no other is given."""
    options = options or ServerOptions()
    server = SplitServer(Wire(package), tail or GraphTail.on_host(package.tail, options.batch), options, Metrics())
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="bitship-split-server", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(START_S)
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(START_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(START_S)
        loop.close()
