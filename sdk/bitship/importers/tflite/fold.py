"""Arithmetic on constant integers (shapes, indices): done here, once, and never part of the graph."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bitship.errors import GraphError
from bitship.graph.base import Array
from bitship.importers.tflite.context import Context
from bitship.importers.tflite.strided import selection

_MAX_SIZE = 1 << 11  # two of them broadcast, or one indexed by another, still fit memory easily
_INTEGERS = {"INT32": np.int32, "INT64": np.int64}


def fold(ctx: Context) -> bool:
    """Compute the operator at hand when its result is a constant integer tensor; return whether it was."""
    assert ctx.op is not None
    if ctx.op.name not in _FOLDS or any(ctx.info(i).type not in _INTEGERS for i in ctx.op.outputs):
        return False
    if ctx.op.name in ("SHAPE", "RANK"):
        shape = ctx.known_shape(ctx.operand(0))
        _store(ctx, ctx.result, np.array(shape if ctx.op.name == "SHAPE" else len(shape)))
        return True
    values = [ctx.value(i) for i in ctx.op.inputs]
    if any(v is None or v.dtype.kind != "i" or v.size > _MAX_SIZE for v in values):
        return False
    results = _FOLDS[ctx.op.name](ctx, *values)
    for index, value in zip(ctx.op.outputs, results if isinstance(results, list) else [results], strict=True):
        _store(ctx, index, value)
    return True


def _store(ctx: Context, index: int, value: Array) -> None:
    dtype = _INTEGERS[ctx.info(index).type]
    wide = np.asarray(value)
    if wide.size > _MAX_SIZE or (wide != wide.astype(dtype)).any():
        raise ctx.refuse("a constant is too large or leaves its type")
    ctx.folded[index] = wide.astype(dtype)


def _pair(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def compute(ctx: Context, a: Array, b: Array) -> Array:
        if ctx.option("FusedActivationFunction", 0):
            raise ctx.refuse("a fused activation on integers is not supported")
        return function(a.astype(np.int64), b.astype(np.int64))

    return compute


def _floor_div(a: Array, b: Array) -> Array:
    if (b == 0).any():
        raise GraphError("division by zero")
    return a // b


def _truncating_div(a: Array, b: Array) -> Array:
    return np.asarray(np.sign(a) * np.sign(b) * _floor_div(np.abs(a), np.abs(b)))


def _reduce(function: Any) -> Callable[..., Array]:
    def compute(ctx: Context, x: Array, axes: Array) -> Array:
        which = tuple(int(a) for a in axes.reshape(-1))
        result: Array = function(x.astype(np.int64), axis=which, keepdims=bool(ctx.option("KeepDims", False)))
        return result

    return compute


def _slice(ctx: Context, x: Array, begin: Array, size: Array) -> Array:
    parts = [slice(b, None if n < 0 else b + n) for b, n in zip(begin.tolist(), size.tolist(), strict=True)]
    return x[tuple(parts)]


def _strided_slice(ctx: Context, x: Array, begin: Array, end: Array, stride: Array) -> Array:
    chosen = selection(ctx, x.shape, *(tuple(v.reshape(-1).tolist()) for v in (begin, end, stride)))
    for axis, (first, count, step) in enumerate(chosen.axes):
        x = np.take(x, first + step * np.arange(count), axis=axis)
    return x.reshape(chosen.shape)


def _unpack(ctx: Context, x: Array) -> list[Array]:
    return list(np.moveaxis(x, ctx.option("Axis", 0), 0))


def _range(ctx: Context, start: Array, limit: Array, delta: Array) -> Array:
    span, step = int(limit) - int(start), int(delta)
    if step == 0 or abs(span // step) > _MAX_SIZE:
        raise ctx.refuse("the range is too long")
    return np.arange(int(start), int(limit), step)


def _fill(ctx: Context, shape: Array, value: Array) -> Array:
    extents = [int(n) for n in shape.reshape(-1)]
    if np.prod(extents, dtype=object) > _MAX_SIZE or any(n < 0 for n in extents):
        raise ctx.refuse("the constant is too large")
    return np.full(extents, int(value.reshape(-1)[0]))


_FOLDS: dict[str, Callable[..., Any]] = {
    "ADD": _pair(np.add),
    "CAST": lambda ctx, x: x,
    "CONCATENATION": lambda ctx, *xs: np.concatenate(xs, axis=ctx.option("Axis", 0)),
    "DIV": _pair(_truncating_div),
    "EXPAND_DIMS": lambda ctx, x, axis: np.expand_dims(x, int(axis.reshape(-1)[0])),
    "FILL": _fill,
    "FLOOR_DIV": _pair(_floor_div),
    "GATHER": lambda ctx, x, i: np.take(x, i, axis=ctx.option("Axis", 0)),
    "MAXIMUM": _pair(np.maximum),
    "MINIMUM": _pair(np.minimum),
    "MUL": _pair(np.multiply),
    "PACK": lambda ctx, *xs: np.stack(xs, axis=ctx.option("Axis", 0)),
    "RANGE": _range,
    "RANK": lambda ctx, x: x,
    "REDUCE_PROD": _reduce(np.prod),
    "RESHAPE": lambda ctx, x, *shape: x.reshape(shape[0].reshape(-1) if shape else ctx.info(ctx.result).shape),
    "SHAPE": lambda ctx, x: x,
    "SLICE": _slice,
    "SQUEEZE": lambda ctx, x: x.reshape(ctx.info(ctx.result).shape),
    "STRIDED_SLICE": _strided_slice,
    "SUB": _pair(np.subtract),
    "SUM": _reduce(np.sum),
    "TRANSPOSE": lambda ctx, x, perm: x.transpose(perm),
    "UNPACK": _unpack,
}
