"""Requests wait in a bounded queue until a batch is full or its time is over; what would be late is not run."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from bitship.graph.base import Array
from bitship.split.frame import Refusal, RefusedError
from bitship.split.tails import Tail

_SMOOTH = 0.2


@dataclass(frozen=True)
class Ran:
    """What came of a request: logits [classes], how long it waited and how long its batch ran, in seconds."""

    logits: Array
    queue_s: float
    inference_s: float
    batch: int


@dataclass
class _Waiting:
    codes: Array
    deadline: float
    since: float
    done: "asyncio.Future[Ran]" = field(compare=False)


class Batcher:
    """One worker that runs a tail on what has gathered.

    most     inputs of a batch, no more than the tail takes
    wait_s   from the first request of a batch on, how long others are waited for
    limit    requests that may wait; another is refused with BUSY at once
    observe  told of every batch: its size, its seconds
    """

    def __init__(
        self, tail: Tail, most: int, wait_s: float, limit: int, observe: Callable[[int, float], None] | None = None
    ) -> None:
        self.tail = tail
        self.most = max(1, min(most, tail.batch))
        self.wait_s = wait_s
        self.limit = limit
        self.seconds = 0.0  # what a batch takes, smoothed
        self._observe = observe or (lambda size, seconds: None)
        self._waiting: deque[_Waiting] = deque()
        self._more = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, "bitship-tail")
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def stop(self) -> None:
        """Refuse what still waits, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._waiting:
            self._refuse(self._waiting.popleft(), RefusedError(Refusal.UNAVAILABLE, "the server stops"))
        self._pool.shutdown(wait=True, cancel_futures=True)

    def check_room(self) -> None:
        """Raise RefusedError BUSY where the queue is full: asked before a request is looked into, to refuse cheaply."""
        if len(self._waiting) >= self.limit:
            raise RefusedError(Refusal.BUSY, f"{self.limit} requests wait; try again later or answer locally")

    async def submit(self, codes: Array, deadline: float) -> Ran:
        """Run codes [1, H, W, C] before ``deadline`` (time.monotonic seconds); RefusedError BUSY or LATE."""
        self.check_room()
        now = time.monotonic()
        if deadline - now <= self.seconds * (1 + len(self._waiting) // self.most):
            raise RefusedError(
                Refusal.LATE,
                f"{max(deadline - now, 0) * 1e3:.1f} ms are left; a batch takes {self.seconds * 1e3:.1f} ms",
            )
        one = _Waiting(codes, deadline, now, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._more.set()
        return await one.done

    async def _serve(self) -> None:
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            await self._gather()
            batch = self._take()
            if batch:
                await self._run(batch)

    async def _gather(self) -> None:
        """Wait for others until the batch is full or the first has waited long enough."""
        until = self._waiting[0].since + self.wait_s
        while 0 < len(self._waiting) < self.most and (left := until - time.monotonic()) > 0:
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), left)
            except TimeoutError:
                return

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self.most:
            one = self._waiting.popleft()
            if one.done.cancelled():
                continue
            if time.monotonic() + self.seconds > one.deadline:
                self._refuse(one, RefusedError(Refusal.LATE, "the deadline passed in the queue"))
                continue
            batch.append(one)
        return batch

    async def _run(self, batch: list[_Waiting]) -> None:
        codes = np.concatenate([w.codes for w in batch])
        start = time.monotonic()
        try:
            logits = await asyncio.get_running_loop().run_in_executor(self._pool, self.tail.run, codes)
        except asyncio.CancelledError:
            for one in batch:
                self._refuse(one, RefusedError(Refusal.UNAVAILABLE, "the server stops"))
            raise
        except Exception as e:
            for one in batch:
                self._refuse(one, RefusedError(Refusal.INTERNAL, f"the tail failed: {type(e).__name__}"))
            return
        seconds = time.monotonic() - start
        self.seconds += (seconds - self.seconds) * (_SMOOTH if self.seconds else 1.0)
        self._observe(len(batch), seconds)
        for one, row in zip(batch, logits, strict=True):
            if not one.done.done():
                one.done.set_result(Ran(row, start - one.since, seconds, len(batch)))

    @staticmethod
    def _refuse(one: _Waiting, error: RefusedError) -> None:
        if not one.done.done():
            one.done.set_exception(error)
