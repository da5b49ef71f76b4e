"""Program to files: LLVM writes the kernels, a C compiler the few lines that call them and the command-line runner.

Nothing here or in what is linked needs TVM at run time: kernels use the C calling convention and call memset and
memcpy only. The same program gives the same bytes: no time, no path and no build id goes in.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.lower import Address, Program
from bitship.errors import MissingDependencyError, UnsupportedError
from bitship.extras import require
from bitship.graph import Graph

RUNNER = Path(__file__).parents[1] / "runner.c"
TEAM = Path(__file__).with_name("team.c")
_CONSTANTS = """\
.section .rodata.bitship_constants,"a",%progbits
.balign 64
.globl bitship_constants
.hidden bitship_constants
bitship_constants:
.incbin "constants.bin"
.balign 64
.section .note.GNU-stack,"",%progbits
"""
_EXPORTS = (
    "{ global: bitship_run; bitship_set_threads; bitship_inputs; bitship_outputs; bitship_*put_bytes; local: *; };\n"
)
HEXAGON = Path(__file__).with_name("hexagon.c")
_HEXAGON_FLAGS = ("-mv67", "-mhvx=v67", "-mhvx-length=128b", "-ffreestanding", "-fno-builtin", "-nostdlib")
_FLAGS = ("-O2", "-std=gnu11", "-fPIC", "-g0", "-fno-ident", "-fno-asynchronous-unwind-tables")


def require_tvm() -> str:
    """Return TVM's version; MissingDependencyError when it is not installed."""
    return str(require("tvm", "tvm", "tvm converter").__version__)


def compiler(isa: Isa, prefix: str | None = None) -> str:
    """Return the C compiler for a level; MissingDependencyError when there is none."""
    import platform

    if isa.machine == "hexagon":
        if shutil.which("clang") and shutil.which("ld.lld"):
            return "clang"
        raise MissingDependencyError("tvm: clang and ld.lld are needed for Hexagon; on Debian: apt install clang lld")
    native = platform.machine() == isa.machine and prefix is None
    names = ("cc", "gcc", "clang") if native else (f"{prefix or isa.triple + '-'}gcc",)
    for name in names:
        if shutil.which(name):
            return name
    raise MissingDependencyError(
        f"tvm: no C compiler for {isa.triple}: looked for {', '.join(names)}; on Debian: apt install "
        + ("gcc" if native else f"gcc-{isa.triple.replace('_', '-')}")
    )


def file_name(graph: Graph) -> str:
    """Return the library's file name for a graph."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", graph.name).strip("._-") or "model"
    return f"lib{stem}.so"


def build(program: Program, graph: Graph, isa: Isa, out: Path, prefix: str | None = None, runner: bool = True) -> int:
    """Write the shared library (and the statically linked ``runner``) below ``out``; return the bytes of code."""
    cc = compiler(isa, prefix)
    with tempfile.TemporaryDirectory(prefix="bitship-tvm-") as temporary:
        folder = Path(temporary)
        code = _write_object(program, isa, folder / "kernels.o")
        (folder / "constants.bin").write_bytes(program.constants or bytes(64))
        (folder / "constants.S").write_text(_CONSTANTS)
        (folder / "exports.map").write_text(_EXPORTS)
        (folder / "model.c").write_text(driver(program, graph))
        if isa.machine == "hexagon":
            _link_hexagon(cc, isa, folder, out / file_name(graph), out / "runner" if runner else None)
            return code
        shutil.copyfile(TEAM, folder / "team.c")
        _run(cc, (*_FLAGS, "-pthread", "-c", "model.c", "team.c", "constants.S"), folder)
        parts = ("model.o", "team.o", "constants.o", "kernels.o", "-pthread")
        link = ("-shared", "-Wl,--build-id=none", "-Wl,-s", "-Wl,-z,noexecstack", "-Wl,--version-script=exports.map")
        _run(cc, (*link, "-Wl,-soname," + file_name(graph), "-o", "model.so", *parts), folder)
        shutil.copyfile(folder / "model.so", out / file_name(graph))
        if runner:
            shutil.copyfile(RUNNER, folder / "runner.c")
            _run(cc, (*_FLAGS, "-c", "runner.c"), folder)
            _run(cc, ("-static", "-Wl,--build-id=none", "-Wl,-s", "-o", "runner", "runner.o", *parts), folder)
            shutil.copyfile(folder / "runner", out / "runner")
            (out / "runner").chmod(0o755)
        return code


def _link_hexagon(cc: str, isa: Isa, folder: Path, library: Path, runner: Path | None) -> None:
    """Link the library, and a runner that needs no C library."""
    shutil.copyfile(HEXAGON, folder / "hexagon.c")
    (folder / "string.h").write_text("#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\n")
    flags = (f"--target={isa.triple}", "-I.", *_HEXAGON_FLAGS, *_FLAGS, "-Wno-unused-command-line-argument")
    link = ("-fuse-ld=lld", "-Wl,--build-id=none", "-Wl,-s")
    parts = ("kernels.o", "constants.S", "model.c", "hexagon.c")
    shared = ("-shared", "-Wl,--version-script=exports.map", f"-Wl,-soname,{library.name}")
    _run(cc, (*flags, *link, *shared, "-o", "model.so", *parts), folder)
    shutil.copyfile(folder / "model.so", library)
    if runner is not None:
        _run(cc, (*flags, *link, "-static", "-DBITSHIP_RUNNER", "-o", "runner", *parts), folder)
        shutil.copyfile(folder / "runner", runner)
        runner.chmod(0o755)


def _run(cc: str, arguments: Sequence[str], folder: Path) -> None:
    done = subprocess.run([cc, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
        raise UnsupportedError(f"tvm: {cc} failed: {first}")


def _write_object(program: Program, isa: Isa, path: Path) -> int:
    """Compile the kernels to one object file and return the size of its code in bytes."""
    compile_kernels(program.kernels, isa, path)
    return _text_bytes(path.read_bytes())


def compile_kernels(kernels: Mapping[str, Any], isa: Isa, path: Path) -> None:
    """Compile PrimFuncs, by symbol, to one object file; they keep the C calling convention."""
    import tvm

    module = tvm.tirx.transform.LowerIntrin()(tvm.IRModule(dict(kernels)))
    tvm.get_global_func("target.build.llvm")(module, isa.target()).write_to_file(str(path), "o")


# Of an ELF file by its class: where the section table's offset, entry size and count are; of a section header, where
# flags and size are. Offset and flags are as wide as an address.
_ELF = {1: (4, 0x20, 0x2E, 0x30, 0x08, 0x14), 2: (8, 0x28, 0x3A, 0x3C, 0x08, 0x20)}


def _text_bytes(elf: bytes) -> int:
    """Return the size of the executable sections of a little-endian ELF object."""
    wide, table_at, size_at, count_at, flags_at, bytes_at = _ELF[elf[4]]

    def number(at: int, nbytes: int) -> int:
        return int.from_bytes(elf[at : at + nbytes], "little")

    headers = range(number(table_at, wide), len(elf), number(size_at, 2))[: number(count_at, 2)]
    return sum(number(h + bytes_at, wide) for h in headers if number(h + flags_at, wide) & 4)


def _pointer(address: Address) -> str:
    space, offset = address
    return f"{'C' if space == 'constants' else space} + {offset}"


def driver(program: Program, graph: Graph) -> str:
    """Return the C source of ``bitship_run``: copy the inputs in, call every kernel, copy the outputs out."""
    lines = [
        f"/* Generated by bitship for graph {graph.digest}. */",
        "#include <stdint.h>",
        "#include <string.h>",
        "#define C ((void *)(uintptr_t)bitship_constants)",
        '#define EXPORT __attribute__((visibility("default")))',
        'extern const uint8_t bitship_constants[] __attribute__((visibility("hidden")));',
        f"static uint8_t arena[{max(program.arena_bytes, 64)}] __attribute__((aligned(64)));",
        *([f"static uint8_t unpacked[{program.unpacked_bytes}] __attribute__((aligned(64)));"] * bool(program.narrow)),
        *_sizes("input", [n for _, n in program.inputs]),
        *_sizes("output", [n for _, n in program.outputs]),
    ]
    kernels = {c.function: len(c.arguments) for c in program.calls}
    lines += [f"void {name}({'void *, ' * count}int32_t, int32_t);" for name, count in kernels.items()]
    lines += [
        "void bitship_barrier(int parts);",
        "void bitship_team_run(void);",
        "void bitship_program(int part, int parts);",
        "static void meet(int parts)",
        "{",
        "    if (parts > 1) {",
        "        bitship_barrier(parts);",
        "    }",
        "}",
        "void bitship_program(int part, int parts)",
        "{",
    ]
    lines += _steps(program)
    lines += ["}", *_unpacking(program)]
    lines += ["EXPORT int bitship_run(const void *const *inputs, void *const *outputs)", "{"]
    if program.narrow:
        lines.append("    unpack();")
    for i, (address, nbytes) in enumerate(program.inputs):
        lines.append(f"    memcpy({_pointer(address)}, inputs[{i}], {nbytes});")
    lines.append("    bitship_team_run();")
    for i, (address, nbytes) in enumerate(program.outputs):
        lines.append(f"    memcpy(outputs[{i}], {_pointer(address)}, {nbytes});")
    return "\n".join([*lines, "    return 0;", "}", ""]).replace("void * ", "void *")


def _unpacking(program: Program) -> list[str]:
    """Return what takes constants of four bits apart, once, before the first run."""
    if not program.narrow:
        return []
    return [
        "static const struct { uint32_t source, target, count, width; } narrow[] = {",
        *(f"    {{{n.source}, {n.target}, {n.count}, {n.width}}}," for n in program.narrow),
        "};",
        "static void unpack(void)",
        "{",
        "    static int done;",
        "    for (uint32_t n = 0; !done && n < sizeof narrow / sizeof *narrow; n++) {",
        "        const uint8_t *from = bitship_constants + narrow[n].source;",
        "        uint8_t *to = unpacked + narrow[n].target;",
        "        for (uint32_t i = 0; i < narrow[n].count; i++) {",
        "            int code = ((from[i / 2] >> (i % 2 * 4) & 15) ^ 8) - 8;",
        "            if (narrow[n].width == 1) {",
        "                to[i] = (uint8_t)code;",
        "            } else {",
        "                ((int16_t *)(void *)to)[i] = (int16_t)code;",
        "            }",
        "        }",
        "    }",
        "    done = 1;",
        "}",
    ]


def _steps(program: Program) -> list[str]:
    """Return the calls in order, with a meeting of all threads before and after every call they share."""
    lines: list[str] = []
    for i, c in enumerate(program.calls):
        where = "".join(f"{_pointer(a)}, " for a in c.arguments)
        if i and (c.shared or program.calls[i - 1].shared):
            lines.append("    meet(parts);")
        if c.shared:
            lines.append(f"    {c.function}({where}part, parts);")
        else:
            lines += ["    if (part == 0) {", f"        {c.function}({where}0, 1);", "    }"]
    return [*lines, "    meet(parts);"]


def _sizes(what: str, nbytes: list[int]) -> list[str]:
    values = ", ".join(map(str, nbytes)) or "0"
    return [
        f"EXPORT extern const uint32_t bitship_{what}s, bitship_{what}_bytes[];",
        f"const uint32_t bitship_{what}s = {len(nbytes)};",
        f"const uint32_t bitship_{what}_bytes[] = {{{values}}};",
    ]
