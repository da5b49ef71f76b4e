"""The serial application as a program of this machine: a board without a board, for tests and for trying things."""

from pathlib import Path

from bitship.converters.firmware import build, emit, serial
from bitship.converters.firmware.application import APP, SERIAL_HEADERS, SERIAL_SOURCES
from bitship.converters.firmware.program import Program
from bitship.converters.firmware.serial import SerialOptions
from bitship.targets import Target

SHARED = ("arena.c", "crc.c", "host.c")
HEADERS = ("arena.h", "crc.h", "port.h")
FLAGS = ("-O1", "-Iapp", "-DMODEL_HOOKS", "-DBITSHIP_UART_BAUD=115200", "-DBITSHIP_COUNTER_HZ=1000000000u")
NAME = "board"


def build_board(
    program: Program,
    target: Target,
    out: Path,
    options: SerialOptions | None = None,
    energy: bool = False,
    flags: tuple[str, ...] = (),
) -> Path:
    """Write and compile a program's serial application below ``out``; return the executable.

    target  whose RAM decides how long a command may be
    flags   more of the compiler's, such as ``-fsanitize=address``
    """
    sources, options = build.kernel_files(program.functions), options or SerialOptions()
    texts = {
        "model.h": emit.header(program).encode(),
        "model.c": emit.source(program, hooks=True).encode(),
        serial.CONFIG: serial.config(program, target, options).encode(),
        serial.STEPS: serial.steps_text(program),
    }
    if program.weights:
        texts |= {"weights.S": emit.weights_source(program).encode(), "weights.bin": program.weights}
    if options.vectors[0]:
        texts |= {serial.GOLDEN: serial.golden(options.vectors), serial.GOLDEN_SOURCE: serial.golden_source().encode()}
    for name in (*build.header_files(sources), *(f"src/{f}" for f in sources)):
        texts[f"kernels/{name}"] = (build.FIRMWARE / name).read_bytes()
    for name in (*SERIAL_SOURCES, *SERIAL_HEADERS, *SHARED, *HEADERS):
        texts[f"app/{name}"] = (APP / name).read_bytes()
    for name, text in texts.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(text)
    words = ["cc", *build.COMMON[:-1], *FLAGS, f"-DBITSHIP_ENERGY={int(energy)}u", *flags, "model.c"]
    words += [name for name in ("weights.S", serial.GOLDEN_SOURCE) if name in texts]
    words += [f"kernels/src/{f}" for f in sources] + [f"app/{f}" for f in (*SERIAL_SOURCES, *SHARED)]
    build.run([*words, "-o", NAME], out)
    return out / NAME
