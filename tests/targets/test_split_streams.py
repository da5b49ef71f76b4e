"""The coder's streams on emulated processors: those of the specification, and decoded to their symbols there."""

import shutil
import subprocess
from pathlib import Path

import pytest
from benchmarks import split_coder
from benchmarks.split_coder import BOARDS, Case, Coded, cases, equal, on_board, on_computer
from boards import needs_board, on_boards

from bitship import targets
from bitship.converters.firmware import build
from bitship.split import rans

FEW, MANY = 60, 1000
AARCH64 = ("aarch64-linux-gnu-gcc", "qemu-aarch64")


def streams(made: list[Case]) -> list[bytes]:
    return [rans.encode_spec(c.tables, c.symbols.reshape(c.tables.channels, -1)) for c in made]


def assert_same(found: list[Coded], made: list[Case]) -> None:
    assert [f.decoded for f in found] == [0] * len(made)
    assert equal(found, streams(made)) == len(made)


@on_boards(*BOARDS)
def test_a_board_gives_the_streams_of_the_specification(board: str) -> None:
    made = cases(FEW, seed=11, most=400)
    assert_same(on_board(board, made), made)


@pytest.mark.slow
@on_boards(*BOARDS)
def test_a_board_gives_a_thousand_streams_of_the_specification(board: str) -> None:
    made = cases(MANY)
    assert_same(on_board(board, made), made)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize("more", [(), ("-DBITSHIP_RANS_NO_DIVIDER",)], ids=["divider", "no divider"])
def test_this_machine_gives_a_thousand_streams_of_the_specification(more: tuple[str, ...]) -> None:
    made = cases(MANY, most=256)
    assert_same(on_computer("cc", (), made, more), made)


@pytest.mark.skipif(not all(map(shutil.which, AARCH64)), reason=f"{' and '.join(AARCH64)} are not installed")
def test_aarch64_gives_a_thousand_streams_of_the_specification() -> None:
    made = cases(MANY, most=256)
    assert_same(on_computer(AARCH64[0], AARCH64[1:], made), made)


@on_boards("mps2-an386")
def test_the_encoder_is_as_small_and_as_fast_as_the_contract_says(board: str) -> None:
    assert split_coder.code_bytes("cortex-m4")["bitship_rans_encode"] <= 512
    small = split_coder.features(16)
    encode, _ = split_coder.instructions(targets.load(board), on_board(board, small), small)
    assert 5 < encode <= 30


@pytest.mark.parametrize("core", [pytest.param("cortex-m0plus", marks=needs_board("microbit"))])
def test_a_core_without_a_divider_calls_no_library(core: str, tmp_path: Path) -> None:
    source = str(build.FIRMWARE / "split" / "rans.c")
    flags = [f"-mcpu={core}", "-mthumb", "-std=c99", "-Os"]
    subprocess.run(["arm-none-eabi-gcc", *flags, "-c", source], cwd=tmp_path, check=True, timeout=60)
    found = subprocess.run(
        ["arm-none-eabi-nm", "-u", "rans.o"], cwd=tmp_path, check=True, timeout=60, capture_output=True, text=True
    )
    assert found.stdout.split() in ([], ["U", "__gnu_thumb1_case_uqi"])
