"""Frames on one side (serial line, pseudo terminal, TCP; mqtt.py: a broker), a remote tail on the other."""

import socket
import threading
import time
from dataclasses import dataclass, field

from bitship.split.frame import EXTRA_BYTES, MAX_PAYLOAD, Frame, Kind, Reader, Refusal, RefusedError, refusal
from bitship.split.remote import Line, Remote, SocketLine
from bitship.split.wire import Wire

_IDLE_S = 0.5  # a frame that is not whole after such a silence is given up
_POLL_S = 0.1
_TIMEOUT_S = 10.0  # for the tail
_SILENT_S = 300.0  # a TCP device that says nothing for so long is let go
_MOST_DEVICES = 64


@dataclass
class Gateway:
    """Forwards features frames of devices and brings answers back; whatever is wrong is refused by name.

    capacity  the largest frame that is taken, by default one raw frame of the package's features
    frames, refusals  how many were answered, and refused; remote_s  seconds that the answered ones took behind it
    """

    wire: Wire
    remote: Remote
    timeout_s: float = _TIMEOUT_S
    capacity: int = 0
    frames: int = 0
    refusals: int = 0
    remote_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.capacity = self.capacity or min(max(2 * self.wire.symbols, 1024), MAX_PAYLOAD) + EXTRA_BYTES

    def stop(self) -> None:
        """End ``serve`` and ``serve_tcp`` at their next look."""
        self._stop.set()

    def serve(self, line: Line, silent_s: float | None = None) -> None:
        """Serve one device until ``stop``, until it is gone (OSError), or until it was silent too long."""
        reader = Reader(self.capacity)
        heard = time.monotonic()
        while not self._stop.is_set():
            data = line.read(_POLL_S)
            now = time.monotonic()
            if data:
                heard = now
                found = reader.feed(data)
            elif reader.waiting and now - heard > _IDLE_S:
                found = reader.idle()
            elif silent_s is not None and now - heard > silent_s:
                return
            else:
                continue
            for frame in found:
                line.write(self.answer(frame).pack())

    def serve_tcp(self, listener: socket.socket) -> None:
        """Serve every device that connects, each in a thread, until ``stop``."""
        listener.settimeout(_POLL_S)
        places = threading.BoundedSemaphore(_MOST_DEVICES)
        while not self._stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            if not places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._device, args=(connection, places), daemon=True).start()

    def answer(self, frame: Frame) -> Frame:
        """Return what a device is sent for a frame: its answer, the gateway's own hello, or a refusal."""
        try:
            if frame.kind == Kind.HELLO:
                self.wire.check(frame)
                return Frame(Kind.HELLO, b"", 0, frame.rung, frame.sequence, frame.model, frame.table)
            if frame.kind != Kind.FEATURES:
                raise RefusedError(Refusal.WRONG_KIND, f"kind {frame.kind}: a gateway takes features and hello")
            self.wire.check(frame)
            began = time.monotonic()
            reply = self.remote.send(frame, self.timeout_s)
        except RefusedError as e:
            return self.refuse(frame, e)
        self.frames += 1
        self.remote_s += time.monotonic() - began
        return Frame(Kind.ANSWER, reply.answer.pack(), 0, frame.rung, frame.sequence, frame.model, frame.table)

    def refuse(self, frame: Frame, error: RefusedError) -> Frame:
        """Return what a device is sent for a frame that is refused."""
        self.refusals += 1
        payload = refusal(error.code, error.said)
        return Frame(Kind.REFUSAL, payload, 0, frame.rung, frame.sequence, frame.model, frame.table)

    def _device(self, connection: socket.socket, places: threading.BoundedSemaphore) -> None:
        line = SocketLine(connection)
        try:
            self.serve(line, _SILENT_S)
        except OSError:
            pass  # it is gone
        finally:
            line.close()
            places.release()
