"""Other builds of the kernels, each in a process of its own: the oldest processor, scalar cores, sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitship import kernels

FIRMWARE = Path(__file__).resolve().parents[1] / "firmware"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"]
SCRIPT = """
from merged_cases import ALL_CASES, COMMON_CASES
from test_cores import runnable, test_a_planned_program_gives_the_bits_of_the_specification
from test_host_kernels import assert_exact_at_every_level
from test_kernels import test_rescale_is_exact_integer_arithmetic
from bitship.converters.firmware.cores import Core
import bitship.graph.host

bitship.graph.host.WIDE_TILE = {tile}
for make in COMMON_CASES.values():
    assert_exact_at_every_level(*make())
for core in filter(runnable, {cores}):  # one build with and one without sanitizers
    for name in ALL_CASES:
        test_a_planned_program_gives_the_bits_of_the_specification(core, name)
test_rescale_is_exact_integer_arithmetic()
"""


def sanitizers() -> str | None:
    """Return what a sanitized library needs loaded before the interpreter; None when it is not installed."""
    found = []
    for name in ("libasan.so", "libubsan.so"):
        done = subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        found.append(done.stdout.strip())
    return " ".join(found) if all(Path(f).is_absolute() for f in found) else None


BUILDS = [(1, 0, 8), (0, 0, 8), (0, 0, 2), (0, 1, 2), (0, 1, 8)]
SANITIZED = [(0, 0, 8), (0, 1, 2)]  # those that do not wait for the slow tests


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize(
    ("host", "scalar", "tile", "sanitized"),
    [
        pytest.param(*build, sanitized, marks=[pytest.mark.slow] if sanitized and build not in SANITIZED else [])
        for build in BUILDS
        for sanitized in (False, True)
    ],
)
def test_a_build_without_instruction_set_copies_gives_the_same_bits(
    host: int, scalar: int, tile: int, sanitized: bool, tmp_path: Path
) -> None:
    """host: with the packed convolutions, at every level of this processor."""
    library = tmp_path / kernels.LIBRARY
    flags = ["-std=c99", "-O2", "-fPIC", "-shared", "-DBITSHIP_CLONES=", f"-DBITSHIP_SCALAR={scalar}"]
    flags += [] if host else ["-DBITSHIP_NO_HOST"]
    environment = {**os.environ, kernels.OVERRIDE: str(library)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    if sanitized:
        preload = sanitizers()
        if preload is None:
            pytest.skip("the compiler's sanitizer libraries are not installed")
        flags += SANITIZE
        environment |= {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    sources = sorted(str(p) for p in (FIRMWARE / "src").rglob("*.c"))
    command = ["cc", *flags, f"-I{FIRMWARE / 'include'}", *sources, "-o", str(library)]
    subprocess.run(command, check=True, timeout=400)
    shutil.copy(FIRMWARE / "include" / "bitship" / kernels.HEADER, tmp_path)
    subprocess.run(
        [sys.executable, "-c", SCRIPT.format(tile=tile, cores="(Core.DSP, Core.MVE)" if host else "()")],
        env=environment,
        check=True,
        timeout=400,
    )
