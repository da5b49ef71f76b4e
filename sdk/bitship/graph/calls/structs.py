"""What a lowered call is made of, and the parameter structs' common parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from bitship.errors import UnsupportedError
from bitship.graph import ops
from bitship.graph.base import TensorType
from bitship.graph.dtypes import DType

RANK = 6
WIDE_TILE = 8
SMALL_TILE = 2
BLOCK = 16  # channels that every build computes at once (BITSHIP_LANES, at least)


@dataclass(frozen=True)
class CArray:
    """A constant C array that a struct points to: element type and values."""

    ctype: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class CStruct:
    """A constant ``struct bitship_<name>``; a CArray or CStruct in a field is pointed to, None is a null pointer."""

    name: str
    fields: tuple[tuple[str, "CValue"], ...]


CValue = int | tuple[int, ...] | CArray | CStruct | None


@dataclass(frozen=True)
class Packed:
    """A constant in the order one kernel reads it, made ahead of time: bytes, to be aligned to 16."""

    data: bytes


Operand = str | Packed


@dataclass(frozen=True)
class Call:
    """``function(&params, operands..., [scratch, scratch_bytes,] output)``; a name is a tensor's.

    overlap  for every operand: how many bytes it must start behind the output's start so that the two may share
             memory, the operand being dead afterwards; None where they may not. Empty: none may.
    """

    function: str
    params: CStruct
    operands: tuple[Operand, ...]
    output: str
    scratch_bytes: int = 0
    overlap: tuple[int | None, ...] = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """The operands that are tensors of the graph."""
        return tuple(o for o in self.operands if isinstance(o, str))


_DTYPES = {DType.BOOL: 0, DType.INT8: 1, DType.UINT8: 2, DType.INT16: 3, DType.INT32: 4}
Types = Sequence[TensorType]
Lowered = tuple[str, CStruct, int]  # function, parameters, scratch in bytes


def dtype(t: DType) -> int:
    """Return ``enum bitship_dtype``; UnsupportedError for a type the kernels do not have."""
    if t not in _DTYPES:
        raise UnsupportedError(f"{t.value}: the C kernels compute on {', '.join(d.value for d in _DTYPES)}")
    return _DTYPES[t]


def struct(name: str, **fields: CValue) -> CStruct:
    """Return a struct of these fields."""
    return CStruct(name, tuple(fields.items()))


def rescale(r: ops.Rescale | None) -> CStruct | None:
    """Return a rescale's parameters, or None for none."""
    if r is None:
        return None
    return struct(
        "rescale",
        multiplier=CArray("int32_t", r.multiplier),
        shift=CArray("int8_t", r.shift),
        count=len(r.multiplier),
        input_zero_point=r.input_zero_point,
        output_zero_point=r.output_zero_point,
        pre_shift=r.pre_shift,
        rounding=int(r.rounding is ops.Rounding.DOUBLE),
        dtype=dtype(r.dtype),
        qmin=r.qmin,
        qmax=r.qmax,
    )


def fill(values: Sequence[int], value: int) -> tuple[int, ...]:
    """Pad in front to rank 6."""
    return (value,) * (RANK - len(values)) + tuple(values)


def steps(shape: Sequence[int]) -> list[int]:
    """Element distance along every axis of a dense tensor."""
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def merged(shape: Sequence[int], *steps: Sequence[int], keep_last: bool = False) -> tuple[tuple[int, ...], ...]:
    """Merge neighbouring axes that every operand walks as one; return (shape, steps...) padded to rank 6."""
    axes: list[tuple[int, ...]] = list(zip(shape, *steps, strict=True))
    last = [axes.pop()] if keep_last else []
    axes = [axis for axis in axes if axis[0] != 1]
    result: list[tuple[int, ...]] = []
    for axis in axes:
        if result and all(a == b * axis[0] for a, b in zip(result[-1][1:], axis[1:], strict=True)):
            result[-1] = (result[-1][0] * axis[0], *axis[1:])
        else:
            result.append(axis)
    result += last or ([] if result else [(1, *(1 for _ in steps))])
    columns = list(zip(*result, strict=True))
    return (fill(columns[0], 1), *(fill(c, 0) for c in columns[1:]))
