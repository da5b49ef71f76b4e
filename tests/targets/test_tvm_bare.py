"""TVM's kernels on emulated Cortex-M boards: the bits of the specification, in the planned arena."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from merged_cases import ALL_CASES, merge
from random_nets import mobilenet_v2

from bitship import export, targets
from bitship.device.qemu import QemuDevice
from bitship.errors import TargetError
from bitship.graph import Graph, spec
from bitship.graph.base import Array
from bitship.package import golden_inputs
from bitship.targets import ConverterName

pytest.importorskip("tvm")
pytestmark = [
    pytest.mark.target,
    pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"),
    pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"),
]
BOARDS = ["mps2-an386", "mps2-an500", "mps3-an547"]


def assert_exact(board: str, graph: Graph, rows: list[tuple[Array, ...]], out: Path) -> None:
    export(graph, board, out, converter=ConverterName.TVM, inputs=rows)
    result = QemuDevice(targets.load(board), 120).run(out / "model.elf", graph, rows)
    for inputs, outputs in zip(rows, result.outputs, strict=True):
        for port, found, wanted in zip(graph.outputs, outputs, spec.run(graph, *inputs), strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=port.name)


@pytest.mark.parametrize("board", BOARDS)
def test_a_network_gives_the_bits_of_the_specification(board: str, tmp_path: Path) -> None:
    graph = mobilenet_v2(24, 0.35, 10, 3)
    assert_exact(board, graph, golden_inputs(graph, 3), tmp_path / "pkg")
    listing = (tmp_path / "pkg" / "kernels.txt").read_text().splitlines()
    assert {line.split()[0] for line in listing if "conv2d" in line or "add" in line} == {"tvm"}
    plan = json.loads((tmp_path / "pkg" / "plan.json").read_text())
    assert plan["sections"][".arena"] == plan["arena_bytes"]


@pytest.mark.parametrize("board", ["mps2-an386", "mps3-an547"])
@pytest.mark.parametrize("part", range(3))
def test_op_cases_give_the_bits_of_the_specification(board: str, part: int, tmp_path: Path) -> None:
    graph, rows = merge(sorted(ALL_CASES)[part::15])
    assert_exact(board, graph, rows[:3], tmp_path / "pkg")


@pytest.mark.slow
@pytest.mark.parametrize("board", ["mps2-an386", "mps3-an547"])
@pytest.mark.parametrize("first", range(0, len(ALL_CASES), 40))
def test_the_whole_op_set_gives_the_bits_of_the_specification(board: str, first: int, tmp_path: Path) -> None:
    graph, rows = merge(sorted(ALL_CASES)[first : first + 40])
    assert_exact(board, graph, rows, tmp_path / "pkg")


def test_a_norm_and_a_transpose_run_on_kernels_of_our_own(tmp_path: Path) -> None:
    graph, rows = merge(some())
    assert_exact("mps2-an386", graph, rows, tmp_path / "pkg")
    by = {line.split()[1]: line.split()[0] for line in (tmp_path / "pkg" / "kernels.txt").read_text().splitlines()}
    assert by["clamp"] == "tvm"
    assert set(by.values()) == {"tvm", "own"}


def some() -> list[str]:
    """A norm, a transpose and a clamp of the cases."""
    ops = {name: ALL_CASES[name]()[0].nodes[-1].op.name for name in ALL_CASES}
    return [next(n for n, op in ops.items() if op == wanted) for wanted in ("layer_norm", "transpose", "clamp")]


def test_a_core_without_a_level_is_refused(tmp_path: Path) -> None:
    graph, _ = ALL_CASES["clamp"]()
    with pytest.raises(TargetError, match="converter 'tvm' is not for it"):
        export(graph, "microbit", tmp_path / "pkg", converter=ConverterName.TVM)
