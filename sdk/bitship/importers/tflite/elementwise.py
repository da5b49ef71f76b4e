"""ADD, SUB, MUL, QUANTIZE, DEQUANTIZE, CAST, activations: element by element."""

from collections.abc import Callable

import numpy as np

from bitship.graph import DType, Quant
from bitship.graph.base import Array
from bitship.graph.fixedpoint import (
    input_radius,
    logistic,
    quantize_multiplier,
    rescale_double,
    round_half_away,
    rounding_shift,
    tanh,
)
from bitship.graph.ops import Add, Mul, Rescale, Rounding, Sub, Table
from bitship.importers.tflite.context import EIGHT_BIT, Context, FloatValue

_CODES = range(-128, 128)
_PRE_SHIFT = 20


def _is_float(ctx: Context) -> bool:
    assert ctx.op is not None
    return any(i in ctx.floats for i in ctx.op.inputs)


def add(ctx: Context) -> None:
    """Lower ADD."""
    if _is_float(ctx):
        return _float_binary(ctx, np.add)
    return _sum(ctx, Add)


def sub(ctx: Context) -> None:
    """Lower SUB."""
    if _is_float(ctx):
        return _float_binary(ctx, np.subtract)
    return _sum(ctx, Sub)


def _sum(ctx: Context, kind: type[Add] | type[Sub]) -> None:
    """Both operands to a common scale with 20 extra bits, the sum, and down again: three roundings in pairs."""
    a, b = ctx.operand(0), ctx.operand(1)
    twice = 2 * max(ctx.scale(a), ctx.scale(b))

    def term(index: int) -> Rescale:
        multiplier, shift = quantize_multiplier(ctx.scale(index) / twice)
        return Rescale(
            multiplier=(multiplier,),
            shift=(shift,),
            input_zero_point=ctx.zero_point(index),
            rounding=Rounding.DOUBLE,
            pre_shift=_PRE_SHIFT,
            dtype=DType.INT32,
            qmin=DType.INT32.qmin,
            qmax=DType.INT32.qmax,
        )

    out = ctx.rescale_to(ctx.result, [twice / ((1 << _PRE_SHIFT) * ctx.scale(ctx.result))])
    op = kind(a=term(a), b=term(b), requant=out)
    ctx.emit(op, *ctx.same_rank(ctx.name(a), ctx.name(b)))


def mul(ctx: Context) -> None:
    """Lower MUL: one rescale of the product; the factor is computed in float32, as TFLite does."""
    if _is_float(ctx):
        return _float_binary(ctx, np.multiply)
    a, b = ctx.operand(0), ctx.operand(1)
    product = np.float32(ctx.scale(a)) * np.float32(ctx.scale(b))
    factor = float(product / np.float32(ctx.scale(ctx.result)))
    op = Mul(ctx.zero_point(a), ctx.zero_point(b), ctx.rescale_to(ctx.result, [factor]))
    ctx.emit(op, *ctx.same_rank(ctx.name(a), ctx.name(b)))
    return None


def div(ctx: Context) -> None:
    """Lower DIV of a float island by a constant."""
    if not _is_float(ctx):
        raise ctx.refuse("integer division is not supported")
    _float_binary(ctx, np.divide)


def _float_binary(ctx: Context, function: Callable[[Array, Array], Array]) -> None:
    """Fold arithmetic between a float island and a scalar constant into the island's table."""
    assert ctx.op is not None
    tables: list[Array] = []
    source: str | None = None
    for position in (0, 1):
        index = ctx.operand(position)
        if index in ctx.floats:
            source = ctx.floats[index].source
            if source is None:
                raise ctx.refuse("a float graph input must go straight into QUANTIZE")
            tables.append(ctx.floats[index].table)
        else:
            value = ctx.constant(position)
            if value.size != 1 or value.dtype != np.float32:
                raise ctx.refuse("float arithmetic is folded only where the other operand is one float constant")
            tables.append(value.reshape(1))
    if len({ctx.floats[i].source for i in ctx.op.inputs if i in ctx.floats}) != 1 or tables[0].size == tables[1].size:
        raise ctx.refuse("float arithmetic between two computed tensors cannot be made integer")
    if ctx.option("FusedActivationFunction", 0):
        raise ctx.refuse("a fused activation on float arithmetic is not supported")
    with np.errstate(all="ignore"):
        table = function(tables[0], tables[1]).astype(np.float32)
    ctx.floats[ctx.result] = FloatValue(source, table, None)


def dequantize(ctx: Context) -> None:
    """Lower DEQUANTIZE: the start of a float island, or the end of the graph."""
    index = ctx.operand(0)
    scale, zero_point = ctx.scale(index), ctx.zero_point(index)
    codes = np.arange(-128, 128, dtype=np.float32)
    table = (np.float32(scale) * (codes - np.float32(zero_point))).astype(np.float32)
    ctx.floats[ctx.result] = FloatValue(ctx.name(index), table, Quant(scale, zero_point))


def cast(ctx: Context) -> None:
    """Lower CAST of an 8-bit tensor to float, or between integers."""
    index = ctx.operand(0)
    info, out = ctx.info(index), ctx.info(ctx.result)
    if {info.type, out.type} <= {"INT32", "INT64"}:
        ctx.names[ctx.result] = ctx.name(index)  # int64 is held as int32: only indices and shapes have it
        return
    if info.type not in EIGHT_BIT or out.type != "FLOAT32":
        raise ctx.refuse(f"cast from {info.type} to {out.type} is not supported; 8-bit to FLOAT32 is")
    codes = np.arange(-128, 128, dtype=np.float32) + EIGHT_BIT[info.type]
    ctx.floats[ctx.result] = FloatValue(ctx.name(index), codes, Quant(1.0, -EIGHT_BIT[info.type]))


def quantize(ctx: Context) -> None:
    """Lower QUANTIZE: the end of a float island, a float graph input, or a change of scale."""
    index = ctx.operand(0)
    scale, zero_point = ctx.scale(ctx.result), ctx.zero_point(ctx.result)
    if index in ctx.floats:
        value = ctx.floats[index]
        if value.source is None:
            return _quantized_input(ctx, index)
        with np.errstate(all="ignore"):
            real = value.table / np.float32(scale)
        if not np.isfinite(real).all():
            raise ctx.refuse("a float island gives infinite or undefined values")
        table = np.array([max(-128, min(127, round_half_away(float(v)) + zero_point)) for v in real], np.int8)
        if np.array_equal(table, np.arange(-128, 128)):
            ctx.names[ctx.result] = value.source
            return None
        ctx.emit(Table(), value.source, ctx.builder.constant("table", table))
        return None
    if ctx.info(index).type == "FLOAT32":
        return _quantized_constant(ctx)
    source = ctx.zero_point(index)
    if ctx.scale(index) == scale and source == zero_point:
        ctx.names[ctx.result] = ctx.name(index)
        return None
    plain = ctx.rescale([ctx.scale(index) / scale], zero_point, -128, 127)
    ctx.emit(_with_input_zero_point(plain, source), ctx.name(index))
    return None


def _quantized_constant(ctx: Context) -> None:
    """Quantize a float constant here: it is a constant of the graph."""
    value = ctx.constant(0)
    with np.errstate(all="ignore"):
        real = (value / np.float32(ctx.scale(ctx.result))).astype(np.float64)
    if not np.isfinite(real).all():
        raise ctx.refuse("the constant is infinite or undefined")
    nearest = np.copysign(np.floor(np.abs(real) + 0.5), real) + ctx.zero_point(ctx.result)
    codes = np.clip(nearest, -128, 127).astype(np.int8)
    ctx.names[ctx.result] = ctx.builder.constant(ctx.info(ctx.result).name, codes)


def _quantized_input(ctx: Context, index: int) -> None:
    """Make the graph take the codes instead of the floats the file takes."""
    info, out = ctx.info(index), ctx.info(ctx.result)
    quant = Quant(ctx.scale(ctx.result), out.zero_point[0])
    dtype = DType.INT8 if out.type == "INT8" else DType.UINT8
    if index not in ctx.float_inputs:
        name = ctx.builder.input(info.name, info.shape, dtype, quant)
        ctx.float_inputs[index] = (signed(ctx, name), quant, dtype)
    name, known, known_dtype = ctx.float_inputs[index]
    if (known, known_dtype) != (quant, dtype):
        raise ctx.refuse("a float graph input is quantized twice, and not alike")
    ctx.names[ctx.result] = name


def signed(ctx: Context, name: str) -> str:
    """Return an unsigned graph tensor as int8, 128 lower."""
    if ctx.builder.types[name].dtype is not DType.UINT8:
        return name
    return ctx.builder.node(f"{name}/signed", Rescale((1 << 30,), (1,), input_zero_point=128), name)


def unsigned(ctx: Context, name: str) -> str:
    """Return an int8 graph tensor as uint8, 128 higher."""
    op = Rescale((1 << 30,), (1,), output_zero_point=128, dtype=DType.UINT8, qmin=0, qmax=255)
    return ctx.builder.node(f"{name}/unsigned", op, name)


def _with_input_zero_point(rescale: Rescale, zero_point: int) -> Rescale:
    return Rescale(
        multiplier=rescale.multiplier,
        shift=rescale.shift,
        input_zero_point=zero_point,
        output_zero_point=rescale.output_zero_point,
        rounding=rescale.rounding,
        qmin=rescale.qmin,
        qmax=rescale.qmax,
    )


def _relu(low: float, high: float | None) -> Callable[[Context], None]:
    def lower(ctx: Context) -> None:
        index = ctx.operand(0)
        scale, zero_point = ctx.scale(ctx.result), ctx.zero_point(ctx.result)
        floor = max(-128, zero_point + round_half_away(float(np.float32(low) / np.float32(scale))))
        top = 127
        if high is not None:
            top = min(127, zero_point + round_half_away(float(np.float32(high) / np.float32(scale))))
        plain = ctx.rescale([float(np.float32(ctx.scale(index)) / np.float32(scale))], zero_point, floor, top)
        ctx.emit(_with_input_zero_point(plain, ctx.zero_point(index)), ctx.name(index))

    return lower


relu = _relu(0, None)
relu6 = _relu(0, 6)
relu_n1_to_1 = _relu(-1, 1)
relu_0_to_1 = _relu(0, 1)


def _emit_table(ctx: Context, function: Callable[[int], int]) -> None:
    """Emit a table of ``function(code - zero_point)`` over all int8 codes."""
    zero_point = ctx.zero_point(ctx.operand(0))
    table = np.array([max(-128, min(127, function(q - zero_point))) for q in _CODES], np.int8)
    ctx.emit(Table(), ctx.name(ctx.operand(0)), ctx.builder.constant("table", table))


def _fixed_point(function: Callable[[int, int], int], out_bits: int, out_zero_point: int) -> Callable[[Context], None]:
    """Lower an activation TFLite's reference kernel computes in Q4.27: logistic and tanh."""

    def lower(ctx: Context) -> None:
        multiplier, shift = quantize_multiplier(ctx.scale(ctx.operand(0)) * (1 << 27))
        radius = input_radius(4, max(shift, 0))

        def value(x: int) -> int:
            if x <= -radius:
                return -128
            if x >= radius:
                return 127
            raw = rescale_double(x, multiplier, shift)
            return rounding_shift(function(raw, 4), 31 - out_bits) + out_zero_point

        _emit_table(ctx, value)

    return lower


logistic_ = _fixed_point(logistic, 8, -128)
tanh_ = _fixed_point(tanh, 7, 0)


def _int16_multiplier(multiplier: int) -> int:
    """Round a Q31 multiplier to Q15: TFLite's DownScaleInt32ToInt16Multiplier."""
    limit = (1 << 31) - 1 - (1 << 15)
    return 32767 if multiplier >= limit else (multiplier + (1 << 15)) >> 16


def _saturate16(x: int) -> int:
    return max(-32768, min(32767, x))


def _high_mul16(a: int, b: int, rounding: bool) -> int:
    product = a * b + ((1 << 14) if rounding else 0)
    return _saturate16(product >> 15 if rounding else int(product / (1 << 15)))


def hard_swish(ctx: Context) -> None:
    """Lower HARD_SWISH: TFLite's 16-bit reference arithmetic, evaluated for every code."""
    hires = np.float32(1.0 / 128) * np.float32(ctx.scale(ctx.operand(0)))
    out_multiplier, out_shift = quantize_multiplier(float(hires / np.float32(ctx.scale(ctx.result))))
    relu_multiplier, relu_shift = quantize_multiplier(float(hires / (np.float32(3.0) / np.float32(32768))))
    out16, relu16 = _int16_multiplier(out_multiplier), _int16_multiplier(relu_multiplier)
    zero_point = ctx.zero_point(ctx.result)

    def value(x: int) -> int:
        wide = x * 128
        on_output = _high_mul16(wide, out16, True)
        gate = wide
        if relu_shift > 0:
            gate = _saturate16(gate << (relu_shift - 1))
        gate = _high_mul16(gate, relu16, True)
        if relu_shift > 0:
            gate = _saturate16(gate << 1)
        if relu_shift < 0:
            gate = rounding_shift(gate, -relu_shift)
        gate = (gate + (1 << 15)) >> 1
        return rounding_shift(_high_mul16(gate, on_output, False), -out_shift) + zero_point

    _emit_table(ctx, value)


def leaky_relu(ctx: Context) -> None:
    """Lower LEAKY_RELU: one multiplier above zero, another below."""
    x, y, alpha = (np.float32(v) for v in (ctx.scale(ctx.operand(0)), ctx.scale(ctx.result), ctx.option("Alpha")))
    positive = quantize_multiplier(float(x / y))
    negative = quantize_multiplier(float(x * alpha / y))
    zero_point = ctx.zero_point(ctx.result)
    if ctx.option("Alpha") < 0:
        raise ctx.refuse("a negative alpha is not supported")
    _emit_table(ctx, lambda x: rescale_double(x, *(positive if x >= 0 else negative)) + zero_point)
