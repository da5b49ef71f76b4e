"""The compiler's side of a package: which sources it needs, how they are built, what the image occupies."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitship.converters.firmware import cores, hosted, stack
from bitship.converters.firmware.application import SPLIT_FILES, app_files, app_flags
from bitship.converters.firmware.npu import FUNCTIONS as NPU_FUNCTIONS
from bitship.converters.firmware.npu import NpuPort
from bitship.errors import DoesNotFitError, MissingDependencyError, TargetError
from bitship.passes.spread import Region
from bitship.targets import Application, Memory, Target, TargetKind
from bitship.targets.base import Region as MemoryRegion

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
HEADERS = ("include/bitship/kernels.h", "src/fixed.h", "src/lanes.h", "src/product.h", "src/strip.h", "src/window.h")
ALWAYS = ("lanes.c", "rescale.c")
BUILD_SECONDS = 300
ENTRY = "port_reset"

_FILES = {
    "conv2d": "conv2d.c",
    "depthwise_conv2d": "depthwise_conv2d.c",
    **dict.fromkeys(("avg_pool2d", "max_pool2d"), "pool.c"),
    "fully_connected": "fully_connected.c",
    "matmul": "matmul.c",
    **dict.fromkeys(("table_softmax", "softmax_matmul"), "attention.c"),
    **dict.fromkeys(("layer_norm", "rms_norm", "i_layer_norm"), "norm.c"),
    **dict.fromkeys(("shiftmax", "shiftgelu"), "ivit.c"),
    "rescale": "rescale.c",
    **dict.fromkeys(("add", "sub", "mul", "clamp", "cast", "table"), "elementwise.c"),
    **dict.fromkeys(("logical_left_shift", "arithmetic_right_shift"), "elementwise.c"),
    **dict.fromkeys(("reduce", "argmax"), "reduce.c"),
    **dict.fromkeys(("slice", "transpose", "pad", "concat", "reshape", "gather"), "layout.c"),
    "resize": "resize.c",
    "softmax": "softmax.c",
}

COMMON = ("-std=c99", "-Ikernels/include", "-Ikernels/src", "-I.", "-ffile-prefix-map=$(CURDIR)=.")
HOST = ("-O3", "-fPIC", "-shared", "-fvisibility=default")
PROGRAM = ("-O3", "-static", "-DMODEL_HOOKS", "-Wl,-z,noexecstack")
RUNNER = "runner"
IMAGE = ("-O2", "-Iapp", "-ffunction-sections", "-fdata-sections", "-fno-common", "-nostartfiles")
LINK = ("-Wl,--gc-sections", "-Wl,--build-id=none")
# small pages: a segment begins where its section does, not with the file's headers
IMAGE_LINK = ("-Lapp", "-Tapp/link.ld", "-Wl,--no-warn-rwx-segments", "-Wl,-z,max-page-size=16")


def kernel_files(functions: Sequence[str]) -> list[str]:
    """Return the kernel sources that hold these functions (``bitship_conv2d``), sorted."""
    files = set(ALWAYS)
    for function in functions:
        if function in NPU_FUNCTIONS:
            files.update(NPU_FUNCTIONS[function])
            continue
        files.update(cores.source_files(function) or (_FILES[function.removeprefix("bitship_")],))
    return sorted(files | ({"product.c"} if files & {"matmul.c", "attention.c"} else set()))


def header_files(sources: Sequence[str]) -> list[str]:
    """Return the headers that these kernel sources include, relative to ``firmware``."""
    families = {Path(s).parent.name for s in sources}
    extra = [f"src/{name}" for family, names in cores.HEADERS.items() if family in families for name in names]
    return sorted((*HEADERS, *extra))


@dataclass(frozen=True)
class Recipe:
    """The commands that make ``output`` in the package's folder: compile and link, then strip."""

    compiler: str
    flags: tuple[str, ...]
    sources: tuple[str, ...]
    output: str

    def makefile(self, beside: "Recipe | None" = None) -> str:
        """Return a Makefile with these commands, and those of a second output of the same compiler."""
        outputs = [self.output, *([beside.output] if beside else [])]
        heading = f"""# Rebuilds {" and ".join(outputs)} from this folder alone: make, or make CC=another-compiler
CC = {self.compiler}
STRIP = {self.tool("strip")}
"""
        every = f"\nall: {' '.join(outputs)}\n" if beside else ""
        return heading + every + self._rule("") + (beside._rule("RUNNER_") if beside else "")

    def _rule(self, prefix: str) -> str:
        flags, sources = f"{prefix}FLAGS", f"{prefix}SOURCES"
        return f"""{flags} = {" ".join(self.flags)}
{sources} = {" ".join(self.sources)}

{self.output}: $({sources}) Makefile
\t$(CC) $({flags}) $({sources}) -o $@
\t$(STRIP) $@
"""

    def tool(self, name: str) -> str:
        """Return the compiler's companion: ``objdump``, ``size``, ``strip``."""
        return name if self.compiler == "cc" else self.compiler.removesuffix("gcc") + name

    def command(self, folder: Path, *more: str) -> list[str]:
        """Return the command's words, with ``more`` flags, to be run in the folder."""
        flags = [f.replace("$(CURDIR)", str(folder.resolve())) for f in self.flags]
        return [self.compiler, *flags, *more, *self.sources, "-o", self.output]


def recipe(
    target: Target,
    functions: Sequence[str],
    weights: bool,
    application: Application = Application.FILES,
    npu: NpuPort | None = None,
) -> Recipe:
    """Return how a package for the target is built; an image with application and NPU port around the model."""
    check_described(target)
    image = target.kind is TargetKind.MCU
    prefix, core = (target.toolchain.prefix, target.toolchain.flags) if target.toolchain else ("", ())
    sources = ["model.c", *(["weights.S"] if weights else []), *(f"kernels/src/{f}" for f in kernel_files(functions))]
    flags = [*COMMON, *core]
    if image:
        flags += [*IMAGE, *app_flags(target, application), *(npu.flags if npu else ()), *LINK, *IMAGE_LINK]
        sources += [f"app/{f}" for f in app_files(target, application) if f.endswith(".c")]
        if application is Application.SPLIT:
            sources += [f"split/{f}" for f in SPLIT_FILES if f.endswith(".c")]
        sources += npu.inputs if npu else ()
        return Recipe(f"{prefix}gcc", tuple(flags), tuple(sources), "model.elf")
    compiler = f"{prefix}gcc" if prefix else "cc"
    if target.kind is TargetKind.HOST:
        return Recipe(compiler, (*flags, *HOST, *LINK), tuple(sources), "libmodel.so")
    return Recipe(compiler, (*flags, *PROGRAM, *LINK), (*hosted.FILES, *sources), RUNNER)


def program_beside(made: Recipe) -> Recipe:
    """Return how the command-line program is built beside a shared library, by the same compiler."""
    flags = [f for f in made.flags if f not in HOST]
    return Recipe(made.compiler, (*flags, *PROGRAM), (*hosted.FILES, *made.sources), RUNNER)


def check_described(target: Target) -> None:
    """Raise TargetError unless target.toml says what building takes."""
    if target.kind is TargetKind.MCU and (target.toolchain is None or target.flash is None or target.ram is None):
        raise TargetError(f"{target.name}: target.toml has no toolchain, flash or ram; firmware needs all three")
    if target.kind is not TargetKind.HOST and target.toolchain is None:
        raise TargetError(f"{target.name}: target.toml names no toolchain, which firmware needs; use another converter")


def memory_script(flash: Memory, ram: Memory, others: Sequence[MemoryRegion] = ()) -> str:
    """Return memory.ld: the target's regions."""
    regions = [("FLASH", "rx", flash), ("RAM", "rwx", ram), *((m.name.upper(), "rw", m) for m in others)]
    lines = [f"    {n} ({a}) : ORIGIN = {m.origin:#010x}, LENGTH = {m.nbytes}" for n, a, m in regions]
    return "/* Made from target.toml. */\nMEMORY\n{\n" + "\n".join(lines) + "\n}\n"


def arenas_script(others: Sequence[MemoryRegion]) -> str:
    """Return arenas.ld: a section for the arena of every region beside the RAM."""
    lines = [f"    .arena_{m.name} (NOLOAD) : ALIGN(16) {{ *(.arena_{m.name}) }} > {m.name.upper()}" for m in others]
    return "\n".join(["/* Made from target.toml. */", *lines]) + "\n"


def regions(target: Target) -> tuple[Region, ...]:
    """Return where tensors may lie, the fastest first; () where there is but one memory."""
    if target.ram is None or not target.memories:
        return ()
    others = [(m.slower, Region(m.name, m.nbytes)) for m in target.memories]
    ram = Region("", target.ram.nbytes)
    return (*(r for slower, r in others if not slower), ram, *(r for slower, r in others if slower))


def check_regions(target: Target, elsewhere: Mapping[str, int]) -> None:
    """Raise DoesNotFitError where an arena beside the RAM is too large."""
    for memory in target.memories:
        over = elsewhere.get(memory.name, 0) - memory.nbytes
        if over > 0:
            raise DoesNotFitError(
                f"{target.name}: tensors need {memory.nbytes + over} B of {memory.name}, {memory.nbytes} B exist, "
                f"{over} B too many; use a smaller model or a larger target"
            )


def check_memories(target: Target, flash_bytes: int, ram_bytes: int, what: str) -> None:
    """Raise DoesNotFitError, with the bytes missing, unless both memories suffice."""
    for memory, needed, name in ((target.flash, flash_bytes, "flash"), (target.ram, ram_bytes, "RAM")):
        if memory is not None and needed > memory.nbytes:
            raise DoesNotFitError(
                f"{target.name}: {what} need {needed} B of {name}, {memory.nbytes} B exist, "
                f"{needed - memory.nbytes} B too many; use a smaller model or a larger target"
            )


def _package(program: str) -> str:
    if program.startswith("arm-none-eabi-"):
        return "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"
    if program.startswith("riscv64-unknown-elf-"):
        return "apt-get install gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf"
    return f"apt-get install {'gcc-' + program.removesuffix('-gcc') if program.endswith('-gcc') else 'gcc'}"


def run(command: Sequence[str], folder: Path, target: str = "") -> str:
    """Run a tool in the folder and return its output; MissingDependencyError or TargetError when it fails."""
    program = command[0]
    if shutil.which(program) is None:
        raise MissingDependencyError(f"{program}: not found; the firmware converter needs it: {_package(program)}")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise TargetError(f"{program}: no end after {BUILD_SECONDS} s while building for {target}") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower() or "overflowed" in line]
        overflow = re.search(r"region `(\w+)' overflowed by (\d+) bytes", done.stderr)
        if overflow:
            memory = "RAM" if overflow[1] == "RAM" else "flash"
            raise DoesNotFitError(
                f"{target}: the image needs {overflow[2]} B of {memory} too many; "
                "use a smaller model or a larger target"
            )
        raise TargetError(f"{program}: failed with code {done.returncode}: {(lines or ['no message'])[0]}")
    return done.stdout


def compile_package(made: Recipe, folder: Path, target: str, entry: str | None = None) -> tuple[str, int | None]:
    """Build the package in place; return the compiler's version and, given an entry point, the stack below it."""
    version = run([made.compiler, "-dumpfullversion"], folder).strip()
    run(made.command(folder, *([] if entry is None else [stack.FLAG])), folder, target)
    deepest = None
    if entry is not None:
        graph = stack.take_reports(folder)
        graph.read_code(run([made.tool("objdump"), "-d", "--no-show-raw-insn", made.output], folder))
        deepest = graph.deepest(entry)
    run([made.tool("strip"), made.output], folder, target)
    return version, deepest


def section_bytes(made: Recipe, folder: Path) -> dict[str, int]:
    """Return the size of every section of the built file."""
    text = run([made.tool("size"), "-A", "-d", made.output], folder)
    return {m[1]: int(m[2]) for m in re.finditer(r"^(\.[\w.]+)\s+(\d+)\s+\d+$", text, re.MULTILINE)}
