"""A plan in one firmware image: hand-overs on this machine, images for Corstone, what is said without a driver."""

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from op_cases import CASES
from transformer_cases import TRANSFORMER_CASES

from bitship import export, models, targets
from bitship.benchmarking import bench
from bitship.converters import placement
from bitship.converters.base import Numerics
from bitship.converters.ethosu import plan
from bitship.converters.ethosu.partition import Kind, part, product_graph
from bitship.converters.firmware import npu as ports
from bitship.converters.tosa.session import TosaSession
from bitship.device.qemu import QemuDevice
from bitship.errors import DeviceError
from bitship.graph import DType, Graph, GraphBuilder, ops, spec
from bitship.graph.base import Array
from bitship.package import Package, golden_inputs

pytest.importorskip("ethosu.vela")
pytest.importorskip("tosa_reference_model")

ROOT = Path(__file__).resolve().parents[1]
STANDINS = ROOT / "tests" / "standins"
U55, U85 = "corstone-300-u55-128", "corstone-320-u85-256"
CORE = ["-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard", "-O2", f"-I{STANDINS}"]
FILL = 7
RUNS = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_size_t),
    ctypes.c_int,
)


def compiler() -> str:
    cc = shutil.which("arm-none-eabi-gcc")
    if cc is None:
        pytest.skip("arm-none-eabi-gcc not installed")
    return cc


def fallbacks() -> Graph:
    """Return uint8 in, NPU, softmax on the core of a U55, NPU again; uint8, int16 and int8 out."""
    b = GraphBuilder("fallbacks")
    x = b.input("x", (1, 6, 6, 4), DType.UINT8)
    low = b.node("low", ops.Rescale((1 << 30,), (1,), 128, 0), x)
    r = np.random.default_rng(2)
    w = b.constant("w", r.integers(-127, 128, (8, 3, 3, 4), np.int8))
    bias = b.constant("bias", r.integers(-500, 500, 8, np.int32))
    epilogue = ops.Rescale((1 << 30,), (-8,), 0, 0)
    conv = b.node("conv", ops.Conv2D((1, 1), (0, 0, 0, 0), requant=epilogue), low, w, bias)
    table = b.constant("table", np.exp(-np.arange(256) / 16).__mul__(32767).astype(np.int16))
    soft = b.node("soft", ops.TableSoftmax(), b.node("flat", ops.Reshape((16, 8)), conv), table)
    again = b.node("again", ops.Rescale((1 << 30,), (-6,), 0, 3), soft)
    out = b.node("out", ops.Rescale((1 << 30,), (1,), 3, 128, dtype=DType.UINT8, qmin=0, qmax=255), again)
    return b.finish([(out, None), (soft, None), (conv, None)])


def whole(graph: Graph, out: Path, target: str = U55) -> Package:
    return export(graph, target, out, inputs=golden_inputs(graph, 3))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build the stand-in as Arm's driver is built, and name its folder."""
    cc, folder = compiler(), tmp_path / "driver"
    (folder / "include").mkdir(parents=True)
    shutil.copy(STANDINS / "ethosu_driver.h", folder / "include")
    source = STANDINS / "ethosu_driver.c"
    subprocess.run([cc, *CORE, f"-DSTANDIN_FILL={FILL}", "-c", source, "-o", folder / "d.o"], check=True, timeout=60)
    subprocess.run([cc.replace("gcc", "ar"), "rcs", folder / ports.LIBRARY, folder / "d.o"], check=True, timeout=60)
    monkeypatch.setenv(ports.VARIABLE, str(folder))
    return folder


@contextmanager
def on_this_machine(package: Package, out: Path) -> Iterator[tuple[Any, list[str]]]:
    """Build the package's NPU image for this machine, streams run by TOSA's reference model; yield it and the order."""
    cc = shutil.which("cc")
    if cc is None:
        pytest.skip("no C compiler")
    folder, graph = package.path / "npu", package.graph()
    kernels = sorted((folder / "kernels" / "src").rglob("*.c"))
    port = [folder / "port" / n for n in (ports.STEP, *ports.DRIVEN)]
    port += [p for p in [folder / "port" / ports.PRODUCT] if p.is_file()]
    includes = [folder / "kernels" / "include", folder / "kernels" / "src", folder, ports.PORT, STANDINS]
    command: list[str | Path] = [cc, "-std=c99", "-O1", "-shared", "-fPIC", *(f"-I{i}" for i in includes)]
    command += ["-DBITSHIP_NPU=0x58102000u", "-DBITSHIP_NPU_IRQ=56u", "-o", out]
    for name in ports.DRIVEN:
        shutil.copy(ports.PORT / name, folder / "port" / name)
    command += [folder / "model.c", folder / "weights.S", *kernels, *port, STANDINS / "ethosu_driver.c"]
    subprocess.run(command, check=True, timeout=120, cwd=folder)
    library = ctypes.CDLL(str(out))
    for name in ("model_input", "model_output"):
        getattr(library, name).restype = ctypes.c_void_p
    nodes, order, sessions = {n.output: n for n in graph.nodes}, list[str](), dict[str, TosaSession]()
    made = {r.commands: r for r in plan.read(package.path / plan.FILE).runs if r.commands}

    def small(run: plan.Run) -> Graph:
        found = [nodes[n] for n in run.nodes]
        return product_graph(graph, found[0]) if run.kind is Kind.PRODUCT else part(graph, found, run.program)

    def stream(commands: int, size: int, bases: Any, sizes: Any, count: int) -> None:
        body = ctypes.string_at(commands, size)
        run = next(r for name, r in made.items() if (package.path / name).read_bytes() == body and name not in order)
        order.append(run.commands)
        weights = (package.path / run.weights).read_bytes()
        assert ctypes.string_at(bases[run.weights_region], sizes[run.weights_region]) == weights
        assert sizes[run.scratch_region] == run.scratch_bytes
        assert all(bases[i] % 16 == 0 for i in range(count))
        types = small(run).types
        memory = [bases[t.region] + t.offset for t in run.inputs]
        fed = [_taken(at, types[t.name].shape, types[t.name].dtype) for at, t in zip(memory, run.inputs, strict=True)]
        for t, found in zip(run.outputs, sessions[run.commands].run(*fed), strict=True):
            assert t.offset + t.nbytes <= sizes[t.region]
            raw = (found ^ 0x80 if found.dtype == np.uint8 else found).tobytes()
            assert len(raw) == t.nbytes
            ctypes.memmove(bases[t.region] + t.offset, raw, len(raw))

    def tried(*arguments: Any) -> None:
        try:
            stream(*arguments)
        except Exception as e:  # ctypes would only print it
            wrong.append(e)

    wrong: list[Exception] = []
    hook = RUNS(tried)
    ctypes.c_void_p.in_dll(library, "standin_runs").value = ctypes.cast(hook, ctypes.c_void_p).value
    try:
        sessions.update({r.commands: TosaSession(package.path / r.program, small(r)) for r in made.values()})
        yield library, order
        assert not wrong, wrong
    finally:
        for session in sessions.values():
            session.close()


def _taken(at: int, shape: tuple[int, ...], dtype: DType) -> Array:
    raw = ctypes.string_at(at, int(np.prod(shape)) * dtype.itemsize)
    found: Array = np.frombuffer(raw, dtype.numpy).reshape(shape)
    return np.bitwise_xor(found, 0x80) if dtype is DType.UINT8 else found


MODELS: dict[str, Callable[[], Graph]] = {
    "fallbacks": fallbacks,
    "product": lambda: TRANSFORMER_CASES["softmax_matmul_channels"]()[0],
    "masked": lambda: TRANSFORMER_CASES["softmax_matmul_masked"]()[0],
    "wide": lambda: TRANSFORMER_CASES["softmax_matmul_int16"]()[0],
}
FAST = {("fallbacks", U55), ("product", U55)}


@pytest.mark.target
@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(name, target, marks=() if (name, target) in FAST else pytest.mark.slow)
        for name in MODELS
        for target in (U55, U85)
    ],
)
def test_streams_and_kernels_hand_over_so_that_the_graph_s_bits_come_out(
    name: str, target: str, tmp_path: Path
) -> None:
    compiler()
    graph = MODELS[name]()
    package = whole(graph, tmp_path / "pkg", target)
    runs = [r for r in plan.read(package.path / plan.FILE).runs if r.commands]
    assert runs
    if target == U55:
        assert {r.kind for r in runs} == ({Kind.NPU} if name == "fallbacks" else {Kind.PRODUCT})
    with on_this_machine(package, tmp_path / "libimage.so") as (library, order):
        for row in golden_inputs(graph, 4):
            order.clear()
            for i, array in enumerate(row):
                ctypes.memmove(library.model_input(i), np.ascontiguousarray(array).tobytes(), array.nbytes)
            assert library.model_run() == 0
            assert order == [r.commands for r in runs]
            for i, wanted in enumerate(spec.run(graph, *row)):
                assert ctypes.string_at(library.model_output(i), wanted.nbytes) == wanted.tobytes()
        assert ctypes.c_uint64.in_dll(library, "standin_registers").value == 0x58102000
        assert ctypes.c_int.in_dll(library, "standin_reservations").value == 1
        order.clear()
        ctypes.c_int.in_dll(library, "standin_fails").value = 1
        assert library.model_run() == -6


@pytest.mark.target
def test_the_cpu_path_gives_the_bits_in_the_emulator_and_an_npu_step_without_a_driver_is_refused(
    tmp_path: Path,
) -> None:
    compiler()
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm not installed")
    package = whole(fallbacks(), tmp_path / "pkg")
    roles = {a.role: a.numerics for a in package.manifest.artifacts}
    assert roles == {"firmware": Numerics.EXACT, "npu-firmware": Numerics.UNVERIFIED, "npu": Numerics.UNVERIFIED}
    assert package.manifest.artifacts[0].role == "firmware"
    report = bench(package, runs=1, warmup=0)  # raises when a bit differs
    assert report.bits.exact
    assert report.numerics is Numerics.EXACT
    assert report.device == "qemu mps3-an547"
    (skipped,) = placement.read_skipped(package.path)
    assert "ETHOS_U_DRIVER_DIR is not set" in skipped.reason
    with pytest.raises(DeviceError, match="an NPU step was refused: no driver is linked"):
        bench(package, runs=1, warmup=0, role="npu-firmware")


@pytest.mark.target
def test_with_a_driver_the_image_starts_it_and_runs_every_step(driver: Path, tmp_path: Path) -> None:
    graph, rows = CASES["conv_3x3"]()
    package = export(graph, U55, tmp_path / "pkg", inputs=rows[:1])
    assert placement.read_skipped(package.path) == ()
    image = (package.path / "npu" / "model.elf").read_bytes()
    assert (package.path / plan.read(package.path / plan.FILE).runs[0].commands).read_bytes() in image
    assert struct.pack("<I", 0x58102000) in image
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm not installed")
    device = QemuDevice(targets.load(U55), 60)
    (found,) = device.run(package.path / "npu" / "model.elf", graph, rows[:1]).outputs
    assert all(set(np.ascontiguousarray(a).tobytes()) == {FILL} for a in found)  # the stand-in's fill, taken out


@pytest.mark.target
@pytest.mark.parametrize("target", [U55, U85])
def test_the_vector_table_has_the_npu_s_interrupt(target: str, driver: Path, tmp_path: Path) -> None:
    graph, rows = CASES["conv_1x1"]()
    package = export(graph, target, tmp_path / "pkg", inputs=rows[:1])
    npu = targets.load(target).npu
    assert npu is not None
    out = tmp_path / "vectors.bin"
    tool = compiler().replace("gcc", "objcopy")
    image = package.path / "npu" / "model.elf"
    subprocess.run([tool, "-O", "binary", "-j", ".vectors", image, out], check=True, timeout=60)
    table = struct.unpack(f"<{16 + npu.interrupt + 1}I", out.read_bytes())
    assert table[16 + npu.interrupt] & 1
    assert not any(table[16 : 16 + npu.interrupt])


@pytest.mark.target
def test_a_folder_without_the_driver_is_said_and_the_package_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler()
    monkeypatch.setenv(ports.VARIABLE, str(tmp_path))
    graph, rows = CASES["conv_1x1"]()
    package = export(graph, U85, tmp_path / "pkg", inputs=rows[:1])
    (skipped,) = placement.read_skipped(package.path)
    assert "has no libethosu_core_driver.a and no ethosu_driver.h" in skipped.reason
    assert {a.role for a in package.manifest.artifacts} == {"serial", "npu-serial", "npu"}


@pytest.mark.target
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_micro", "vit_micro"])
def test_the_shipped_models_run_from_one_image(name: str, tmp_path: Path) -> None:
    compiler()
    graph = models.load_graph(name)
    package = whole(graph, tmp_path / "pkg")
    with on_this_machine(package, tmp_path / "libimage.so") as (library, order):
        (row,) = golden_inputs(graph, 3)[2:]
        ctypes.memmove(library.model_input(0), np.ascontiguousarray(row[0]).tobytes(), row[0].nbytes)
        assert library.model_run() == 0
        assert len(order) == sum(bool(r.commands) for r in plan.read(package.path / plan.FILE).runs)
        (wanted,) = spec.run(graph, *row)
        assert ctypes.string_at(library.model_output(0), wanted.nbytes) == wanted.tobytes()
