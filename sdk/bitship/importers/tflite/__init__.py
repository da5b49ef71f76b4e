"""Import a quantized .tflite: the graph gives the bytes of LiteRT's reference kernels (BUILTIN_REF)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bitship.errors import GraphError, UnsupportedError
from bitship.graph import DType, Graph, GraphBuilder, Quant, verify
from bitship.importers.tflite import (
    binary,
    blocks,
    conv,
    elementwise,
    layout,
    reduce,
    resize,
    shape,
    transpose_conv,
    unary,
)
from bitship.importers.tflite.context import EIGHT_BIT, Context, FloatValue
from bitship.importers.tflite.fold import fold
from bitship.importers.tflite.reader import Model, TensorInfo, damage_is_format_error, parse, read

LOWERINGS: dict[str, Callable[[Context], None]] = {
    "ABS": unary.abs_,
    "ADD": elementwise.add,
    "ARG_MAX": reduce.arg_max,
    "ARG_MIN": reduce.arg_min,
    "AVERAGE_POOL_2D": shape.average_pool_2d,
    "BATCH_MATMUL": binary.batch_matmul,
    "BATCH_TO_SPACE_ND": blocks.batch_to_space_nd,
    "BROADCAST_TO": blocks.broadcast_to,
    "CAST": elementwise.cast,
    "CONCATENATION": layout.concatenation,
    "CONV_2D": conv.conv_2d,
    "DEPTHWISE_CONV_2D": conv.depthwise_conv_2d,
    "DEPTH_TO_SPACE": blocks.depth_to_space,
    "DEQUANTIZE": elementwise.dequantize,
    "DIV": elementwise.div,
    "ELU": unary.elu,
    "EXP": unary.exp,
    "EXPAND_DIMS": layout.expand_dims,
    "FULLY_CONNECTED": conv.fully_connected,
    "GATHER": layout.gather,
    "GATHER_ND": layout.gather_nd,
    "GELU": unary.gelu,
    "HARD_SWISH": elementwise.hard_swish,
    "LEAKY_RELU": elementwise.leaky_relu,
    "LOGISTIC": elementwise.logistic_,
    "MAXIMUM": binary.maximum,
    "MAX_POOL_2D": shape.max_pool_2d,
    "MEAN": reduce.mean,
    "MINIMUM": binary.minimum,
    "MIRROR_PAD": blocks.mirror_pad,
    "MUL": elementwise.mul,
    "PACK": layout.pack,
    "PAD": layout.pad,
    "PADV2": layout.pad,
    "PRELU": binary.prelu,
    "QUANTIZE": elementwise.quantize,
    "REDUCE_MAX": reduce.reduce_max,
    "REDUCE_MIN": reduce.reduce_min,
    "RELU": elementwise.relu,
    "RELU6": elementwise.relu6,
    "RELU_0_TO_1": elementwise.relu_0_to_1,
    "RELU_N1_TO_1": elementwise.relu_n1_to_1,
    "RESHAPE": layout.reshape,
    "RESIZE_BILINEAR": resize.resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": resize.resize_nearest_neighbor,
    "REVERSE_V2": blocks.reverse_v2,
    "RSQRT": unary.rsqrt,
    "SLICE": layout.slice_,
    "SOFTMAX": shape.softmax,
    "SPACE_TO_BATCH_ND": blocks.space_to_batch_nd,
    "SPACE_TO_DEPTH": blocks.space_to_depth,
    "SPLIT": layout.split,
    "SPLIT_V": layout.split_v,
    "SQUARED_DIFFERENCE": binary.squared_difference,
    "SQUEEZE": layout.squeeze,
    "STRIDED_SLICE": layout.strided_slice,
    "SUM": reduce.sum_,
    "SUB": elementwise.sub,
    "TANH": elementwise.tanh_,
    "TILE": blocks.tile,
    "TRANSPOSE": layout.transpose,
    "TRANSPOSE_CONV": transpose_conv.transpose_conv,
    "UNPACK": layout.unpack,
}


def load(path: Path, outputs: Sequence[str] = ()) -> Graph:
    """Read a .tflite file into a verified graph.

    outputs  names of tensors to cut the model at; the model's own outputs when empty

    Float tensors at the ends are folded away: the graph takes and gives the codes, with their scale and zero point.
    Raises FormatError for a damaged file, UnsupportedError naming the operator, GraphError when the result is unsound.
    """
    return lower(read(path), str(path), path.stem, outputs)


def loads(data: bytes, where: str, outputs: Sequence[str] = ()) -> Graph:
    """Do what ``load`` does, from bytes."""
    return lower(parse(data, where), where, Path(where).stem, outputs)


def lower(model: Model, where: str, name: str, outputs: Sequence[str] = ()) -> Graph:
    """Lower a read model to a verified graph."""
    wanted = _wanted(model, outputs, where)
    ctx = Context(model, GraphBuilder(name), where)
    with damage_is_format_error(where):
        needed = _needed(model, [t.index for t in wanted])
        for index in model.inputs:
            _input(ctx, model.tensors[index])
        for op in model.operators:
            if op.index not in needed:
                continue
            ctx.op = op
            if fold(ctx):
                continue
            if op.name not in LOWERINGS:
                raise ctx.refuse("this operator is not supported; --output TENSOR cuts the model before it")
            try:
                LOWERINGS[op.name](ctx)
            except GraphError as e:
                raise type(e)(f"{where}: operator {op.index} ({op.name}): {e}") from None
        ctx.op = None
        graph = ctx.builder.finish([_output(ctx, t) for t in wanted])
    verify(graph)
    return graph


def _wanted(model: Model, outputs: Sequence[str], where: str) -> list[TensorInfo]:
    if not outputs:
        return [model.tensors[i] for i in model.outputs]
    by_name = {t.name: t for t in model.tensors}
    missing = [n for n in outputs if n not in by_name]
    if missing:
        raise UnsupportedError(f"{where}: no tensor is named '{missing[0]}'; {len(by_name)} are there")
    return [by_name[n] for n in outputs]


def _needed(model: Model, outputs: list[int]) -> set[int]:
    """Return the indices of the operators the outputs depend on."""
    tensors, operators = set(outputs), set()
    for op in reversed(model.operators):
        if tensors.intersection(op.outputs):
            operators.add(op.index)
            tensors.update(op.inputs)
    return operators


def _input(ctx: Context, info: TensorInfo) -> None:
    if info.dynamic:
        raise UnsupportedError(f"{ctx.where}: input {info.where} has a dynamic shape; static shapes are supported")
    if info.type == "FLOAT32":
        ctx.floats[info.index] = FloatValue(None, np.zeros(0, np.float32), None)
        return
    if info.type not in EIGHT_BIT:
        raise UnsupportedError(f"{ctx.where}: input {info.where} is {info.type}; int8, uint8 and float32 are supported")
    dtype = DType.INT8 if info.type == "INT8" else DType.UINT8
    name = ctx.builder.input(info.name, info.shape, dtype, _meaning(info))
    ctx.names[info.index] = elementwise.signed(ctx, name)


def _meaning(info: TensorInfo) -> Quant | None:
    """Return what a port's codes mean; None without one positive scale."""
    return Quant(info.scale[0], info.zero_point[0]) if len(info.scale) == 1 and info.scale[0] > 0 else None


def _output(ctx: Context, info: TensorInfo) -> tuple[str, Quant | None]:
    """Return the graph tensor and the meaning of an output of the file."""
    if info.index in ctx.floats:
        value = ctx.floats[info.index]
        if value.source is None or value.quant is None:
            raise UnsupportedError(
                f"{ctx.where}: output {info.where} is computed in float; name an integer tensor with --output TENSOR"
            )
        return value.source, value.quant
    name = ctx.name(info.index)
    if info.type == "UINT8":
        name = elementwise.unsigned(ctx, name)
    return name, _meaning(info)
