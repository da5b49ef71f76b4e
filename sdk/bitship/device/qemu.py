"""An emulated board: runs a firmware image in QEMU, feeds it records through files, takes bits and counts back."""

import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitship.device.base import DeviceSession, Samples
from bitship.errors import DeviceError, MissingDependencyError
from bitship.figures import FigureKind
from bitship.graph import Graph
from bitship.graph.base import Array, TensorType, as_bytes
from bitship.package import Package
from bitship.targets import Target
from bitship.targets.base import ON_NPU

DEADLINE_SECONDS = 300.0
ROLE = "firmware"
_INPUTS, _OUTPUTS = "in.bin", "out.bin"
_CODES = {
    2: "no command line, or a file it cannot open",
    3: "a fault exception (a bad access, or the stack ran over)",
    4: "the inputs reached it damaged",
}
_ERRORS = {
    -5: "an NPU step was refused: no driver is linked, or it has no NPU; set ETHOS_U_DRIVER_DIR and export again, or "
    "run the image without NPU steps",
    -6: "an NPU step failed: the driver refused its command stream, or it did not end",
}


@dataclass(frozen=True)
class QemuResult:
    """What one start of an image gave.

    outputs       one tuple of arrays per input record
    instructions  executed by model_run, per record; None on a board without a usable counter
    stack_bytes   most stack in use at once
    arena_bytes   the image's tensor memory; arena_used  as much of it, from its start, as was ever written
    """

    outputs: list[tuple[Array, ...]]
    instructions: tuple[int, ...] | None
    stack_bytes: int
    arena_bytes: int
    arena_used: int


@dataclass
class _Reader:
    """Takes parts off an outputs file and checks the crc behind each; DeviceError on anything short or garbled."""

    data: bytes
    where: str
    at: int = 0
    start: int = 0

    def take(self, nbytes: int) -> bytes:
        if self.at + nbytes > len(self.data):
            raise DeviceError(
                f"{self.where}: the results end after {len(self.data)} B, {self.at + nbytes} B are needed; run it again"
            )
        self.at += nbytes
        return self.data[self.at - nbytes : self.at]

    def words(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self.take(4 * count))

    def seal(self, what: str) -> None:
        found = zlib.crc32(self.data[self.start : self.at])
        (wanted,) = self.words(1)
        if found != wanted:
            raise DeviceError(
                f"{self.where}: {what} came back garbled (crc {found:08x}, {wanted:08x} sent); run it again"
            )
        self.start = self.at


def encode_inputs(rows: Sequence[tuple[Array, ...]], record_bytes: int) -> bytes:
    """Return the inputs file that firmware/app/runner.c reads."""
    head = struct.pack("<4sII", b"BSIN", len(rows), record_bytes)
    parts = [head, struct.pack("<I", zlib.crc32(head))]
    for row in rows:
        record = b"".join(as_bytes(a) for a in row)
        parts += [record, struct.pack("<I", zlib.crc32(record))]
    return b"".join(parts)


Decoded = tuple[list[tuple[Array, ...]], list[int], int, int, int]


def decode_outputs(data: bytes, graph: Graph, count: int, where: str) -> Decoded:
    """Return (outputs, ticks, stack, arena, used arena: bytes) from the runner's file; DeviceError when it is wrong."""
    reader = _Reader(data, where)
    types = [p.type for p in graph.outputs]
    nbytes = sum(t.nbytes for t in types)
    magic, (arena, size), digest = reader.take(4), reader.words(2), reader.take(64)
    reader.seal("the head of the results")
    if magic != b"BSOU" or size != nbytes:
        raise DeviceError(f"{where}: the image sends {size} B per record, {nbytes} B are expected; export it again")
    if digest.decode("ascii", "replace") != graph.digest:
        raise DeviceError(f"{where}: the image was built from another graph; export it again")
    outputs, ticks = [], []
    for i in range(count):
        error, tick = struct.unpack("<iQ", reader.take(12))
        body = reader.take(nbytes)
        reader.seal(f"record {i}")
        if error != 0:
            raise DeviceError(f"{where}: record {i}: {_ERRORS.get(error, f'a kernel refused with error {error}')}")
        outputs.append(_split(body, types))
        ticks.append(tick)
    magic, (records, stack, used) = reader.take(4), reader.words(3)
    reader.seal("the end of the results")
    if magic != b"BSND" or records != count or reader.at != len(data):
        raise DeviceError(f"{where}: {records} records came back, {count} were sent; run it again")
    return outputs, ticks, stack, arena, used


def _split(body: bytes, types: Sequence[TensorType]) -> tuple[Array, ...]:
    arrays, at = [], 0
    for t in types:
        arrays.append(np.frombuffer(body, t.dtype.numpy, t.size, at).reshape(t.shape).copy())
        at += t.nbytes
    return tuple(arrays)


class QemuDevice:
    """A microcontroller target's emulator. Instruction counts are simulated: no latency follows from them."""

    def __init__(self, target: Target, deadline_s: float = DEADLINE_SECONDS) -> None:
        if target.emulator is None or target.emulator.machine is None:
            raise DeviceError(f"{target.name}: target.toml names no emulated machine")
        self._target = target
        self._emulator = target.emulator
        self._deadline_s = deadline_s

    @property
    def name(self) -> str:
        return f"qemu {self._emulator.machine}"

    def environment(self) -> dict[str, str]:
        text = subprocess.run([self._program(), "--version"], capture_output=True, text=True, timeout=30, check=False)
        version = re.search(r"version (\S+)", text.stdout)
        return {
            "emulator": f"{self._emulator.program} {version[1] if version else 'of unknown version'}",
            "machine": str(self._emulator.machine),
            "processor": self._target.cpu,
        }

    def run(self, image: Path, graph: Graph, rows: Sequence[tuple[Array, ...]]) -> QemuResult:
        """Start the image once, run it on every row, and return what it sent.

        Raises DeviceError when it stays silent past the deadline, stops with an error, or its results are short,
        garbled or another graph's; MissingDependencyError without the emulator.
        """
        for row in rows:
            graph.check_inputs(row)
        with tempfile.TemporaryDirectory(prefix="bitship-") as name:
            folder = Path(name)
            (folder / _INPUTS).write_bytes(encode_inputs(rows, sum(p.type.nbytes for p in graph.inputs)))
            self._start(image, folder)
            try:
                data = (folder / _OUTPUTS).read_bytes()
            except OSError:
                raise DeviceError(f"{self.name}: {image.name} ended without results; export it again") from None
        outputs, ticks, stack, arena, used = decode_outputs(data, graph, len(rows), f"{self.name}: {image.name}")
        counter = self._emulator.counter
        counts = None
        if counter is not None:
            counts = tuple(round(t * counter.numerator / counter.denominator) for t in ticks)
        return QemuResult(outputs, counts, stack, arena, used)

    def _program(self) -> str:
        program = shutil.which(self._emulator.program)
        if program is None:
            raise MissingDependencyError(
                f"{self._emulator.program}: not found; it emulates {self._target.name}: apt-get install "
                f"{'qemu-system-misc' if 'riscv' in self._emulator.program else 'qemu-system-arm'}"
            )
        return program

    def _command(self, image: Path) -> list[str]:
        words = ",".join(f"arg={w}" for w in ("image", _INPUTS, _OUTPUTS))
        command = [self._program(), "-machine", str(self._emulator.machine), "-nographic", "-serial", "null"]
        command += ["-monitor", "none", "-semihosting-config", f"enable=on,target=native,{words}"]
        if self._emulator.icount_shift is not None:
            command += ["-icount", f"shift={self._emulator.icount_shift},sleep=off"]
        return [*command, *self._emulator.options, "-kernel", str(image.resolve())]

    def _start(self, image: Path, folder: Path) -> None:
        where = f"{self.name}: {image.name}"
        try:
            done = subprocess.run(
                self._command(image),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._deadline_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{where}: silent for {self._deadline_s:g} s, then stopped") from None
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            reason = _CODES.get(done.returncode, said)
            raise DeviceError(f"{where}: ended with code {done.returncode}: {reason}")

    @contextmanager
    def open(self, package: Package, role: str | None) -> Iterator[DeviceSession]:
        artifact = package.artifact(role)
        if artifact.path.endswith(".pte"):
            raise DeviceError(
                f"{package.path}: {artifact.path} is ExecuTorch's, for a device whose firmware has that runtime; "
                f"{self.name} runs packages of the converters firmware and tvm"
            )
        if artifact.role.removeprefix(ON_NPU) != ROLE:
            raise DeviceError(
                f"{package.path}: its image has role '{artifact.role}', {self.name} without a serial port runs "
                f"'{ROLE}'; export the package with --app files"
            )
        yield _QemuSession(self, package.path / artifact.path, package.graph())


@dataclass(frozen=True)
class _QemuSession:
    device: QemuDevice
    image: Path
    graph: Graph

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        return self.device.run(self.image, self.graph, rows).outputs

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        """Instructions of every run, which do not depend on this machine; the stack and the arena that were used."""
        found = self.device.run(self.image, self.graph, [row] * (warmup + runs))
        ram = (
            Samples("stack", "B", FigureKind.SIMULATED, (float(found.stack_bytes),)),
            Samples("arena", "B", FigureKind.SIMULATED, (float(found.arena_used),)),
        )
        if found.instructions is None:
            return ram
        counts = tuple(float(n) for n in found.instructions[warmup:])
        return (Samples("instructions", "instructions", FigureKind.SIMULATED, counts), *ram)
