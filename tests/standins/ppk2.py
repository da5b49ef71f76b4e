"""A Power Profiler Kit II on a pseudo terminal, 100,000 samples a second of a board with a known load.

Models: the commands for metadata, regulator, mode, board power, start and stop; calibration with gains and offsets of
its own; range switching; the six-bit counter; the marker on one logic input; samples dropped on request. Does not model
the spikes of a real kit's range switches, noise, USB packets, or the average and trigger modes.
"""

import os
import pty
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

RATE = 100_000
R = (1003.3506, 101.5865, 10.3027, 0.9636, 0.0564)
GS, GI = (1.0, 112.7890, 17.2100, 3.0340, 0.6130), (1.0, 0.9695, 0.9610, 0.9582, 0.9679)
OFFSET, S, I_, UG = (
    (112.7, 75.4, 62.1, 58.3, 62.5),
    (2e-8, 5e-8, 9e-8, 1e-6, 3e-6),
    (-1e-8, -4e-7, -1e-6, 6e-5, 7e-4),
    (1.0,) * 5,
)
HIGHEST = (40e-6, 400e-6, 4e-3, 40e-3)  # from which current on the next range is taken
Floats = NDArray[np.float64]


def metadata() -> bytes:
    """Return what the kit says of itself."""
    lines = ["Calibrated: 0"]
    for key, values in (("R", R), ("GS", GS), ("GI", GI), ("O", OFFSET), ("S", S), ("I", I_), ("UG", UG)):
        lines += [f"{key}{i}: {v:.10g}" for i, v in enumerate(values)]
    return ("\n".join([*lines, "VDD: 3300", "HW: 9173", "mode: 2", "IA: 56", "END"]) + "\n").encode()


def encode(amps: Floats, logic: NDArray[np.uint8], first: int, volts: float) -> NDArray[np.uint32]:
    """Return samples: the ADC's step whose current, by the calibration, is nearest to what flows."""
    k = np.searchsorted(HIGHEST, amps, side="right")
    r, gs, gi, o, s, i, ug = (np.array(v)[k] for v in (R, GS, GI, OFFSET, S, I_, UG))
    wanted = amps / ug - s * volts - i  # = x * (gs * x + gi)
    x = 2 * wanted / (gi + np.sqrt(gi * gi + 4 * gs * wanted))
    adc = np.clip(np.rint((x * r * 163840 / 1.8 + o) / 4), 0, (1 << 14) - 1).astype(np.uint32)
    counter = ((first + np.arange(len(amps))) & 63).astype(np.uint32)
    words: NDArray[np.uint32] = adc | k.astype(np.uint32) << 14 | counter << 18 | logic.astype(np.uint32) << 24
    return words


@dataclass
class Kit:
    """The kit's state, as commands made it."""

    amps: Callable[[Floats], Floats]
    marker: Callable[[Floats], NDArray[np.bool_]]
    pin: int
    port: str = ""
    volts: float = 0.0
    mode: int = 0
    on: bool = False
    drop: list[int] = field(default_factory=list)  # samples, by number since the start, that are lost on the way
    sampling: bool = False
    ended: bool = False

    def command(self, data: bytes) -> tuple[bytes, bytes]:
        """Obey what has come; return (answer, what is left for later)."""
        answer = b""
        while data:
            size = {0x0D: 3, 0x11: 2, 0x0C: 2}.get(data[0], 1)
            if len(data) < size:
                break
            word, data = data[:size], data[size:]
            if word[0] == 0x19:
                answer += metadata()
            elif word[0] == 0x0D:
                self.volts = (int.from_bytes(word[1:], "big") - 768 - 32 + 800) / 1000
            elif word[0] == 0x11:
                self.mode = word[1]
            elif word[0] == 0x0C:
                self.on = bool(word[1])
            elif word[0] in (0x06, 0x07):
                self.sampling = word[0] == 0x06
        return answer, data

    def serve(self, master: int) -> None:
        """Answer commands and send samples until ended; the sample clock never waits."""
        waiting, begun, sent = b"", 0.0, 0
        while not self.ended:
            try:
                waiting += os.read(master, 4096)
            except BlockingIOError:
                pass
            except OSError:  # nobody has the other end open
                time.sleep(0.01)
            was = self.sampling
            answer, waiting = self.command(waiting)
            _put(master, answer, self)
            if self.sampling and not was:
                begun, sent = time.monotonic(), 0
            if self.sampling:
                due = int((time.monotonic() - begun) * RATE)
                count = min(due - sent, 4000)
                if count > 0:
                    _put(master, self.samples(begun, sent, count), self)
                    sent += count
            time.sleep(0.002)

    def samples(self, begun: float, first: int, count: int) -> bytes:
        """Return ``count`` samples from number ``first`` on, less those that are dropped."""
        t = begun + (first + np.arange(count)) / RATE
        flow = self.amps(t) if self.on or self.mode == 1 else np.zeros(count)
        words = encode(flow, (self.marker(t) * (1 << self.pin)).astype(np.uint8), first, self.volts)
        lost = [d - first for d in self.drop if first <= d < first + count]
        return np.delete(words, lost).astype("<u4").tobytes()


def _put(master: int, data: bytes, kit: Kit) -> None:
    while data and not kit.ended:
        try:
            data = data[os.write(master, data) :]
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            return


@contextmanager
def ppk2(
    amps: Callable[[Floats], Floats], marker: Callable[[Floats], NDArray[np.bool_]], pin: int = 0
) -> Iterator[Kit]:
    """Run a kit; its ``port`` is a pseudo terminal."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    kit = Kit(amps, marker, pin, os.ttyname(slave))
    thread = threading.Thread(target=kit.serve, args=(master,), daemon=True)
    thread.start()
    try:
        yield kit
    finally:
        kit.ended = True
        thread.join(30)
        assert not thread.is_alive(), "the kit's thread goes on; its descriptors would be another's once closed"
        os.close(master)
        os.close(slave)
