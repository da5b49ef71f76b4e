"""The DSP family on this machine: its forms are exact, its kernels take any shape, rows may be run a few at a time."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from arena import Arena
from close_calls import every_tensor
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from int4_cases import CASES as INT4_CASES
from int4_cases import packed
from merged_cases import ALL_CASES
from op_builders import I8, I16, Case, D, S, conv, depthwise, fc
from test_cores import runnable

from bitship import kernels
from bitship.converters.firmware.cores import Core, lower_for
from bitship.converters.firmware.cores.dsp_elementwise import linear
from bitship.converters.firmware.cores.epilogues import Form, fit
from bitship.converters.firmware.emit import lower_graph
from bitship.graph import DType, spec
from bitship.graph.base import Array
from bitship.graph.calls import Call, CStruct, Packed
from bitship.graph.host import new_struct
from bitship.graph.ops import Rescale, Rounding

pytestmark = pytest.mark.skipif(not runnable(Core.DSP), reason="the library has no DSP kernels")

ROUNDINGS = st.sampled_from([S, D])


def field(params: CStruct, name: str) -> Any:
    return dict(params.fields).get(name)


def test_the_cases_reach_every_kernel_with_every_epilogue() -> None:
    seen: Counter[tuple[str, Any, Any]] = Counter()
    for make in ALL_CASES.values():
        graph = make()[0]
        for node in graph.nodes:
            for call in lower_for(Core.DSP, graph, node):
                seen[call.function, field(call.params, "epilogue"), field(call.params, "weights")] += 1
    for form in Form:
        for weights in (0, 1):
            assert seen["bitship_dsp_conv2d", form, weights] > 0, (form, weights)
        if form is not Form.WIDE:
            assert seen["bitship_dsp_depthwise_conv2d", form, 1] > 0, form
    for form in (Form.FLOOR, Form.DOUBLE):
        assert seen["bitship_dsp_mul", form, None] > 0
    for function in (
        "sum",
        "sum16",
        "sum_tables",
        "avg_pool2d",
        "max_pool2d",
        "reduce_sum",
        "matmul",
        "softmax_matmul",
    ):
        assert sum(n for (name, _, _), n in seen.items() if name == f"bitship_dsp_{function}") > 0, function


@settings(deadline=None, max_examples=400)
@given(
    m=st.one_of(st.integers(1 << 30, (1 << 31) - 1), st.sampled_from([0, 1, 1 << 30, (1 << 31) - 1])),
    right=st.integers(-3, 31),
    zero_point=st.one_of(st.just(-128), st.integers(-128, 127)),
    rounding=ROUNDINGS,
    bits=st.integers(1, 31),
    dtype=st.sampled_from([I8, I8, I16]),
    seed=st.integers(0, 99),
)
def test_a_form_is_the_rescale_it_stands_for(
    m: int, right: int, zero_point: int, rounding: Rounding, bits: int, dtype: DType, seed: int
) -> None:
    most = (1 << bits) - 1
    assume(rounding is S or most << max(-right, 0) < 1 << 31)
    r = Rescale((m,), (-right,), 0, zero_point, rounding, dtype=dtype, qmin=dtype.qmin, qmax=dtype.qmax)
    lo, hi = np.array([-most], np.int64), np.array([most], np.int64)
    form = fit(r, lo, hi, wide=True)
    if form.form is Form.RAW:
        assert right < 1 or right > 22 or bits > 25 or (dtype is I16 and rounding is D)
        return
    steps = ((np.arange(-130, 131) * 2 - 1) << max(right + 31, 0)) // max(2 * m, 1)
    acc = np.concatenate([steps[:, None] + np.arange(-3, 4)]).reshape(-1)
    random = np.random.default_rng(seed).integers(-most, most, 500, endpoint=True)
    acc = np.clip(np.concatenate([acc, random, np.arange(-9, 10), lo, hi]), -most, most)
    np.testing.assert_array_equal(form.apply(acc), r.apply(acc))


@pytest.mark.parametrize("rounding", [S, D])
def test_two_roundings_behind_a_relu_take_the_cheap_form(rounding: Rounding) -> None:
    r = Rescale((1431655765, 1518500250), (-7, -8), 0, -128, rounding)
    assert fit(r, np.full(2, -100000), np.full(2, 100000)).form is Form.FLOOR
    other = replace_zero_point(r, 3)
    assert fit(other, np.full(2, -100000), np.full(2, 100000)).form is (Form.DOUBLE if rounding is D else Form.FLOOR)


def replace_zero_point(r: Rescale, zero_point: int) -> Rescale:
    return Rescale(r.multiplier, r.shift, 0, zero_point, r.rounding)


@settings(deadline=None, max_examples=40)
@given(a=st.floats(0.05, 3), b=st.floats(-3, 3), offset=st.integers(-200, 200))
def test_a_linear_form_is_exact_for_every_pair_of_codes(a: float, b: float, offset: int) -> None:
    codes = np.arange(-128, 128)
    wanted = np.clip(np.round(codes[:, None] * a + codes[None, :] * b).astype(np.int64) + offset, -128, 127)
    found = linear(wanted, -128, 127, a, b)
    if found is not None:
        p, q, c, shift = found
        np.testing.assert_array_equal(
            np.clip((codes[:, None] * p + codes[None, :] * q + c) >> shift, -128, 127), wanted
        )


@st.composite
def layers(draw: st.DrawFn) -> Case:
    """A convolution, depthwise or not, or a fully connected layer, of any shape."""
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dilation = (draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 1, 3])))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(draw(st.integers(0, r - 1)) for r in (reach[0], reach[0], reach[1], reach[1]))
    h, w = (
        draw(st.integers(max(1, r - p - q), r + 6)) for r, p, q in zip(reach, padding[::2], padding[1::2], strict=True)
    )
    h, w = max(h, reach[0] - padding[0] - padding[1]), max(w, reach[1] - padding[2] - padding[3])
    options: dict[str, Any] = {
        "stride": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "padding": padding,
        "dilation": dilation,
        "izp": draw(st.integers(-128, 127)),
        "wzp": draw(st.sampled_from([0, 0, 0, -40])),
        "rounding": draw(ROUNDINGS),
        "per_channel": draw(st.booleans()),
    }
    name, batch, c = str(draw(st.integers(0, 999))), draw(st.integers(1, 2)), draw(st.integers(1, 21))
    kind = draw(st.sampled_from(["conv", "depthwise", "fc"]))
    if kind == "depthwise":
        return depthwise(name, (batch, h, w, c), kernel, **options)
    if kind == "fc":
        known = {key: options[key] for key in ("izp", "wzp", "rounding", "per_channel")}
        return fc(name, draw(st.integers(1, 9)), draw(st.integers(1, 70)), draw(st.integers(1, 9)), **known)
    options |= {"zp": draw(st.sampled_from([-128, -128, 3, 127])), "epilogue": draw(st.integers(0, 4)) > 0}
    if options["wzp"]:
        options["per_channel"] = False
    return conv(name, (batch, h, w, c), draw(st.integers(1, 70)), kernel, **options)


@settings(deadline=None, max_examples=300)
@given(case=layers())
def test_random_layers_give_the_bits_of_the_specification(case: Case) -> None:
    graph, rows = case
    arena = Arena(lower_graph(graph, Core.DSP))
    for row in rows:
        np.testing.assert_array_equal(arena.run(*row)[0], spec.run(graph, *row)[0])


@settings(deadline=None, max_examples=200)
@given(case=layers(), group=st.sampled_from([0, 0, 32, 64, 8, 12]), seed=st.integers(0, 99))
def test_random_layers_of_four_bits_give_the_bits_of_the_specification(case: Case, group: int, seed: int) -> None:
    graph, rows = packed(str(seed), case, group)
    arena = Arena(lower_graph(graph, Core.DSP))
    for row in rows:
        np.testing.assert_array_equal(arena.run(*row)[0], spec.run(graph, *row)[0])


def test_the_four_bit_cases_reach_every_form() -> None:
    seen = set()
    for make in INT4_CASES.values():
        graph = make()[0]
        for call in lower_for(Core.DSP, graph, graph.nodes[0]):
            if call.function == "bitship_dsp_conv2d_int4":
                seen.add((field(call.params, "epilogue"), field(call.params, "group") > 0))
    assert {(Form.FLOOR, False), (Form.FLOOR, True), (Form.WIDE, False)} <= seen


def invoke(call: Call, x: Array, size: int, dtype: Any, **changed: int) -> Array:
    """Run a window kernel on an image, with fields of its parameters changed at run time."""
    ffi, lib = kernels.load()
    keep: list[Any] = []
    params = new_struct(ffi, call.params, keep)
    for name, value in changed.items():
        setattr(params, name, value)
    out, scratch = np.zeros(size + 64, dtype), np.zeros(call.scratch_bytes // 4 + 16, np.int32)
    packed = call.operands[1]
    assert isinstance(packed, Packed)
    weights = np.zeros(len(packed.data) // 4 + 8, np.int32)
    weights.view(np.uint8)[: len(packed.data)] = np.frombuffer(packed.data, np.uint8)
    x = np.ascontiguousarray(x)
    arguments = [ffi.cast("void *", a.ctypes.data) for a in (x, weights, scratch)]
    error = getattr(lib, call.function)(params, *arguments, call.scratch_bytes, ffi.cast("void *", out.ctypes.data))
    assert error == 0
    assert not out[size:].any()
    return out[:size]


STRIPS = [
    conv("strip", (1, 9, 7, 6), 5, (3, 3), padding=(1, 1, 1, 1), izp=-100, rounding=D),
    conv("strip_s2", (1, 12, 7, 3), 5, (3, 3), stride=(2, 2), padding=(0, 1, 0, 1), izp=-100),
    conv("strip_dilated", (1, 9, 7, 4), 5, (3, 3), dilation=(2, 1), padding=(2, 2, 1, 1), izp=-100),
    conv("strip_1x1", (1, 9, 7, 4), 5, (1, 1), izp=-100),
    packed("strip_int4", conv("strip_int4", (1, 9, 7, 6), 5, (3, 3), padding=(1, 1, 1, 1), izp=-100)),
    depthwise("strip_dw", (1, 9, 7, 9), (3, 3), padding=(1, 1, 1, 1), izp=50),
    depthwise("strip_dw_5x5", (1, 9, 7, 8), (5, 5), stride=(2, 1), padding=(2, 2, 2, 2), izp=50),
]


@pytest.mark.parametrize("case", STRIPS, ids=lambda case: case[0].name)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_strip_of_rows_is_those_rows_of_the_image(case: Case, rows: int) -> None:
    graph, feeds = case
    (node,) = graph.nodes
    (call,) = lower_for(Core.DSP, graph, node)
    assert call.function.startswith("bitship_dsp_")
    whole = every_tensor(graph, feeds[0])[node.output][0]
    known = {name: field(call.params, name) for name in ("in_h", "stride_h", "dilation_h", "kernel_h", "pad_top")}
    for first in range(0, whole.shape[0], rows):
        n = min(rows, whole.shape[0] - first)
        top = first * known["stride_h"] - known["pad_top"]
        bottom = top + (n - 1) * known["stride_h"] + (known["kernel_h"] - 1) * known["dilation_h"] + 1
        begin, end = max(top, 0), min(bottom, known["in_h"])
        found = invoke(
            call, feeds[0][0][0, begin:end], whole[:n].size, whole.dtype, in_h=end - begin, out_h=n, pad_top=begin - top
        )
        np.testing.assert_array_equal(found, whole[first : first + n].reshape(-1))


@pytest.mark.parametrize("case", STRIPS, ids=lambda case: case[0].name)
def test_a_changed_byte_of_packed_weights_shows(case: Case) -> None:
    graph, feeds = case
    (node,) = graph.nodes
    (call,) = lower_for(Core.DSP, graph, node)
    whole = every_tensor(graph, feeds[0])[node.output]
    packed = call.operands[1]
    assert isinstance(packed, Packed)
    for at in range(1 if graph.packing else 0, 12):  # biases, or a bias and weights: what follows is in the same loop
        data = bytearray(packed.data)
        data[at] ^= 0x40
        other = replace(call, operands=(call.operands[0], Packed(bytes(data))))
        assert not np.array_equal(invoke(other, feeds[0][0], whole.size, whole.dtype), whole.reshape(-1)), at
