"""What an image does beside running its model: how inputs reach it and results leave it, and which files that takes."""

import re
from pathlib import Path

from bitship.errors import TargetError
from bitship.targets import Application, Target

APP = Path(__file__).resolve().parents[2] / "firmware" / "app"
FILES_SOURCES = ("runner.c", "semihosting.c")
SERIAL_SOURCES = ("serial.c", "extensions.c", "pulse.c", "text.c", "tiny.c", "work.c")
SERIAL_HEADERS = ("extensions.h", "pulse.h", "text.h", "tiny.h", "work.h")
SPLIT_FILES = ("device.c", "frame.c", "rans.c", "frame.h", "rans.h")  # in firmware/split
EVERY = ("arena.c", "crc.c", "stack.c", "start.c", "arena.h", "crc.h", "port.h", "sections.ld")
BOARD, BOARD_SOURCE = "board.c", "port.c"
_SHARED = re.compile(r'^#include "(\w+/\w+\.h)"', re.MULTILINE)  # what boards with one chip share


def application_for(target: Target, wanted: Application | None) -> Application:
    """Return the application of a target's image: the wanted one, or FILES where the target is emulated.

    Raises TargetError where the target lacks what the application needs.
    """
    application = wanted or (Application.SERIAL if target.emulator is None else Application.FILES)
    if application is not Application.FILES and target.uart is None:
        raise TargetError(f"{target.name}: target.toml has no uart, which application '{application.value}' needs")
    if application is Application.ENERGY and target.marker is None and target.emulator is None:
        raise TargetError(f"{target.name}: target.toml has no marker, whose pulses are the timestamps in energy mode")
    return application


def app_files(target: Target, application: Application) -> list[str]:
    """Return what an image needs around the model, relative to ``firmware/app``."""
    assert target.toolchain is not None
    startup, counter = target.toolchain.startup, counter_of(target, application)
    files = [*EVERY, f"counter_{counter[0]}.c", f"{startup}/reset.c"]
    if (target.folder / BOARD_SOURCE).is_file():
        files += [BOARD, *_SHARED.findall((target.folder / BOARD_SOURCE).read_text())]
    if application is Application.FILES:
        return [*FILES_SOURCES, *files, f"{startup}/request.c"]
    assert target.uart is not None
    uart = f"uart_{target.uart.driver}.c"
    if application is Application.SPLIT:
        return [*files, f"{startup}/restart.c", uart]
    marker = target.marker.driver if target.marker else "none"
    return [
        *SERIAL_SOURCES,
        *SERIAL_HEADERS,
        *files,
        f"{startup}/restart.c",
        uart,
        f"marker_{marker}.c",
    ]


def counter_of(target: Target, application: Application) -> tuple[str, int, int]:
    """Return (driver, address, hz) of the counter an image reads; a driver ``none`` where there is none."""
    if application is not Application.FILES and target.timer is not None:
        return target.timer.driver, target.timer.address, target.timer.hz
    counter = target.emulator.counter if target.emulator else None
    return (counter.driver, counter.address, counter.hz) if counter else ("none", 0, 0)


def app_flags(target: Target, application: Application) -> list[str]:
    """Return the macros that tell the drivers what target.toml says."""
    _, address, hz = counter_of(target, application)
    known = {name: value for name, value in (("COUNTER", address), ("COUNTER_HZ", hz)) if value}
    if application is not Application.FILES and target.uart is not None:
        energy = application is Application.ENERGY
        known |= {"UART": target.uart.address, "UART_HZ": target.uart.hz}
        known |= {"UART_BAUD": target.uart.energy_baud if energy else target.uart.baud, "ENERGY": int(energy)}
        if target.timer is None and target.emulator and target.emulator.counter:
            counter = target.emulator.counter
            known |= {"COUNTER_NUMERATOR": counter.numerator, "COUNTER_DENOMINATOR": counter.denominator}
        if target.clock_hz is not None:
            known |= {"CLOCK_HZ": target.clock_hz}
        if target.marker is not None:
            known |= {"MARKER": target.marker.address, "MARKER_BIT": target.marker.bit}
    flags = [f"-DBITSHIP_{name}={value:#x}u" for name, value in known.items()]
    flags += ["-DMODEL_HOOKS"] if application.speaks else []
    return [*flags, *(["-DBITSHIP_BOARD"] if (target.folder / BOARD_SOURCE).is_file() else [])]


def app_text(target: Target, name: str) -> bytes:
    """Return one of ``app_files``; a board's own is its target's."""
    return (target.folder / BOARD_SOURCE if name == BOARD else APP / name).read_bytes()
