"""TVM's packages for other processors, run in QEMU's user mode: every op's bits, and the instructions they hold."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from attention_paths import attentions, block
from fast_paths import extremes, products, rescales
from merged_cases import COMMON_CASES, merge
from needs import skip_without_compiler
from runner_files import differing, run_files

from bitship.converters.tvm import TvmConverter
from bitship.converters.tvm.build import compile_kernels
from bitship.converters.tvm.isa import LEVELS
from bitship.converters.tvm.lower import lower
from bitship.graph import Graph, spec
from bitship.graph.base import Array
from bitship.targets import load

skip_without_compiler()

pytest.importorskip("tvm")

EMULATED = [
    "linux-aarch64",
    pytest.param("linux-aarch64-dotprod", marks=pytest.mark.slow),
    "linux-aarch64-i8mm",
    pytest.param("linux-aarch64-sve256", marks=pytest.mark.slow),
    "linux-riscv64-v",
]


@pytest.mark.parametrize("name", EMULATED)
def test_every_case_is_exact_under_emulation(name: str, tmp_path: Path) -> None:
    target = load(name)
    assert target.emulator is not None
    if not shutil.which(target.emulator.program) or not shutil.which(f"{target.triple}-gcc"):
        pytest.skip(f"no cross compiler or emulator for {target.triple}")
    for i, (graph, feeds) in enumerate(
        [
            merge(list(COMMON_CASES)),
            (g := products(np.random.default_rng(7)), extremes(g)),
            (h := rescales(np.random.default_rng(8), 30), extremes(h)),
            (a := attentions(np.random.default_rng(10), 6), extremes(a)),
            (e := block(np.random.default_rng(11), 37, 2, 24), extremes(e)[:2]),
        ]
    ):
        out = tmp_path / str(i)
        TvmConverter().convert(graph, target, out)
        wanted = [spec.run(graph, *f) for f in feeds]
        for threads in ("1", "3"):
            emulator = [target.emulator.program, *target.emulator.options]
            found = run_files([*emulator, "./runner", "--threads", threads], graph, feeds, out)
            assert differing(graph, found, wanted) == {}


HEXAGON_GROUP = 8  # LLVM takes up to a minute for it


def on_hexagon(graph: Graph, feeds: list[tuple[Array, ...]], out: Path) -> None:
    target = load("hexagon-v67")
    assert target.emulator is not None
    if not all(map(shutil.which, (target.emulator.program, "clang", "ld.lld"))):
        pytest.skip("clang, ld.lld or qemu-hexagon is absent")
    TvmConverter().convert(graph, target, out)
    found = run_files([target.emulator.program, *target.emulator.options, "./runner"], graph, feeds, out)
    assert differing(graph, found, [spec.run(graph, *f) for f in feeds]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(COMMON_CASES), HEXAGON_GROUP))
def test_every_case_is_exact_under_emulation_on_hexagon(first: int, tmp_path: Path) -> None:
    on_hexagon(*merge(list(COMMON_CASES)[first : first + HEXAGON_GROUP]), tmp_path)


@pytest.mark.slow
def test_an_encoder_block_is_exact_under_emulation_on_hexagon(tmp_path: Path) -> None:
    graph = block(np.random.default_rng(11), 37, 2, 24)
    on_hexagon(graph, extremes(graph)[:2], tmp_path)


def test_some_cases_are_exact_under_emulation_on_hexagon(tmp_path: Path) -> None:
    on_hexagon(*merge(["conv_1x1", "dw_3x3", "fc_batch_per_channel", "softmax", "table_int8", "concat_last"]), tmp_path)


@pytest.mark.parametrize(
    ("name", "instruction"),
    [("linux-aarch64-sve256", r"\bz\d+\.[bhsd]"), ("linux-riscv64-v", r"\bv(setivli|wmul|mul)\b")],
)
def test_kernels_use_the_vector_unit(name: str, instruction: str, tmp_path: Path) -> None:
    target = load(name)
    disassembler = f"{target.triple}-objdump"
    if not shutil.which(disassembler):
        pytest.skip(f"{disassembler} is absent")
    graph = block(np.random.default_rng(11), 37, 2, 24)
    kernels = lower(graph, LEVELS[target.features[0]]).kernels
    compile_kernels(kernels, LEVELS[target.features[0]], tmp_path / "kernels.o")
    code = subprocess.run([disassembler, "-d", tmp_path / "kernels.o"], capture_output=True, text=True, check=True)
    assert len(re.findall(instruction, code.stdout)) > 100
