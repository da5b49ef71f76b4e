"""Schedules under a RAM budget: the cheapest that fits, what the image then takes, and clear refusals."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from op_builders import I8, S, ints, requant
from typer.testing import CliRunner

from bitship import targets
from bitship.cli.main import app
from bitship.converters.firmware import FirmwareConverter
from bitship.converters.firmware.cores import Core
from bitship.converters.firmware.fit import Option, choose, options, pareto, title
from bitship.converters.firmware.program import lower_calls
from bitship.converters.firmware.stack import CallGraph
from bitship.device.qemu import QemuDevice
from bitship.errors import DoesNotFitError, TargetError
from bitship.exporting import export
from bitship.fitting import fit, roomier
from bitship.graph import Graph, GraphBuilder, store
from bitship.graph.ops import Conv2D, DepthwiseConv2D
from bitship.passes.stage import Halo, Stage
from bitship.targets import ConverterName

needs_board = [
    pytest.mark.target,
    pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"),
    pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"),
]


def network(size: int = 32) -> Graph:
    """A convolution, two inverted residuals without the sum, one of them strided."""
    r, b = np.random.default_rng(0), GraphBuilder("network")
    at, channels = b.input("image", (1, size, size, 3), I8), 3

    def conv(at: str, channels: int, out: int, kernel: int, stride: int) -> str:
        p = kernel // 2
        w = b.constant("w", ints(r, (out, kernel, kernel, channels)))
        bias = b.constant("bias", r.integers(-999, 999, out).astype(np.int32))
        scale = requant(r, out, 1 / (60 * np.sqrt(kernel * kernel * channels)), S, 1)
        return b.node("conv", Conv2D((stride, stride), (p, p, p, p), input_zero_point=1, requant=scale), at, w, bias)

    at, channels = conv(at, 3, 8, 3, 1), 8
    for stride in (1, 2):
        at = conv(at, channels, 24, 1, 1)
        w, bias = b.constant("dw", ints(r, (3, 3, 24, 1))), b.constant("db", np.zeros(24, np.int32))
        op = DepthwiseConv2D((stride, stride), (1, 1, 1, 1), input_zero_point=1, requant=requant(r, 24, 1 / 180, S, 1))
        at = conv(b.node("dw", op, at, w, bias), 24, 8, 1, 1)
    return b.finish([(at, None)])


def test_the_whole_graph_is_chosen_where_it_fits_and_a_stage_where_it_does_not() -> None:
    graph = network()
    found = options(lower_calls(graph, Core.SCALAR))
    whole = found[0].arena
    assert choose(lower_calls(graph, Core.SCALAR), whole) is None
    stage = choose(lower_calls(graph, Core.SCALAR), whole - 1)
    assert stage is not None
    chosen = next(o for o in found if o.stage == stage)
    assert chosen.arena < whole
    assert all(o.overhead >= chosen.overhead for o in found if o.arena < whole)


def test_a_streamed_image_is_used_where_it_is_cheapest_and_can_be_ruled_out() -> None:
    graph = network()
    smallest = min(o.arena for o in options(lower_calls(graph, Core.SCALAR), streamed=True))
    stage = choose(lower_calls(graph, Core.SCALAR), smallest, None)
    assert stage is not None
    assert stage.streamed
    other = choose(lower_calls(graph, Core.SCALAR), smallest, False)
    assert other is not None
    assert other.halo is Halo.RECOMPUTED
    with pytest.raises(DoesNotFitError, match="a streamed image needs less"):
        choose(lower_calls(graph, Core.SCALAR), 5000, False)


def test_a_refusal_names_bytes_tensors_and_what_was_tried() -> None:
    with pytest.raises(DoesNotFitError) as error:
        choose(lower_calls(network(), Core.SCALAR), 100, None)
    text = str(error.value)
    needed, over = re.search(r"needs (\d+) B", text), re.search(r"(\d+) B too many", text)
    assert needed is not None
    assert over is not None
    assert int(needed[1]) == int(over[1]) + 100
    assert re.search(r"schedules tried: \d+", text)
    assert "at its peak are '" in text


def test_the_pareto_set_falls_in_bytes_as_it_rises_in_cost() -> None:
    kept = pareto(
        [Option(None, 100, 0, 0.0), Option(None, 90, 0, 5.0), Option(None, 95, 0, 6.0), Option(None, 10, 0, 9.0)]
    )
    assert [o.arena for o in kept] == [100, 90, 10]
    found = pareto(options(lower_calls(network(), Core.SCALAR)))
    assert [o.arena for o in found] == sorted((o.arena for o in found), reverse=True)


def test_schedules_have_titles() -> None:
    assert title(Stage(4, 1, 32)) == "4 nodes by strips of 1 row"
    assert title(Stage(4, 8, 32, streamed=True)) == "4 nodes by strips of 8 rows, image streamed"
    assert title(Stage(4, 8, 9, Halo.RECOMPUTED)) == "4 nodes by tiles of 8 x 9"


@pytest.mark.parametrize(
    "board", [pytest.param(n, marks=needs_board) for n in ("mps2-an386", "mps3-an547", "mps2-an385")]
)
def test_a_budget_is_kept_by_the_image_that_runs(board: str, tmp_path: Path) -> None:
    graph, target = network(), targets.load(board)
    ram = 12_000
    made = FirmwareConverter(ram=ram).convert(graph, target, tmp_path)
    assert "streamed" in made.schedule
    rows = [(ints(np.random.default_rng(i), (1, 32, 32, 3)),) for i in range(2)]
    result = QemuDevice(target, 60).run(tmp_path / "model.elf", graph, rows)
    for found, row in zip(result.outputs, rows, strict=True):
        np.testing.assert_array_equal(found[0], graph.run(*row)[0])
    assert made.footprint.stack_bytes is not None
    assert result.arena_bytes - 128 < result.arena_used <= result.arena_bytes == made.footprint.arena_bytes
    assert 0 < result.stack_bytes <= made.footprint.stack_bytes
    assert made.footprint.arena_bytes + made.footprint.stack_bytes <= ram


@pytest.mark.parametrize("board", [pytest.param("mps2-an386", marks=needs_board)])
def test_fit_lists_what_each_schedule_needs(board: str, tmp_path: Path) -> None:
    store.save(network(), tmp_path / "m.bitship")
    done = CliRunner().invoke(app, ["fit", str(tmp_path / "m.bitship"), "-t", board, "--most", "3", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert len(rows) == 3
    assert [r["ram"] for r in rows] == sorted((r["ram"] for r in rows), reverse=True)
    assert all(r["instructions"] > 0 and r["ram"] == r["arena"] + r["stack"] for r in rows)
    none = CliRunner().invoke(app, ["fit", str(tmp_path / "m.bitship"), "-t", board, "--ram", "2k", "--most", "1"])
    assert none.exit_code == 1
    assert "no schedule fits" in none.output + (none.stderr if none.stderr_bytes else "")


@pytest.mark.parametrize("board", [pytest.param("microbit", marks=needs_board)])
def test_fit_knows_which_boards_have_the_room(board: str) -> None:
    found = fit(network(96), board, simulate=False, most=1)
    assert not found[0].fits
    assert found[0].instructions is None
    assert board not in roomier(found)
    assert "mps2-an386" in roomier(found)


def test_schedules_are_for_microcontrollers_and_our_own_kernels(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="are for microcontrollers"):
        fit(network(), "host")
    with pytest.raises(TargetError, match="are for converter 'firmware'"):
        export(network(), "host", tmp_path / "p", ConverterName.TVM, ram=1000)


def test_bytes_are_written_as_people_write_them(tmp_path: Path) -> None:
    store.save(network(), tmp_path / "m.bitship")
    done = CliRunner().invoke(app, ["fit", str(tmp_path / "m.bitship"), "-t", "microbit", "--ram", "64q"])
    assert done.exit_code == 2
    assert "64k" in done.output + done.stderr


REPORT = """node: { title: "main" label: "main\\na.c:1:1\\n16 bytes (static)" }
node: { title: "a.c:left" label: "left\\na.c:2:1\\n40 bytes (static)" }
node: { title: "a.c:right" label: "right\\na.c:3:1\\n24 bytes (static)" }
node: { title: "memcpy" label: "memcpy\\n<built-in>" shape : ellipse }
edge: { sourcename: "main" targetname: "a.c:left" label: "a.c:4:1" }
edge: { sourcename: "main" targetname: "a.c:right" label: "a.c:5:1" }
edge: { sourcename: "a.c:right" targetname: "memcpy" }
"""


def test_the_stack_is_the_deepest_path() -> None:
    graph = CallGraph()
    graph.read(REPORT)
    assert graph.deepest("main") == 16 + 24 + 32
    graph.read('edge: { sourcename: "memcpy" targetname: "__indirect_call" }\n')
    graph.read('node: { title: "b.c:hook" label: "hook\\nb.c:1:1\\n100 bytes (static)" }\n')
    assert graph.deepest("main") == 16 + 24 + 32 + 100


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('edge: { sourcename: "a.c:left" targetname: "main" }\n', "calls itself"),
        ('node: { title: "f" label: "f\\na.c:1:1\\n16 bytes (dynamic)" }\n', "is dynamic"),
    ],
)
def test_a_stack_without_a_bound_is_refused(more: str, message: str) -> None:
    graph = CallGraph()
    with pytest.raises(TargetError, match=message):
        _deepest(graph, REPORT + more)


def _deepest(graph: CallGraph, report: str) -> int:
    graph.read(report)
    return graph.deepest("main")
