"""MLPerf Tiny's exchange with a strict scripted host: every line, its order and its form, as the runner reads them."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bitship import targets
from bitship.converters.firmware import FirmwareConverter
from bitship.converters.firmware.host_board import build_board
from bitship.converters.firmware.serial import SerialOptions
from bitship.graph import Graph, GraphBuilder
from bitship.graph.base import Array
from bitship.graph.dtypes import DType
from bitship.graph.ir import Quant
from bitship.graph.ops import FullyConnected, Rescale, Reshape
from bitship.targets import TinyModel

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")

SHAPES = {
    TinyModel.IC01: ((1, 32, 32, 3), 10, Quant(1.0, -128), Quant(1 / 256, -128)),
    TinyModel.KWS01: ((1, 49, 10, 1), 12, Quant(0.58, 83), Quant(1 / 256, -128)),
    TinyModel.AD01: ((1, 640), 640, Quant(0.39, 89), Quant(0.37, 93)),
}


def model(tiny: TinyModel) -> Graph:
    """A single layer with the ports of the benchmark's model."""
    shape, outputs, mine, theirs = SHAPES[tiny]
    b, rng = GraphBuilder(tiny.value), np.random.default_rng(4)
    x = b.input("x", shape, DType.INT8, mine)
    count = int(np.prod(shape))
    x = b.node("flat", Reshape((1, count)), x) if len(shape) > 2 else x
    w = b.constant("w", rng.integers(-127, 128, (outputs, count)).astype(np.int8))
    bias = b.constant("b", rng.integers(-9999, 9999, outputs).astype(np.int32))
    rescale = Rescale(((1 << 30) + 17,), (-13,), 0, theirs.zero_point)
    y = b.node("y", FullyConnected(input_zero_point=mine.zero_point, requant=rescale), x, w, bias)
    return b.finish([(y, theirs)])


class Host:
    """Sends a command at a time and reads up to its m-ready: every line ends with CR LF and is ASCII."""

    def __init__(self, board: Path) -> None:
        self.process = subprocess.Popen(
            [str(board)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def reply(self) -> list[str]:
        assert self.process.stdout is not None
        lines: list[str] = []
        while not lines or "m-ready" not in lines[-1]:
            raw = self.process.stdout.readline()
            assert raw.endswith(b"\r\n"), raw
            lines.append(raw[:-2].decode("ascii"))
        assert lines[-1] == "m-ready"
        return lines[:-1]

    def send(self, command: str) -> list[str]:
        assert len(command) < 80
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"%")
        self.process.stdin.flush()
        return self.reply()

    def load(self, data: bytes, step: int = 31) -> None:
        assert self.send(f"db load {len(data)}") == [f"m-[Expecting {len(data)} bytes]"]
        for at in range(0, len(data), step):
            last = at + step >= len(data)
            assert self.send(f"db {data[at : at + step].hex()}") == (["m-load-done"] if last else [])

    def markers(self) -> str:
        """End the process; return the levels that the marker had."""
        _, levels = self.process.communicate(timeout=10)
        return levels.decode()


def host(tiny: TinyModel, folder: Path, energy: bool = False) -> Host:
    target = targets.load("mps2-an386")
    return Host(
        build_board(FirmwareConverter().lower(model(tiny), target), target, folder, SerialOptions(tiny), energy)
    )


def values(line: str) -> Array:
    found = re.fullmatch(r"m-results-\[(-?\d+\.\d{6}(?:,-?\d+\.\d{6})*)\]", line)
    assert found is not None, line
    return np.array([float(v) for v in found[1].split(",")])


def real(graph: Graph, x: Array) -> Array:
    quant = graph.outputs[0].quant
    assert quant is not None
    (y,) = graph.run(x.reshape(graph.inputs[0].type.shape))
    return np.asarray((y.astype(np.float64).ravel() - quant.zero_point) * quant.scale)


def test_performance_mode(tmp_path: Path) -> None:
    h = host(TinyModel.IC01, tmp_path)
    boot = h.reply()
    assert boot[0] == "m-timestamp-mode-performance"
    assert re.fullmatch(r"m-lap-us-\d+", boot[1])
    assert boot[2:] == ["m-init-done"]
    assert h.send("name") == ["m-name-dut-[bitship]"]
    assert h.send("profile") == ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[ic01]"]
    assert re.fullmatch(r"m-lap-us-\d+", h.send("timestamp")[0])
    pixels = np.random.default_rng(1).integers(0, 256, 3072).astype(np.uint8)
    h.load(pixels.tobytes())
    shown = h.send("db print")
    assert len(shown) == 3072 // 8
    assert shown[0] == "m-buffer-" + "-".join(f"{v:02X}" for v in pixels[:8])
    lines = h.send("infer 3 2")
    assert lines[:3] == ["m-warmup-start-2", "m-warmup-done", "m-infer-start-3"]
    laps = [int(re.fullmatch(r"m-lap-us-(\d+)", line)[1]) for line in lines[3:5]]  # type: ignore[index]
    assert laps[1] >= laps[0]
    assert lines[5] == "m-infer-done"
    assert len(lines) == 7
    wanted = real(model(TinyModel.IC01), (pixels ^ 0x80).view(np.int8))
    np.testing.assert_allclose(values(lines[6]), wanted, atol=1e-6)
    assert h.send("results") == lines[6:]
    assert h.send("infer")[0] == "m-warmup-start-10"
    assert "infer N" in "".join(h.send("help"))
    h.markers()


def test_energy_mode_marks_windows_by_pulses(tmp_path: Path) -> None:
    h = host(TinyModel.KWS01, tmp_path, energy=True)
    assert h.reply() == ["m-timestamp-mode-energy", "m-init-done"]
    features = np.random.default_rng(2).integers(-128, 128, 490).astype(np.int8)
    h.load(features.tobytes(), 26)
    lines = h.send("infer 4 1")
    assert lines[:4] == ["m-warmup-start-1", "m-warmup-done", "m-infer-start-4", "m-infer-done"]
    np.testing.assert_allclose(values(lines[4]), real(model(TinyModel.KWS01), features), atol=1e-6)
    assert h.send("timestamp") == []
    assert h.markers() == "01" * 4  # at the start, two around the window, one that was asked for


def test_the_anomaly_score_is_that_of_floating_point(tmp_path: Path) -> None:
    h, graph = host(TinyModel.AD01, tmp_path), model(TinyModel.AD01)
    h.reply()
    quant = graph.inputs[0].quant
    assert quant is not None
    rng = np.random.default_rng(3)
    for spread in (0.01, 3.0, 40.0, 1e9):
        x = rng.normal(-4, spread, 640).astype("<f4")
        if spread == 40.0:
            x[:6] = [0.0, -0.0, 1e-30, np.inf, -np.inf, 0.195]
        h.load(x.tobytes())
        (score,) = values(h.send("infer 1 0")[-1])
        held = np.clip(x.astype(np.float64), -4096, 4096)
        q = np.clip(np.round(held / quant.scale) + quant.zero_point, -128, 127).astype(np.int8)
        wanted = float(np.mean((real(graph, q) - held) ** 2))
        assert abs(score - wanted) <= 1e-4 * wanted + 2e-3
    h.markers()


def test_what_is_wrong_is_said_and_ends_with_ready(tmp_path: Path) -> None:
    h = host(TinyModel.KWS01, tmp_path)
    h.reply()
    for command, wanted in {
        "": [],
        "  ": [],
        "nonsense": ["e-[Unknown command: nonsense]"],
        "db": ["e-[Command 'db' requires a subcommand]"],
        "db load": ["e-[Command 'db load' requires the # of bytes]"],
        "db load 0": ["e-[Command 'db load' must be >0 bytes]"],
        "db load -5": ["e-[Command 'db load' must be >0 bytes]"],
        "db load 491": ["e-[Supplied buffer size 491 exceeds maximum of 490]"],
        "db 00": ["e-[No bytes are expected: use db load]"],
        "infer 0": ["e-[Inference iterations must be >0]"],
        "infer x": ["e-[Inference iterations must be >0]"],
        "infer 1 -1": ["e-[Inference warmup must be >=0]"],
        "infer 1 1": ["e-[Input has 0 bytes, expected 490]"],
        "x": ["e-[crc]"],
        "x 00000001 run 1 00000000": ["e-[crc]"],
    }.items():
        assert h.send(command) == wanted, command
    h.send("db load 490")
    assert h.send("db 0G") == ["e-[Invalid hex digit]"]
    assert h.send("db 012") == ["e-[Insufficent number of hex digits]"]
    h.load(bytes(490))
    assert len(h.send("infer 1 0")) == 7
    assert h.process.stdin is not None
    h.process.stdin.write(b"na\r\nme%" + b"z" * 5000 + b"%")
    h.process.stdin.flush()
    assert h.reply() == ["m-name-dut-[bitship]"]
    assert h.reply() == ["e-[Command is too long]"]
    h.markers()
