"""The emulated boards, and the marks of a test that needs one."""

import shutil

import pytest

from bitship import targets

BOARDS = ["microbit", "mps2-an385", "mps2-an386", "mps2-an500", "mps3-an547", "qemu-rv32imc"]


def needs_board(name: str) -> list[pytest.MarkDecorator]:
    """Marks of a test on a board: the compiler and the emulator must be installed."""
    target = targets.load(name)
    assert target.toolchain is not None
    assert target.emulator is not None
    programs = (f"{target.toolchain.prefix}gcc", target.emulator.program)
    absent = [p for p in programs if shutil.which(p) is None]
    return [pytest.mark.target, pytest.mark.skipif(bool(absent), reason=f"{' and '.join(absent)} not installed")]


def on_boards(*names: str, slow: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Run a test on boards; those of ``slow`` only with the slow tests."""
    marks = {n: [*needs_board(n), *([pytest.mark.slow] if n in slow else [])] for n in names}
    return pytest.mark.parametrize("board", [pytest.param(n, marks=marks[n]) for n in names])
