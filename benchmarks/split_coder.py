"""The coder of split features: the same streams on every processor, instructions a symbol, bytes of code.

python -m benchmarks.split_coder [--tensors 1000] [--json FILE]

Every tensor is coded by the specification in Python, by the host's C kernels, by aarch64 in QEMU's user mode, and by
the emulated Cortex-M boards; the rows say how many streams are equal. Instructions are simulated (QEMU icount), of the
encoder at -Os, over tensors of the size of a small head's features; bytes of code are the function's in the object.
"""

import argparse
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from bitship import targets
from bitship.converters.firmware import build
from bitship.converters.firmware.application import app_files, app_flags
from bitship.errors import BitshipError, DeviceError
from bitship.graph.base import Array
from bitship.split import rans, tables
from bitship.split.tables import Tables
from bitship.targets import Application, Target

BOARDS = ("microbit", "mps2-an385", "mps2-an386", "mps2-an500", "mps3-an547")
CORES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")
SOURCES = ("split/vectors.c", "split/rans.c")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Werror")
_RUNNER = "runner.c"
_SECONDS = 300


class Case(msgspec.Struct, frozen=True):
    """A tensor [C, H, W] int8 and the tables it is coded with."""

    tables: Tables
    symbols: Array


@dataclass(frozen=True)
class Coded:
    """What a processor made of a case: the stream, counter ticks of encoder and decoder, the decoder's result."""

    stream: bytes
    encode_ticks: int
    decode_ticks: int
    decoded: int


class Row(msgspec.Struct, frozen=True):
    """A processor: streams equal to the specification's, instructions a symbol (0 where there is no counter)."""

    processor: str
    equal: int
    tensors: int
    encode_instructions: float = 0.0
    decode_instructions: float = 0.0


def cases(count: int, seed: int = 1, most: int = 1536) -> list[Case]:
    """Random tensors: every width of Laplace, tables that fit and tables of another tensor, extreme values."""
    r = np.random.default_rng(seed)
    made, last = [], None
    for i in range(count):
        channels = int(r.integers(1, 17))
        side = [int(n) for n in r.integers(1, 1 + int((most // channels) ** 0.5), 2)]
        scale = np.exp(r.uniform(np.log(0.05), np.log(60), (channels, 1, 1)))
        values = r.laplace(r.integers(-100, 100, (channels, 1, 1)) * (i % 3 == 0), scale, (channels, *side))
        symbols = np.clip(np.rint(values), -128, 127).astype(np.int8)
        if i % 5 == 0:
            symbols.reshape(-1)[:: int(r.integers(2, 9))] = r.choice([-128, 127])
        t = tables.build(tables.count(symbols[None]))
        made.append(Case(last if last is not None and i % 4 == 0 and last.channels == channels else t, symbols))
        last = t
    return made


def features(count: int, seed: int = 2) -> list[Case]:
    """Tensors of 8 x 8 x 8 symbols as a trained head has them: rounded Laplace of scales 0.15 to 2."""
    r = np.random.default_rng(seed)
    scale = np.exp(r.uniform(np.log(0.15), np.log(2), (1, 8, 1, 1)))
    every = np.clip(np.rint(r.laplace(0, scale, (count, 8, 8, 8))), -128, 127).astype(np.int8)
    t = tables.build(tables.count(every))
    return [Case(t, s) for s in every]


def inputs(made: Sequence[Case]) -> bytes:
    """Return the inputs file of firmware/split/vectors.c."""
    parts = [struct.pack("<I", len(made))]
    for case in made:
        channels, pixels = case.symbols.shape[0], case.symbols[0].size
        parts += [struct.pack("<II", channels, pixels), case.tables.block(), case.symbols.tobytes()]
    return b"".join(parts)


def outputs(data: bytes, count: int, where: str) -> list[Coded]:
    """Read the outputs file; DeviceError where it is short or damaged."""
    if len(data) < 4 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise DeviceError(f"{where}: the results are damaged; run it again")
    found, at = [], 0
    for _ in range(count):
        nbytes, encode, decode, result = struct.unpack_from("<iIIi", data, at)
        at += 16
        found.append(Coded(data[at : at + max(nbytes, 0)], encode, decode, result))
        at += max(nbytes, 0)
    return found


def build_image(target: Target, folder: Path, level: str = "-Os") -> Path:
    """Compile and link the image for an emulated board."""
    assert target.toolchain is not None
    assert target.flash is not None
    assert target.ram is not None
    files = [f for f in app_files(target, Application.FILES) if f.endswith(".c") and f not in (_RUNNER, "arena.c")]
    (folder / "memory.ld").write_text(build.memory_script(target.flash, target.ram))
    (folder / "arenas.ld").write_text(build.arenas_script(()))
    app = build.FIRMWARE / "app"
    flags = ["-std=c99", *target.toolchain.flags, *build.IMAGE, level, *app_flags(target, Application.FILES)]
    flags += [f"-I{app}", *WARNINGS, *build.LINK, f"-L{folder}", f"-L{app}", f"-T{target.folder / 'link.ld'}"]
    flags += ["-Wl,--no-warn-rwx-segments", "-Wl,-z,max-page-size=16"]
    sources = [*(str(build.FIRMWARE / s) for s in SOURCES), *(str(app / f) for f in files)]
    build.run([f"{target.toolchain.prefix}gcc", *flags, *sources, "-o", "image.elf"], folder, target.name)
    return folder / "image.elf"


def build_program(compiler: str, folder: Path, more: Sequence[str] = ()) -> Path:
    """Compile the same for a computer."""
    sources = [str(build.FIRMWARE / s) for s in (*SOURCES, "split/vectors_posix.c", "app/crc.c")]
    build.run([compiler, "-std=c99", "-O2", "-static", *WARNINGS, *more, *sources, "-o", "image"], folder, compiler)
    return folder / "image"


def run(command: Sequence[str], made: Sequence[Case], folder: Path, where: str) -> list[Coded]:
    """Start a program or an emulator in the folder, on in.bin and out.bin."""
    (folder / "in.bin").write_bytes(inputs(made))
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{where}: silent for {_SECONDS} s, then stopped") from None
    if done.returncode != 0:
        raise DeviceError(f"{where}: ended with code {done.returncode}")
    return outputs((folder / "out.bin").read_bytes(), len(made), where)


def on_board(name: str, made: Sequence[Case]) -> list[Coded]:
    """Code the cases on an emulated board."""
    target = targets.load(name)
    assert target.emulator is not None
    with tempfile.TemporaryDirectory(prefix="bitship-") as scratch:
        folder = Path(scratch)
        image = build_image(target, folder)
        words = ",".join(f"arg={w}" for w in ("image", "in.bin", "out.bin"))
        command = [target.emulator.program, "-machine", str(target.emulator.machine), "-nographic"]
        command += ["-serial", "null", "-monitor", "none", "-kernel", str(image)]
        command += ["-semihosting-config", f"enable=on,target=native,{words}"]
        command += ["-icount", f"shift={target.emulator.icount_shift},sleep=off", *target.emulator.options]
        return run(command, made, folder, name)


def on_computer(compiler: str, emulator: Sequence[str], made: Sequence[Case], more: Sequence[str] = ()) -> list[Coded]:
    """Code the cases by a program of a computer, in an emulator where one is given."""
    with tempfile.TemporaryDirectory(prefix="bitship-") as scratch:
        image = build_program(compiler, Path(scratch), more)
        return run([*emulator, str(image), "in.bin", "out.bin"], made, Path(scratch), compiler)


def instructions(target: Target, found: Sequence[Coded], made: Sequence[Case]) -> tuple[float, float]:
    """Instructions a symbol, of encoding and decoding."""
    counter = target.emulator.counter if target.emulator else None
    symbols = sum(c.symbols.size for c in made)
    if counter is None:
        return 0.0, 0.0
    scale = counter.numerator / counter.denominator / symbols
    return sum(c.encode_ticks for c in found) * scale, sum(c.decode_ticks for c in found) * scale


def code_bytes(core: str) -> dict[str, int]:
    """Return the bytes of every function of the coder's object at -Os."""
    with tempfile.TemporaryDirectory(prefix="bitship-") as scratch:
        folder = Path(scratch)
        source = str(build.FIRMWARE / "split" / "rans.c")
        build.run(["arm-none-eabi-gcc", f"-mcpu={core}", "-mthumb", "-std=c99", "-Os", "-c", source], folder, core)
        text = build.run(["arm-none-eabi-nm", "-S", "rans.o"], folder, core)
    return {m[2]: int(m[1], 16) for m in re.finditer(r"^\w+ (\w+) [tT] (\w+)$", text, re.MULTILINE)}


def equal(found: Sequence[Coded], wanted: Sequence[bytes]) -> int:
    """How many streams are the wanted ones and were decoded to their symbols."""
    return sum(f.stream == w and f.decoded == 0 for f, w in zip(found, wanted, strict=True))


def table(count: int) -> list[Row]:
    """Every processor there is."""
    made, small = cases(count), features(64)
    wanted = [rans.encode_spec(c.tables, c.symbols.reshape(c.tables.channels, -1)) for c in made]
    host = [rans.encode(c.tables, c.symbols) for c in made]
    rows = [Row("host, C kernels", sum(a == b for a, b in zip(host, wanted, strict=True)), count)]
    if shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64"):
        found = on_computer("aarch64-linux-gnu-gcc", ["qemu-aarch64"], made)
        rows.append(Row("aarch64 (QEMU)", equal(found, wanted), count))
    for name in BOARDS:
        target = targets.load(name)
        found = on_board(name, made)
        encode, decode = instructions(target, on_board(name, small), small)
        rows.append(Row(f"{name}, {target.cpu} (QEMU)", equal(found, wanted), count, encode, decode))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The coder of split features on every processor.")
    parser.add_argument("--tensors", type=int, default=1000, help="random tensors")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args(arguments)
    rows = table(args.tensors)
    print(f"{'processor':34} {'equal streams':>16} {'encode':>8} {'decode':>8}   instructions a symbol, simulated")
    for row in rows:
        counts = [f"{n:8.1f}" if n else f"{'-':>8}" for n in (row.encode_instructions, row.decode_instructions)]
        print(f"{row.processor:34} {row.equal:>8} of {row.tensors} {' '.join(counts)}")
    sizes = {core: code_bytes(core) for core in CORES}
    print(f"\n{'bytes of code, gcc -Os':34} {'encode':>8} {'decode':>8} {'check':>8} {'symbols':>8}")
    for core, found in sizes.items():
        columns = (found[f"bitship_rans_{n}"] for n in ("encode", "decode", "check", "symbols"))
        print(f"{core:34} {' '.join(f'{n:>8}' for n in columns)}")
    if args.json:
        args.json.write_bytes(msgspec.json.encode({"streams": rows, "code_bytes": sizes}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.split_coder: {e}")
