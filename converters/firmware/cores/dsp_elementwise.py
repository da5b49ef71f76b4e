"""add, sub, mul and rescale of int8 for the DSP extension, each proven for all its codes when it is made."""

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np

from bitship.converters.firmware.cores.epilogues import Epilogue, Form, fit
from bitship.graph import DType, Graph, Node
from bitship.graph.base import Ints
from bitship.graph.calls import Call, Packed
from bitship.graph.calls.overlap import elementwise_distance
from bitship.graph.calls.structs import CStruct, CValue, dtype, struct
from bitship.graph.ops import Add, Mul, Rescale, Rounding, Sub

_CODES = np.arange(-128, 128)
_NEAR = 6  # how far from the real factors an exact pair is looked for
_PAIRS = ("rows", "columns", "a_row", "b_row", "a", "b", "epilogue", "multiplier", "offset", "shift", "qmin", "qmax")


def _int8(graph: Graph, node: Node) -> bool:
    return all(graph.types[name].dtype is DType.INT8 for name in (*node.inputs, node.output))


def _walk(a: Sequence[int], b: Sequence[int]) -> dict[str, CValue] | None:
    """Return rows, columns and steps where one operand repeats along leading axes or none does, else None."""
    if a == b:
        return {"rows": 1, "columns": prod(a), "a_row": prod(a), "b_row": prod(b)}
    small, large = (a, b) if prod(a) < prod(b) else (b, a)
    kept = len(small)
    while kept > 0 and small[kept - 1] == large[kept - 1]:
        kept -= 1
    if prod(small[:kept]) != 1:
        return None
    n = prod(large[kept:])
    steps = {"a_row": 0, "b_row": n} if small is a else {"a_row": n, "b_row": 0}
    return {"rows": prod(large[:kept]), "columns": n, **steps}


def _call(graph: Graph, node: Node, function: str, walk: dict[str, CValue], *tables: Packed, **fields: CValue) -> Call:
    known = {**dict.fromkeys(_PAIRS, 0), **walk, **fields}
    whole = graph.types[node.output].size
    near = tuple(elementwise_distance(whole, 1, 1, 0) if graph.types[i].size == whole else None for i in node.inputs)
    params = CStruct("dsp_pairs", tuple(known.items()))
    return Call(f"bitship_{function}", params, (*node.inputs, *tables), node.output, 0, near + (None,) * len(tables))


def _factor(r: Rescale | None) -> float:
    return 1.0 if r is None else r.multiplier[0] * 2.0 ** (r.shift[0] - 31 + r.pre_shift)


def linear(wanted: Ints, qmin: int, qmax: int, a: float, b: float) -> tuple[int, int, int, int] | None:
    """Return (a, b, offset, shift): ``(x * a + y * b + offset) >> shift`` clamped is ``wanted[x + 128, y + 128]``.

    a, b  the real factors, near which integers are tried; None where none of them is exact for all 65536 pairs
    """
    x, y = _CODES[:, None], _CODES[None, :]
    near = sorted(product(range(-_NEAR, _NEAR + 1), repeat=2), key=lambda step: (abs(step[0]) + abs(step[1]), step))
    finest = min(int(np.log2((1 << 31) / (128 * (abs(a) + abs(b)) + 128))), 30)
    for shift in range(finest, max(finest - 2, 0), -1):
        for i, j in near:
            p, q = round(a * 2**shift) + i, round(b * 2**shift) + j
            base = x * p + y * q
            least = int(np.where(wanted > qmin, (wanted << shift) - base, -(1 << 40)).max())
            largest = int(np.where(wanted < qmax, (wanted + 1 << shift) - 1 - base, 1 << 40).min())
            if least - largest > 4 * 128 * _NEAR:  # out of reach of any step
                break
            offset = (least + largest) // 2
            reach = max(abs(int(base.min()) + offset), abs(int(base.max()) + offset), abs(offset) + 128 * abs(q))
            if least <= largest and reach < 1 << 31:
                return p, q, offset, shift
    return None


def total(graph: Graph, node: Node) -> Call | None:
    """An addition or subtraction: a sum of products if that is exact, else two tables and a rescale."""
    op = node.op
    assert isinstance(op, Add | Sub)
    if all(graph.types[name].dtype is DType.INT16 for name in (*node.inputs, node.output)):
        return _total16(graph, node)
    shapes = [graph.types[i].shape for i in node.inputs]
    walk = _walk(*shapes)
    if not _int8(graph, node) or walk is None or op.requant is None or op.requant.per_channel:
        return None
    sign = 1 if isinstance(op, Add) else -1
    left = (op.a.apply(_CODES) if op.a else _CODES).astype(np.int64)
    right = sign * (op.b.apply(_CODES) if op.b else _CODES).astype(np.int64)
    sums = left[:, None] + right[None, :]
    if max(-int(sums.min()), int(sums.max())) >= 1 << 31:  # fits only because the operands are known to be narrower
        return None
    r = op.requant
    wanted = r.apply(sums)
    found = linear(wanted, r.qmin, r.qmax, _factor(op.a) * _factor(r), sign * _factor(op.b) * _factor(r))
    if found is not None:
        a, b, offset, shift = found
        clamp: dict[str, CValue] = {"qmin": r.qmin, "qmax": r.qmax}
        return _call(graph, node, "dsp_sum", walk, a=a, b=b, offset=offset, shift=shift, **clamp)
    form = fit(r, sums.min(keepdims=True)[0], sums.max(keepdims=True)[0])
    if form.form is Form.RAW:
        return None
    left = left + form.added
    tables = Packed(np.concatenate([left, right]).astype(np.int32).tobytes())
    return _call(graph, node, "dsp_sum_tables", walk, tables, **_epilogue(form))


def _term16(r: Rescale | None) -> tuple[int, int] | None:
    """Return (multiplier, left): the rescale is ``((x << left) * multiplier + 2^31) >> 32`` for any int16."""
    if r is None or r.rounding is not Rounding.SINGLE or r.input_zero_point or r.output_zero_point:
        return None
    left = r.pre_shift + 1 + r.shift[0]
    return (r.multiplier[0], left) if 0 <= left <= 16 and r.qmin == DType.INT32.qmin else None


def _total16(graph: Graph, node: Node) -> Call | None:
    """An addition of int16 that rounds once."""
    op, r = node.op, node.op.requant if isinstance(node.op, Add) else None
    assert isinstance(op, Add | Sub)
    terms = [_term16(op.a), _term16(op.b)]
    shapes = {graph.types[name].shape for name in node.inputs}
    if r is None or r.per_channel or r.rounding is not Rounding.SINGLE or len(shapes) != 1 or None in terms:
        return None
    (a, a_left), (b, b_left) = (term for term in terms if term is not None)
    shift = -1 - r.shift[0]
    if (r.qmin, r.qmax) != (DType.INT16.qmin, DType.INT16.qmax) or not 1 <= shift <= 14 or a_left + b_left > 30:
        return None
    size = graph.types[node.output].size
    params = struct(
        "dsp_sum16",
        size=size,
        a=a,
        b=b,
        a_left=a_left,
        b_left=b_left,
        multiplier=r.multiplier[0],
        offset=(r.output_zero_point << shift) + (1 << (shift - 1)),
        shift=shift,
    )
    near = elementwise_distance(size, 2, 2, 0)
    return Call("bitship_dsp_sum16", params, node.inputs, node.output, 0, (near, near))


def _epilogue(form: Epilogue) -> dict[str, CValue]:
    m, offset, shift = (int(v) for v in form.factors()[0])
    return {"epilogue": int(form.form), "multiplier": m, "offset": offset, "shift": shift}


def mul(graph: Graph, node: Node) -> Call | None:
    """A product of elements."""
    op = node.op
    assert isinstance(op, Mul)
    walk = _walk(*(graph.types[i].shape for i in node.inputs))
    if not _int8(graph, node) or walk is None or op.requant is None or op.requant.per_channel:
        return None
    products = (_CODES - op.a_zero_point)[:, None] * (_CODES - op.b_zero_point)[None, :]
    form = fit(op.requant, products.min(keepdims=True)[0], products.max(keepdims=True)[0], biased=False)
    if form.form is Form.RAW:
        return None
    return _call(graph, node, "dsp_mul", walk, a=op.a_zero_point, b=op.b_zero_point, **_epilogue(form))


def rescale(graph: Graph, node: Node) -> Call | None:
    """A rescale of int8 to int8: a table of its 256 values."""
    op = node.op
    assert isinstance(op, Rescale)
    if not _int8(graph, node) or op.per_channel:
        return None
    size = graph.types[node.output].size
    params = struct(
        "unary",
        x_dtype=dtype(DType.INT8),
        out_dtype=dtype(DType.INT8),
        **dict.fromkeys(("amount", "half_up", "qmin", "qmax"), 0),
        size=size,
    )
    table = Packed(op.apply(_CODES.astype(np.int64)).astype(np.int8).tobytes())
    near = (elementwise_distance(size, 1, 1, 0), None)
    return Call("bitship_table", params, (node.inputs[0], table), node.output, 0, near)
