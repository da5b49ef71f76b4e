"""Every supported .tflite operator against LiteRT's reference kernels, byte for byte."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tflite_arithmetic_cases import CASES as ARITHMETIC_CASES
from tflite_cases import CASES as BASIC_CASES
from tflite_cases import Q, X, conv_net, i8, i32, simple, u8
from tflite_layout_cases import CASES as LAYOUT_CASES
from tflite_models import Net, Reference, T, encode

from bitship.converters.tflite.lower import lower
from bitship.errors import BitshipError, FormatError, UnsupportedError
from bitship.graph import spec
from bitship.graph.base import Array
from bitship.importers import tflite

pytest.importorskip("ai_edge_litert", reason="LiteRT judges these tests")


CASES = {**BASIC_CASES, **LAYOUT_CASES, **ARITHMETIC_CASES}


def feed(t: T, k: int) -> Array:
    if k == 0:
        flat = np.arange(int(np.prod(t.shape))) % 256
        return (flat - (128 if t.dtype == "int8" else 0)).reshape(t.shape).astype(t.dtype)
    return i8(*t.shape) if t.dtype == "int8" else u8(*t.shape)


@pytest.mark.parametrize("name", CASES)
def test_import_equals_the_reference_kernels(name: str) -> None:
    net, inputs, outputs = CASES[name]()
    data = encode(net, inputs, outputs)
    graph, reference = tflite.loads(data, name), Reference(data)
    for k in range(4):
        feeds = [feed(net.tensors[i], k) for i in inputs]
        for mine, theirs in zip(spec.run(graph, *feeds), reference.run(*feeds), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", CASES)
def test_what_comes_back_out_equals_the_reference_kernels(name: str) -> None:
    net, inputs, outputs = CASES[name]()
    data = encode(net, inputs, outputs)
    reference, written = Reference(data), Reference(lower(tflite.loads(data, name)).data)
    for k in range(2):
        feeds = [feed(net.tensors[i], k) for i in inputs]
        for mine, theirs in zip(written.run(*feeds), reference.run(*feeds), strict=True):
            assert mine.dtype == (np.int32 if theirs.dtype == np.int64 else theirs.dtype)  # an ARG_MAX is int32 here
            np.testing.assert_array_equal(mine.reshape(theirs.shape), theirs)


def test_float_ends_are_folded_away() -> None:
    net = Net()
    x = net.add(T(X, "float32"))
    q, r, y = net.add(T(X, **Q)), net.add(T(X, scale=0.02, zero_point=3)), net.add(T(X, "float32"))
    net.op("QUANTIZE", [x], [q])
    net.op("RELU", [q], [r])
    net.op("DEQUANTIZE", [r], [y])
    data = encode(net, [x], [y])
    graph = tflite.loads(data, "ends")
    codes = i8(*X)
    real = ((codes.astype(np.float32) + 4) * np.float32(0.05)).astype(np.float32)
    (mine,) = spec.run(graph, codes)
    (theirs,) = Reference(data).run(real)
    quant = graph.outputs[0].quant
    assert quant is not None
    np.testing.assert_allclose(
        (mine.astype(np.float32) - quant.zero_point) * np.float32(quant.scale), theirs, rtol=0, atol=0
    )


def test_float_arithmetic_on_pixels_becomes_a_table() -> None:
    net = Net()
    x = net.add(T((1, 16, 16, 1), "uint8"))
    f = net.add(T((1, 16, 16, 1), "float32"))
    c = net.add(T((), "float32", data=np.array(127.5, np.float32)))
    g = net.add(T((1, 16, 16, 1), "float32"))
    y = net.add(T((1, 16, 16, 1), scale=0.01, zero_point=-128))
    net.op("CAST", [x], [f], "CastOptions", inDataType=3, outDataType=0)
    net.op("DIV", [f, c], [g], "DivOptions")
    net.op("QUANTIZE", [g], [y])
    data = encode(net, [x], [y])
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(spec.run(tflite.loads(data, "pixels"), pixels)[0], Reference(data).run(pixels)[0])


def test_a_float_model_is_refused_by_operator_and_tensor() -> None:
    net = Net()
    x, w, y = (
        net.add(T((1, 4), "float32")),
        net.add(T((2, 4), "float32", data=np.ones((2, 4), np.float32))),
        net.add(T((1, 2), "float32")),
    )
    net.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
    with pytest.raises(UnsupportedError, match=r"operator 0 \(FULLY_CONNECTED\).*FLOAT32"):
        tflite.loads(encode(net, [x], [y]), "float")


def test_an_unsupported_operator_is_named_and_can_be_cut_off() -> None:
    net = Net()
    x, r, y = net.add(T((1, 8), **Q)), net.add(T((1, 8), **Q)), net.add(T((1, 8), **Q))
    net.op("RELU", [x], [r])
    net.op("LOG_SOFTMAX", [r], [y])
    data = encode(net, [x], [y])
    with pytest.raises(UnsupportedError, match=r"operator 1 \(LOG_SOFTMAX\)"):
        tflite.loads(data, "m")
    assert len(tflite.loads(data, "m", ["t1"]).nodes) == 1
    with pytest.raises(UnsupportedError, match="no tensor is named 'nowhere'"):
        tflite.loads(data, "m", ["nowhere"])


def test_truncation_at_every_length_is_a_bitship_error() -> None:
    net, inputs, outputs = CASES["conv_same_relu6"]()
    data = encode(net, inputs, outputs)
    for n in range(0, len(data), 7):
        with pytest.raises(BitshipError):
            tflite.loads(data[:n], "cut")


def test_not_a_tflite_file(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"\x00" * 64)
    with pytest.raises(FormatError, match="TFL3"):
        tflite.load(path)


def _scale(r: np.random.Generator, low: float, high: float) -> float:
    return float(np.float32(r.uniform(low, high)))


@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_every_pair_of_codes_equals_the_reference(name: str, dtype: str) -> None:
    """All 65,536 pairs under many scales: a factor computed in the wrong float type shows only in rare sums."""
    r = np.random.default_rng(3)
    low = -128 if dtype == "int8" else 0
    a, b = (g.astype(dtype)[None] for g in np.meshgrid(np.arange(low, low + 256), np.arange(low, low + 256)))
    for _ in range(12):
        sa, sb = _scale(r, 0.001, 0.2), _scale(r, 0.001, 0.2)
        out = _scale(r, 0.5, 1.5) * ((sa + sb) if name != "MUL" else sa * sb * 100)
        zs = [int(z) for z in r.integers(low, low + 256, 3)]
        options = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}[name]
        net, inputs, outputs = simple(
            name, [T(a.shape, dtype, sa, zs[0]), T(a.shape, dtype, sb, zs[1])], T(a.shape, dtype, out, zs[2]), options
        )
        data = encode(net, inputs, outputs)
        np.testing.assert_array_equal(spec.run(tflite.loads(data, name), a, b)[0], Reference(data).run(a, b)[0])


@pytest.mark.parametrize("name", ["FULLY_CONNECTED", "CONV_2D"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_million_accumulators_equal_the_reference(name: str, dtype: str) -> None:
    """Wide accumulators under many scales: the last bit of a multiplier shows once in a hundred thousand outputs."""
    r = np.random.default_rng(5)
    code = i8 if dtype == "int8" else u8
    for _ in range(6):
        sx, sy = _scale(r, 0.01, 0.05), _scale(r, 0.02, 0.04)
        sw = _scale(r, 0.0005, 0.002)
        zx, zy = (int(z) for z in r.integers(-20, 20, 2) + (0 if dtype == "int8" else 128))
        zw = 0 if dtype == "int8" else 120
        fully = name == "FULLY_CONNECTED"
        x = T((300, 64) if fully else (1, 20, 15, 64), dtype, sx, zx)
        w = T(
            (600, 64) if fully else (600, 1, 1, 64),
            dtype,
            sw,
            zw,
            0,
            code(600, 64).reshape((600, 64) if fully else (600, 1, 1, 64)),
        )
        y = T((300, 600) if fully else (1, 20, 15, 600), dtype, sy, zy)
        data = encode(*conv_net(x, w, y, name))
        value = code(*x.shape)
        np.testing.assert_array_equal(spec.run(tflite.loads(data, name), value)[0], Reference(data).run(value)[0])


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "LEAKY_RELU": ("LeakyReluOptions", {"alpha": 0.3}),
    "SOFTMAX": ("SoftmaxOptions", {"beta": 1.0}),
    "MEAN": ("ReducerOptions", {"keepDims": True}),
}


@pytest.mark.parametrize(
    "name", ["QUANTIZE", "RELU", "RELU6", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH", "SOFTMAX", "MEAN"]
)
def test_many_scales_equal_the_reference(name: str) -> None:
    r = np.random.default_rng(9)
    x = np.stack([np.arange(-128, 128), *r.integers(-128, 128, (40, 256))]).astype(np.int8)
    for _ in range(25):
        fixed = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0), "SOFTMAX": (1 / 256, -128)}
        sx = _scale(r, 0.005, 0.2)
        sy, zy = fixed.get(name, (sx * _scale(r, 0.4, 2), int(r.integers(-128, 128))))
        options, fields = OPTIONS.get(name, (None, {}))
        extra = [i32(1)] if name == "MEAN" else []
        out = T((41, 1) if name == "MEAN" else x.shape, "int8", sy, zy)
        net, inputs, outputs = simple(
            name, [T(x.shape, "int8", sx, int(r.integers(-128, 128)))], out, options, extra, **fields
        )
        data = encode(net, inputs, outputs)
        np.testing.assert_array_equal(spec.run(tflite.loads(data, name), x)[0], Reference(data).run(x)[0])
