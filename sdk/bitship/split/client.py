"""The device's side: head, local exit, rung, frame, remote tail - and an answer before the deadline, always."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bitship.errors import PackageError
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.split.answers import FULL, local_answer
from bitship.split.frame import EXTRA_BYTES, Answer, Frame, Refusal, RefusedError, Source
from bitship.split.policy import CONFIDENT, OFFLOAD, LinkEstimate, Policy
from bitship.split.remote import Remote
from bitship.split.wire import Wire

FEATURES, EXIT = "features", "exit"
NO_LINK = "no link"
_PROBE_BYTES = 600
_PROBE_S = (1.0, 1.0, 4.0)  # how long one waits for a sign of life, in turn
_SMALL_PROBE_S = 2.0
_PAUSE_S, _STALE_S = 0.2, 1.0
_GUARD_S, _GUARD = 0.004, 0.05  # the local answer leaves so long before the deadline, or this share of it
_RETRIED = {Refusal.UNAVAILABLE, Refusal.LATE}
_LINK_LOST = {Refusal.UNAVAILABLE}
_LATE_IN_A_ROW = 2

Head = Callable[[Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Latency:
    """Seconds of an answer's parts. ``network`` is what the remote part took beside ``server``."""

    head: float = 0.0
    encode: float = 0.0
    network: float = 0.0
    server: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Result:
    """An answer: who gave it, how sure it is (0..1), and what it took.

    rung        it was sent at; None where nothing was sent that was answered
    frame_bytes of every frame that was sent for it; attempts  how many that were
    why         the policy's reason, or what refused or broke the offload
    """

    label: int
    confidence: float
    source: Source
    rung: int | None
    frame_bytes: int
    attempts: int
    why: str
    latency: Latency


def graph_head(graph: Graph) -> Head:
    """Return a head that runs its integer graph through this machine's kernels."""
    names = [p.name for p in graph.outputs]
    if FEATURES not in names or EXIT not in names:
        raise PackageError(f"{graph.name}: outputs {names}: a head has '{FEATURES}' and '{EXIT}'")
    features, local = names.index(FEATURES), names.index(EXIT)
    port = graph.inputs[0].type
    graph.run(np.zeros(port.shape, port.dtype.numpy))  # the first run makes the program

    def run(image: Array) -> tuple[Array, Array]:
        found = graph.run(image)
        return found[features], found[local]

    return run


class SplitClient:
    """Answers inputs, one at a time: ``infer`` is for one thread.

    A background thread brings the link back when it is gone, and looks at it when it is unused.
    """

    def __init__(
        self, wire: Wire, head: Head, remote: Remote, policy: Policy | None = None, zstd: bool = False
    ) -> None:
        m = wire.manifest
        self.wire, self.link = wire, LinkEstimate()
        self.policy = policy or Policy(m.exit.threshold, tuple(r.accuracy for r in m.rungs))
        self._head, self._remote, self._zstd = head, remote, zstd
        self._sequence, self._late = 0, 0
        self._up, self._stop, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._fresh = 0.0
        self._keeper = threading.Thread(target=self._keep, name="bitship-split-link", daemon=True)
        self._keeper.start()

    @property
    def up(self) -> bool:
        """Whether the remote side was there when last heard of."""
        return self._up.is_set()

    def wait_up(self, timeout_s: float) -> bool:
        """Wait for the first or next sign of life; whether there was one."""
        return self._up.wait(timeout_s)

    def close(self) -> None:
        """Stop the background thread and let go of the link."""
        self._stop.set()
        self._wake.set()
        self._keeper.join(max(_PROBE_S) + 1)
        self._remote.close()

    def infer(self, image: Array, deadline_s: float) -> Result:
        """Answer an input within ``deadline_s``: by the tail, or by the local exit whatever happens."""
        start = time.monotonic()
        until = start + deadline_s - max(_GUARD_S, _GUARD * deadline_s)
        features, logits = self._head(image)
        headed = time.monotonic()
        local = local_answer(logits, self.wire.manifest.exit)
        times = {"head": headed - start}
        if local.confidence >= self.policy.threshold or not self.up:
            why = CONFIDENT if local.confidence >= self.policy.threshold else NO_LINK
            return self._result(local, None, 0, 0, why, times, start)
        frames = [self._pack(features, rung) for rung in range(len(self.wire.tables))]
        times["encode"] = time.monotonic() - headed
        sizes = [EXTRA_BYTES + len(f.payload) + self._remote.overhead for f in frames]
        choice = self.policy.choose(local, sizes, until - time.monotonic(), self.link)
        if choice.rung is None:
            self._wake.set()
            return self._result(local, None, 0, 0, choice.why, times, start)
        return self._offload(frames[choice.rung], local, until, times, start)

    def _pack(self, features: Array, rung: int) -> Frame:
        self._sequence = (self._sequence + 1) & 0xFFFF
        return self.wire.pack(features, rung, self._sequence, self._zstd)

    def _offload(self, frame: Frame, local: Answer, until: float, times: dict[str, float], start: float) -> Result:
        """Send a frame, once more where that makes sense and there is time; the local answer where it fails."""
        nbytes, sent = EXTRA_BYTES + len(frame.payload), 0
        why = Refusal.LATE.name
        for attempt in (1, 2):
            began = time.monotonic()
            left = until - began
            expected = self.link.seconds(nbytes + self._remote.overhead)
            if left <= 0 or (attempt == 2 and left < expected):
                break
            # Where frames may be lost, time for a second attempt is kept if both are likely to fit.
            timeout = left / 2 if self._remote.loses and attempt == 1 and 3 * expected < left else left
            sent = attempt
            try:
                reply = self._remote.send(frame, timeout)
            except RefusedError as e:
                why = e.code.name
                self._failed(e.code, nbytes, time.monotonic() - began)
                if e.code not in _RETRIED:
                    break
                continue
            seconds = time.monotonic() - began
            self._late = 0
            self._fresh = time.monotonic()
            self.link.transferred(nbytes + self._remote.overhead, seconds, reply.server_s)
            times |= {"server": reply.server_s, "network": max(seconds - reply.server_s, 0.0)}
            return self._result(reply.answer, frame.rung, attempt * nbytes, attempt, OFFLOAD, times, start)
        if why in (r.name for r in _LINK_LOST) or self._late >= _LATE_IN_A_ROW:
            self._lost()
        return self._result(local, None, sent * nbytes, sent, why, times, start)

    def _failed(self, code: Refusal, nbytes: int, seconds: float) -> None:
        if code is Refusal.LATE:
            self._late += 1
            self.link.gave_up(nbytes + self._remote.overhead, seconds)

    def _lost(self) -> None:
        self._up.clear()
        self._late = 0
        self._wake.set()

    @staticmethod
    def _result(
        answer: Answer, rung: int | None, nbytes: int, attempts: int, why: str, times: dict[str, float], start: float
    ) -> Result:
        latency = Latency(**times, total=time.monotonic() - start)
        return Result(answer.label, answer.confidence / FULL, answer.source, rung, nbytes, attempts, why, latency)

    def _keep(self) -> None:
        """Bring the link back while it is gone; measure it anew where it seems too slow and nothing is sent."""
        turn = 0
        while not self._stop.is_set():
            if not self.up:
                if self._remote.reconnect(_PROBE_S[turn % len(_PROBE_S)]) and self._measure():
                    self._up.set()
                    turn = 0
                    continue
                turn += 1
                self._stop.wait(_PAUSE_S)
                continue
            self._wake.wait()
            self._wake.clear()
            if self.up and not self._stop.is_set() and time.monotonic() - self._fresh > _STALE_S:
                self._measure()

    def _measure(self) -> bool:
        """Probe with no bytes and with some; whether the other side was there."""
        try:
            small = min(self._remote.probe(0, _SMALL_PROBE_S) for _ in range(2))
            large = self._remote.probe(_PROBE_BYTES, max(_PROBE_S))
        except RefusedError:
            self._up.clear()
            return False
        self.link.start(small, large, _PROBE_BYTES)
        self._fresh = time.monotonic()
        return True
