"""A package on a board, over its link: inputs are loaded once, every result names the CRC of what it is a result of."""

import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from bitship.converters.firmware.serial import Step
from bitship.device.base import Burst, OpSamples, Samples
from bitship.device.link import Kind, Line, Link
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.graph import Graph
from bitship.graph.base import Array, TensorType, as_bytes

STAGE = "stage"
_PROFILED = 32  # steps of one profile command: WORK_PROFILED
_READ_BYTES = 4096  # of memory in one command
_RUNS = 50  # of one run command
_OVERHEAD = 48  # characters of a command that are no data
_TRIES = 5
_FIELD = re.compile(r"(\w+)=(\w+)")


def _fields(lines: Sequence[Line]) -> dict[str, str]:
    return {m[1]: m[2] for line in lines for m in _FIELD.finditer(line.text)}


class Info(msgspec.Struct, frozen=True):
    """What an image says of itself. hz is of the ticks; 0 without a timer. step  of the timer, in ticks."""

    digest: str
    line: int
    streamed: bool
    steps: int
    energy: bool
    instructions: bool
    hz: int
    step: int
    overhead: int
    arena: int
    arena_used: int
    stack_used: int

    @classmethod
    def of(cls, lines: Sequence[Line], where: str) -> "Info":
        """Read a reply to ``info``; DeviceError when something is missing, or of another protocol."""
        found = _fields(lines)
        try:
            if found["protocol"] != "1":
                raise DeviceError(
                    f"{where}: speaks protocol {found['protocol']}, this bitship speaks 1; flash it again"
                )
            return cls(
                found["digest"],
                int(found["line"]),
                found["streamed"] == "1",
                int(found["steps"]),
                found["energy"] == "1",
                found["instructions"] == "1",
                int(found.get("hz", "0")),
                int(found["resolution"]),
                int(found["overhead"]),
                int(found["arena"]),
                int(found["arena_used"]),
                int(found["stack_used"]),
            )
        except (KeyError, ValueError) as e:
            raise DeviceError(f"{where}: its description lacks {e}; flash the package's image again") from None

    def timer(self) -> str:
        """Return the timer in words."""
        if self.instructions:
            return "instructions"
        return f"{self.hz} Hz, step {self.step}, reading {self.overhead} ticks" if self.hz else "none"


@dataclass
class SerialSession:
    """The session of a SerialBoard: it runs, measures, profiles, looks and bursts."""

    link: Link
    info: Info
    graph: Graph
    table: bytes
    _loaded: bytes | None = None
    _first: bool = True
    _steps: tuple[Step, ...] = field(default=())

    def __post_init__(self) -> None:
        self._steps = msgspec.json.decode(self.table, type=tuple[Step, ...])
        if len(self._steps) != self.info.steps:
            raise DeviceError(
                f"{self.link.where}: has {self.info.steps} steps, the package {len(self._steps)}; flash it"
            )

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        """Run every row and return the outputs, each proven by CRC."""
        for row in rows:
            self.graph.check_inputs(row)
        return [self._proven(row) for row in rows]

    def _proven(self, row: tuple[Array, ...]) -> tuple[Array, ...]:
        for _ in range(_TRIES):
            _, crc = self._run(row, 1)
            outputs = [self._memory(f"out {i}", p.type.nbytes) for i, p in enumerate(self.graph.outputs)]
            if all(o is not None for o in outputs) and zlib.crc32(b"".join(o or b"" for o in outputs)) == crc:
                return tuple(_array(o or b"", p.type) for o, p in zip(outputs, self.graph.outputs, strict=True))
        raise DeviceError(f"{self.link.where}: outputs do not have the CRC of the run; {self.link.raw()}")

    def _run(self, row: tuple[Array, ...], runs: int) -> tuple[list[int], int]:
        """Return (ticks of every run, CRC of all outputs); on the right inputs, or DeviceError."""
        lines = self._worked(row, f"run {runs}")
        ticks = [int(line.text, 16) for line in lines if line.kind is Kind.DATA]
        if len(ticks) != runs:
            raise DeviceError(f"{self.link.where}: {len(ticks)} runs came back, {runs} were asked for; run it again")
        return ticks, int(_fields(lines[-1:])["output"], 16)

    def _worked(self, row: tuple[Array, ...], command: str, silence_s: float | None = None) -> tuple[Line, ...]:
        """Run a command on a row; its reply names the CRC of the very inputs it ran on."""
        data = b"".join(as_bytes(a) for a in row)
        for _ in range(_TRIES):
            if self.info.streamed:
                lines, wanted = self._streamed(data, command)
            else:
                self._load(data)
                lines, wanted = self.link.ask(command, silence_s), zlib.crc32(data)
            if lines and _fields(lines[-1:]).get("input") == f"{wanted:08X}":
                return lines
            self._loaded = None  # a restart in between, or a line on the way: the inputs are not these
        raise DeviceError(f"{self.link.where}: '{command}' ran on other inputs than were sent; {self.link.raw()}")

    def _load(self, data: bytes) -> None:
        if self._loaded == data:
            return
        self._loaded = None
        part = (self.info.line - _OVERHEAD) // 2
        for at in range(0, len(data), part):
            self.link.ask(f"load {at} {data[at : at + part].hex().upper()}")
        self._loaded = data

    def _streamed(self, data: bytes, command: str) -> tuple[tuple[Line, ...], int]:
        """Hand over the image as the device asks for it; nothing when the device gave up in between."""
        part = (self.info.line - _OVERHEAD) // 2
        fed, crc = 0, 0
        try:
            reply = self.link.ask(command)
            lines = list(reply)
            while reply[-1].kind is Kind.ROWS:
                at, end = map(int, reply[-1].text.split())
                if at == 0 and fed:  # the next run begins
                    fed = crc = 0
                reply = self.link.ask(f"row {at} {data[at : min(at + part, end)].hex().upper()}")
                crc = zlib.crc32(data[fed:end], crc) if end > fed else crc
                fed = max(fed, end)
                lines += reply
        except DeviceError:
            return (), 0
        return tuple(line for line in lines if line.kind is not Kind.ROWS), crc

    def _memory(self, what: str, nbytes: int, step: int | None = None, offset: int = 0) -> bytes | None:
        """Read memory; None when the device is not in the state that is asked for."""
        found = bytearray()
        for at in range(0, nbytes, _READ_BYTES):
            count = min(_READ_BYTES, nbytes - at)
            lines = self.link.ask(f"{what} {offset + at} {count}")
            fields = _fields(lines[-1:])
            data = bytes.fromhex("".join(line.text for line in lines if line.kind is Kind.DATA))
            state = None if step is None else str(step)
            if len(data) != count or f"{zlib.crc32(data):08X}" != fields["crc"] or fields.get("step") != state:
                return None
            found += data
        return bytes(found)

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        """Return every run's instructions (an emulator's) or milliseconds; the first after a start; stack and arena."""
        self.graph.check_inputs(row)
        extra = self._fresh(row) if self._first else ()
        self._first = False
        for done in range(0, warmup, _RUNS):
            self._run(row, min(_RUNS, warmup - done))
        ticks: list[int] = []
        while len(ticks) < runs:
            ticks += self._run(row, min(_RUNS, runs - len(ticks)))[0]
        now = Info.of(self.link.ask("info"), self.link.where)
        kind = FigureKind.SIMULATED if self.info.instructions else FigureKind.MEASURED
        ram = [
            Samples("stack", "B", kind, (float(now.stack_used),)),
            Samples("arena", "B", kind, (float(now.arena_used),)),
        ]
        return (*self._figure("latency", ticks), *extra, *ram)

    def _fresh(self, row: tuple[Array, ...]) -> tuple[Samples, ...]:
        """Restart the board; return its first run, and the time until it was ready as the host sees it."""
        taken = self.link.restart(self.link.silence_s)
        self._loaded = None
        first = self._figure("first inference", self._run(row, 1)[0])
        if self.info.instructions or taken is None:
            return first
        return (*first, Samples("restart", "ms", FigureKind.MEASURED, (taken * 1e3,), 1.0))

    def _figure(self, name: str, ticks: Sequence[int]) -> tuple[Samples, ...]:
        if self.info.instructions:
            title = "instructions" if name == "latency" else f"{name} instructions"
            return (Samples(title, "instructions", FigureKind.SIMULATED, tuple(map(float, ticks))),)
        if not self.info.hz:
            return ()
        ms = 1e3 / self.info.hz
        return (Samples(name, "ms", FigureKind.MEASURED, tuple(t * ms for t in ticks), self.info.step * ms),)

    def profile(self, row: tuple[Array, ...], runs: int) -> tuple[OpSamples, ...]:
        """Return what every step takes; empty without a timer. A step within a stage is the sum of all its strips."""
        self.graph.check_inputs(row)
        ticks: list[list[int]] = [[] for _ in self._steps]
        for _ in range(runs):
            for first in range(0, len(self._steps), _PROFILED):
                lines = self._worked(row, f"profile {first}")
                values = [int(line.text, 16) for line in lines if line.kind is Kind.DATA]
                for place, value in enumerate(values):
                    ticks[first + place].append(value)
        found = []
        for i, (step, taken) in enumerate(zip(self._steps, ticks, strict=True)):
            found += [OpSamples(i, step.op, step.tensor, s) for s in self._figure("latency", taken)]
        return tuple(found)

    def _looked(self) -> list[tuple[str, int]]:
        """Return (op, step) of what can be looked at: a stage is one, its tensors are never whole."""
        whole = [i for i, s in enumerate(self._steps) if s.whole]
        return [(STAGE if i == whole[0] and i > 0 else self._steps[i].op, i) for i in whole]

    def steps(self) -> tuple[tuple[str, str], ...]:
        """Return (op, tensor it writes) of every step whose tensor is whole behind it; a stage of tiles is one step."""
        return tuple((op, self._steps[i].tensor) for op, i in self._looked())

    def look(self, row: tuple[Array, ...], step: int) -> Array:
        """Return the tensor that entry ``step`` of ``steps()`` wrote, with nothing run after it."""
        self.graph.check_inputs(row)
        at = self._looked()[step][1]
        wanted = self._steps[at]
        for _ in range(_TRIES):
            self._worked(row, f"prefix {at}")
            data = self._memory(f"look {wanted.memory}", wanted.type.nbytes, at, wanted.offset)
            if data is not None:
                return _array(data, wanted.type)
        raise DeviceError(f"{self.link.where}: memory behind step {at} cannot be read; {self.link.raw()}")

    def self_test(self) -> tuple[int, int]:
        """Run the golden vectors in the image's flash; return (those that passed, all). DeviceError without any."""
        fields = _fields(self.link.ask("test"))
        self._loaded = None
        return int(fields["passed"]), int(fields["vectors"])

    def burst(self, row: tuple[Array, ...], runs: int) -> Burst:
        """Run one input ``runs`` times with the line silent. DeviceError where the image is streamed."""
        self.graph.check_inputs(row)
        if self.info.streamed:
            raise DeviceError(f"{self.link.where}: the image comes over the line while it runs; energy needs it silent")
        once = self._run(row, 1)[0][0] / self.info.hz if self.info.hz else self.link.silence_s
        begin = time.monotonic()
        lines = self._worked(row, f"burst {runs}", self.link.silence_s + 2 * once * runs)
        end = time.monotonic()
        ticks = int(lines[1].text, 16)
        seconds = ticks / self.info.hz if self.info.hz and not self.info.instructions else None
        return Burst(runs, begin, end, seconds, max(end - begin - (seconds or 0.0), 0.0))


def _array(data: bytes, t: TensorType) -> Array:
    return np.frombuffer(data, t.dtype.numpy).reshape(t.shape).copy()
