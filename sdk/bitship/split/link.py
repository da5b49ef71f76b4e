"""A TCP proxy that shapes what passes: rate, delay, loss, cuts. In user space; no kernel module, no privileges.

Each direction is a line of its own: a segment leaves when those before it have left, at the rate, and arrives a delay
later. A lost segment arrives a retransmission later, and those behind it with it, as TCP would have it. While the link
is cut nothing passes either way, and new connections wait; ``drop`` also closes those that are open.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

SEGMENT_BYTES = 1448
_HELD_SEGMENTS = 64  # of a direction, before the sender has to wait
_RETRANSMISSION_S = 0.2
_START_S = 10.0


@dataclass
class Shape:
    """What a link does to bytes; may be changed at any time.

    rate_bps  bits a second each way, 0 without a limit; delay_s  one way; loss  share of segments
    """

    rate_bps: float = 0.0
    delay_s: float = 0.0
    loss: float = 0.0


@dataclass
class Direction:
    """One way: how many bytes were passed on, and when the line is free again."""

    nbytes: int = 0
    free_at: float = 0.0
    arrived_at: float = 0.0


@dataclass
class Link:
    """A shaped way to ``host``:``port``, listening on loopback at ``listen`` (0: any free port)."""

    host: str
    port: int
    shape: Shape = field(default_factory=Shape)
    listen: int = 0
    seed: int = 0
    up: Direction = field(default_factory=Direction)
    down: Direction = field(default_factory=Direction)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bitship-link", daemon=True)

    def __enter__(self) -> "Link":
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *exception: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_S)
        self._loop.close()

    @property
    def address(self) -> str:
        """Where to connect."""
        return f"127.0.0.1:{self.listen}"

    def cut(self, drop: bool = False) -> None:
        """Let nothing pass; ``drop`` also closes what is open."""
        self._do(self._cut(drop))

    def restore(self) -> None:
        """Let bytes pass again; what was held is passed on."""
        self._do(self._restore())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_S)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.listen, limit=1 << 16)
        self.listen = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut(self, drop: bool) -> None:
        self._passing.clear()
        if drop:
            for writer in list(self._writers):
                writer.transport.abort()

    async def _restore(self) -> None:
        self._passing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            await self._passing.wait()
            with contextlib.suppress(OSError):
                there, back = await asyncio.open_connection(self.host, self.port)
                self._writers.add(back)
                try:
                    await self._join(reader, writer, there, back)
                finally:
                    self._writers.discard(back)
                    back.transport.abort()
        except asyncio.CancelledError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        back: asyncio.StreamWriter,
    ) -> None:
        """Pass both ways until either side ends."""
        ways = [
            asyncio.create_task(self._pass(reader, back, self.up)),
            asyncio.create_task(self._pass(there, writer, self.down)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction) -> None:
        """Read segments, time each, and hand them to a writer that waits for their time."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD_SEGMENTS)
        deliver = asyncio.create_task(self._deliver(held, writer, way))
        try:
            while data := await reader.read(SEGMENT_BYTES):
                await held.put((self._arrival(len(data), way), data))
            await held.put((0.0, b""))
            await deliver
        except OSError:
            pass
        finally:
            deliver.cancel()
            await asyncio.gather(deliver, return_exceptions=True)

    def _arrival(self, nbytes: int, way: Direction) -> float:
        shape = self.shape
        now = time.monotonic()
        way.free_at = max(now, way.free_at) + (8 * nbytes / shape.rate_bps if shape.rate_bps else 0.0)
        arrival = way.free_at + shape.delay_s
        while shape.loss and self._random.random() < shape.loss:
            arrival += max(_RETRANSMISSION_S, 2 * shape.delay_s)
        way.arrived_at = max(arrival, way.arrived_at)
        return way.arrived_at

    async def _deliver(
        self, held: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter, way: Direction
    ) -> None:
        while True:
            arrival, data = await held.get()
            if not data:
                return
            await asyncio.sleep(max(arrival - time.monotonic(), 0))
            await self._passing.wait()
            way.nbytes += len(data)
            writer.write(data)
            await writer.drain()
