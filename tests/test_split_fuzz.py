"""Hostile frames and streams against the C reader and decoder, built with sanitizers.

pytest tests/test_split_fuzz.py            20,000 frames
pytest tests/test_split_fuzz.py -m slow    1,000,000 frames
"""

import re
import subprocess
from pathlib import Path

import pytest
from needs import skip_without_compiler

skip_without_compiler()
ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("tests/firmware/fuzz_split.c", "firmware/split/rans.c", "firmware/split/frame.c", "firmware/app/crc.c")
FLAGS = ("-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Werror")
WITHOUT_DIVIDER = "-DBITSHIP_RANS_NO_DIVIDER"


def fuzz(folder: Path, frames: int, seed: int, more: tuple[str, ...] = ()) -> str:
    program = folder / "fuzz"
    built = subprocess.run(
        ["cc", *FLAGS, *more, *(str(ROOT / s) for s in SOURCES), "-o", str(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "cannot find" in built.stderr and "asan" in built.stderr:
        pytest.skip("the compiler's sanitizer libraries are not installed")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program, str(frames), str(seed)], capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.strip())
    found = re.search(rf"{frames} frames: (\d+) of \1 truncations refused, 0 of (\d+) frames with a wrong", done.stdout)
    assert found, done.stdout
    assert min(int(found[1]), int(found[2])) > frames // 4
    return done.stdout


@pytest.mark.parametrize("more", [(), (WITHOUT_DIVIDER,)], ids=["divider", "no divider"])
def test_twenty_thousand_damaged_frames_do_no_harm(more: tuple[str, ...], tmp_path: Path) -> None:
    fuzz(tmp_path, 20_000, 1, more)


@pytest.mark.slow
def test_a_million_damaged_frames_do_no_harm(tmp_path: Path) -> None:
    fuzz(tmp_path, 1_000_000, 2)
