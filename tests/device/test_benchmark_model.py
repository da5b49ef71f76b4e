"""LiteRT's benchmark_model beside a package: figures from its lines, bits from Python or said not to be proven."""

import sys
from pathlib import Path

import pytest
from random_nets import mobilenet_v2

import bitship
from bitship.converters.base import Numerics
from bitship.device.benchmark_model import BenchmarkModel, opened
from bitship.device.desk import Unit, connect
from bitship.device.transfer import LocalTransfer
from bitship.errors import DeviceError
from bitship.report import tables
from bitship.targets import ConverterName

STANDIN = Path(__file__).parents[1] / "standins" / "benchmark_model.py"


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "benchmark_model"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {STANDIN} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("old", [False, True])
def test_its_lines_are_read(old: bool, program: str, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_text("--old" if old else "new")
    with (
        LocalTransfer().open() as link,
        opened(link, BenchmarkModel(program), model, "no Python", 60) as session,
    ):
        assert session.run([]) == []
        found = {s.name.removesuffix(" by benchmark_model"): (s.unit, s.values) for s in session.measure((), 7, 2)}
    assert found == {
        "mean latency of 7 runs": ("ms", (1.2345,) * 3),
        "first inference": ("ms", (3.0,) * 3),
        "load": ("ms", (0.855,) * 3),
        "memory": ("MB", (18.7227,) * 3),
    }


def test_options_reach_it_and_numbers_may_have_exponents(program: str, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_text("new")
    tool = BenchmarkModel(program, ("--use_gpu=true",))
    with LocalTransfer().open() as link, opened(link, tool, tmp_path / "m.tflite", "", 60) as session:
        assert session.measure((), 3, 1)[0].values == (0.95,) * 3


def test_a_program_that_fails_or_says_nothing_is_an_error(program: str, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_text("broken")
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexit 0\n")
    silent.chmod(0o755)
    for name, message in ((program, "ended with code 1: ERROR: Failed to load"), (str(silent), "no line 'Inference")):
        with (
            LocalTransfer().open() as link,
            opened(link, BenchmarkModel(name), tmp_path / "m.tflite", "", 60) as session,
            pytest.raises(DeviceError, match=message),
        ):
            session.measure((), 3, 1)


def test_bits_come_from_python_or_are_said_not_to_be_proven(program: str, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    graph = mobilenet_v2(32, 0.25, 10, blocks=2)
    made = bitship.export(graph, "host", tmp_path / "pkg", converter=ConverterName.TFLITE)

    def unit(runner: str) -> Unit:
        tool = BenchmarkModel(program)
        return Unit(name="here", target="host", transfer=LocalTransfer(), runner=runner, benchmark=tool)

    proven = bitship.bench(made, connect(unit(sys.executable)), runs=3, warmup=1)
    assert (proven.bits.exact, proven.numerics) == (True, Numerics.EXACT)
    bare = tmp_path / "python3"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    lacking = bitship.bench(made, connect(unit(str(bare))), runs=3, warmup=1)
    assert (lacking.bits.exact, lacking.bits.vectors, lacking.numerics) == (False, 0, Numerics.UNVERIFIED)
    assert tables.bits(lacking) == "not proven"
    assert "does not import ai_edge_litert" in lacking.environment["bits"]
    for report in (proven, lacking):
        assert {s.name.split(" by ")[1] for s in report.samples} == {"benchmark_model"}
