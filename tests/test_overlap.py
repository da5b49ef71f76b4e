"""An operand may lie exactly as close to the output as its call says: the same bits; one pixel closer gives others."""

import numpy as np
import pytest
from close_calls import close_calls, every_tensor, run_close
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_cases import ALL_CASES
from op_builders import I8, I16, Case, conv, depthwise
from test_cores import runnable

from bitship.converters.firmware.cores import Core
from bitship.graph import DType, GraphBuilder
from bitship.graph.ops import AvgPool2D, Clamp, MaxPool2D, Pad, Slice

CORES = [core for core in Core if runnable(core)]


def assert_close(case: Case, core: Core) -> None:
    graph, rows = case
    close = close_calls(graph, core)
    for row in rows if close else []:
        values = every_tensor(graph, row)
        for call, index in close:
            assert run_close(call, index, values), f"{call.function} of {call.output}, operand {index}"


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", sorted(ALL_CASES))
def test_every_case_is_exact_at_the_declared_distance(core: Core, name: str) -> None:
    assert_close(ALL_CASES[name](), core)


@st.composite
def windows(draw: st.DrawFn) -> Case:
    """Random convolutions, depthwise ones and pools: any stride, padding, dilation, batch, dtype, groups."""
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    h, w = (draw(st.integers(r, r + 8)) for r in reach)
    top, left = draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1))
    padding = (top, draw(st.integers(0, kernel[0] - 1)), left, draw(st.integers(0, kernel[1] - 1)))
    batch = draw(st.integers(1, 2))
    name = str(draw(st.integers(0, 1000)))
    xtype, otype = draw(st.sampled_from([(I8, I8), (I8, I8), (I16, I16), (I16, I8)]))
    kind = draw(st.sampled_from(["conv", "conv", "depthwise", "pool"]))
    if kind == "conv":
        groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
        c, o = groups * draw(st.integers(1, 9)), groups * draw(st.integers(1, 20))
        return conv(
            name, (batch, h, w, c), o, kernel, groups=groups, stride=stride, padding=padding, dilation=dilation,
            xtype=xtype, otype=otype,
        )  # fmt: skip
    c = draw(st.sampled_from([1, 3, 4, 16, 17, 40, 80]))
    if kind == "depthwise":
        multiplier = draw(st.sampled_from([1, 1, 2]))
        return depthwise(
            name, (batch, h, w, c), kernel, m=multiplier, stride=stride, padding=padding, dilation=dilation
        )
    b = GraphBuilder("pool")
    x = b.input("x", (batch, *(k + draw(st.integers(0, 8)) for k in kernel), c), I8)
    make = draw(st.sampled_from([AvgPool2D, MaxPool2D]))
    graph = b.finish([(b.node("y", make(kernel, stride, padding), x), None)])
    r = np.random.default_rng(0)
    return graph, [(r.integers(-128, 128, graph.inputs[0].type.shape).astype(np.int8),)]


@pytest.mark.parametrize("core", CORES)
@settings(deadline=None, max_examples=150)
@given(case=windows())
def test_random_windows_are_exact_at_the_declared_distance(core: Core, case: Case) -> None:
    assert_close(case, core)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_random_pads_and_slices_are_exact_at_the_declared_distance(data: st.DataObject) -> None:
    b = GraphBuilder("layout")
    shape = tuple(data.draw(st.integers(1, 6)) for _ in range(data.draw(st.integers(1, 4))))
    dtype = data.draw(st.sampled_from([I8, I16, DType.INT32]))
    name = b.node("x", Clamp(-100, 100), b.input("i", shape, dtype))
    if data.draw(st.booleans()):
        padding = tuple((data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in shape)
        name = b.node("y", Pad(padding, 7), name)
    else:
        start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
        stride = tuple(data.draw(st.integers(1, 3)) for _ in shape)
        size = tuple(
            data.draw(st.integers(1, (n - a - 1) // s + 1)) for n, a, s in zip(shape, start, stride, strict=True)
        )
        name = b.node("y", Slice(start, size, stride), name)
    values = np.random.default_rng(1).integers(-100, 101, shape).astype(dtype.numpy)
    assert_close((b.finish([(name, None)]), [(values,)]), Core.SCALAR)


def test_one_pixel_closer_gives_other_bits() -> None:
    seen = wrong = 0
    for name in sorted(ALL_CASES):
        if not name.startswith(("conv", "depthwise")):
            continue
        graph, rows = ALL_CASES[name]()
        values = every_tensor(graph, rows[0])
        for call, index in close_calls(graph, Core.SCALAR):
            out, operand = values[call.output], values[str(call.operands[index])]
            closer = max(out.shape[-1] * out.itemsize, operand.shape[-1] * operand.itemsize)
            seen += 1
            wrong += not run_close(call, index, values, closer)
    assert seen > 15
    assert wrong > seen // 2
