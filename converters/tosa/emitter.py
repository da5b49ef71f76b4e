"""Writes a TOSA 1.0 program op by op and proves on the way that no int32 of it can overflow.

An overflow is UNPREDICTABLE in TOSA. Every method computes the range of its result from those of its operands; a
result that could leave its element type is a bug of the converter and stops it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bitship import extras
from bitship.converters.tosa.values import Element, Value
from bitship.graph.base import Array

VERSION = (1, 0, 0)
Range = tuple[int, int]
Term = Value | int
POOLED_ROWS = 16  # rows from which a row maximum is a pooling
POOLED_LENGTH = 256  # the highest window that Ethos-U pools


def serializer() -> Any:
    """Return the package that writes TOSA; MissingDependencyError without it."""
    return extras.require("tosa_serializer", "tosa", "tosa converter")


class Emitter:
    """One program.

    scope        the node being lowered: tensors are named after it
    accumulator  the range that ``verify`` has proven of its value before the epilogue
    """

    def __init__(self) -> None:
        self.tosa = serializer()
        major, minor, patch = VERSION
        self._program: Any = self.tosa.TosaSerializer(
            "", targetMajor=major, targetMinor=minor, targetPatch=patch, targetDraft=False
        )
        self._block: Any = self._program.currRegion.currBasicBlock
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._shapes: dict[tuple[int, ...], str] = {}
        self._names: set[str] = set()
        self.scope = ""
        self.accumulator: Range | None = None
        self.ops = 0

    # ---- tensors

    def name(self, wanted: str) -> str:
        """Return a name that no tensor has yet."""
        name, n = wanted, 0
        while name in self._names:
            n += 1
            name = f"{wanted}/{n}"
        self._names.add(name)
        return name

    def input(self, name: str, shape: Sequence[int], element: Element) -> Value:
        """Declare an input of the program."""
        value = Value(self.name(name), tuple(shape), element, *element.range)
        self._block.addTensor(value.name, list(shape), self._dtype(element))
        self._block.addInput(value.name)
        return value

    def output(self, value: Value) -> None:
        """Hand a tensor back; through an IDENTITY, so that every output is a tensor of its own."""
        self._block.addOutput(self._op("IDENTITY", [value], value.shape, value.element, (value.lo, value.hi)).name)

    def const(self, array: Array | int, element: Element = Element.INT32) -> Value:
        """Return a constant; equal ones are one tensor. An int is of shape [1]."""
        given = np.atleast_1d(np.asarray(array))
        low, high = element.range
        assert low <= int(given.min()) <= int(given.max()) <= high, f"{self.scope}: constant outside {element.value}"
        array = np.ascontiguousarray(given.astype(element.numpy))
        key = (element.value, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.name(f"constant{len(self._constants)}")
            self._program.addConst(list(array.shape), self._dtype(element), array, name=name)
            lo, hi = int(array.min()), int(array.max())
            self._constants[key] = Value(name, array.shape, element, lo, hi, array)
        return self._constants[key]

    def shape(self, extents: Sequence[int]) -> str:
        """Return the name of a constant shape."""
        key = tuple(int(n) for n in extents)
        if key not in self._shapes:
            name = self.name(f"shape{len(self._shapes)}")
            self._program.addConst([len(key)], self.tosa.DType.SHAPE, np.array(key, np.int64), name=name)
            self._shapes[key] = name
        return self._shapes[key]

    def _dtype(self, element: Element) -> Any:
        return getattr(self.tosa.DType, element.value)

    def term(self, x: Term, like: Value) -> Value:
        """Return an operand as a tensor: an int becomes a constant of the other operand's rank and element."""
        if isinstance(x, Value):
            return x
        return self.const(np.full((1,) * max(like.rank, 1), x, np.int64), like.element)

    def _op(
        self,
        op: str,
        inputs: Sequence[Value | str],
        shape: Sequence[int],
        element: Element,
        reach: Range,
        attribute: str | None = None,
        **attributes: Any,
    ) -> Value:
        least, most = element.range
        assert least <= reach[0] <= reach[1] <= most, f"{self.scope}: {op} can reach {reach}, {element.value} is needed"
        kind = getattr(self.tosa.Op, op)
        attr = self.tosa.TosaSerializerAttribute()
        camel = attribute or "".join(part.capitalize() for part in op.split("_"))
        getattr(attr, f"{camel}Attribute")(**attributes)
        value = Value(self.name(self.scope or "t"), tuple(int(n) for n in shape), element, *reach)
        self._block.addTensor(value.name, list(value.shape), self._dtype(element))
        names = [i.name if isinstance(i, Value) else i for i in inputs]
        self._program.addOperator(kind, names, [value.name], attr)
        self.ops += 1
        return value

    def custom(
        self,
        op: str,
        inputs: Sequence[Value | str],
        shape: Sequence[int],
        element: Element,
        reach: Range | None = None,
        attribute: str | None = None,
        **attributes: Any,
    ) -> Value:
        """Add any operator; the range is the whole element's unless one is given."""
        return self._op(op, inputs, shape, element, reach or element.range, attribute, **attributes)

    def finish(self) -> bytes:
        """Return the program as a flatbuffer."""
        return bytes(self._program.serialize())

    # ---- arithmetic on int32 (minimum, maximum, select and comparisons on any element)

    def _binary(self, op: str, a: Value, b: Value, reach: Range, element: Element | None = None, **kw: Any) -> Value:
        shape = np.broadcast_shapes(a.shape, b.shape)
        return self._op(op, [a, b], shape, element or a.element, reach, **kw)

    def add(self, a: Value, b: Term, reach: Range | None = None) -> Value:
        """``a + b``."""
        b = self.term(b, a)
        if b.lo == b.hi == 0 and b.size == 1:
            return a
        return self._binary("ADD", a, b, reach or (a.lo + b.lo, a.hi + b.hi))

    def sub(self, a: Term, b: Term, reach: Range | None = None) -> Value:
        """``a - b``; one of the two may be an int."""
        left = a if isinstance(a, Value) else self.term(a, b)  # type: ignore[arg-type]
        right = self.term(b, left)
        if right.lo == right.hi == 0 and right.size == 1:
            return left
        return self._binary("SUB", left, right, reach or (left.lo - right.hi, left.hi - right.lo))

    def mul(self, a: Value, b: Term, shift: int = 0, reach: Range | None = None) -> Value:
        """``(a * b + 2^(shift - 1)) >> shift`` of the 64-bit product."""
        b = self.term(b, a)
        half = (1 << shift) >> 1
        corners = [(p * q + half) >> shift for p in (a.lo, a.hi) for q in (b.lo, b.hi)]
        shape = np.broadcast_shapes(a.shape, b.shape)
        inputs = [a, b, self.const(shift, Element.INT8)]
        return self._op("MUL", inputs, shape, Element.INT32, reach or (min(corners), max(corners)))

    def intdiv(self, a: Term, b: Value, reach: Range | None = None) -> Value:
        """``a / b`` towards zero for b >= 1."""
        assert b.lo >= 1, f"{self.scope}: division by a value of [{b.lo}, {b.hi}]"
        left = self.term(a, b)
        ends = [int(p / q) if abs(p) < 1 << 50 else p // q for p in (left.lo, left.hi) for q in (b.lo, b.hi)]
        return self._op(
            "INTDIV",
            [left, b],
            np.broadcast_shapes(left.shape, b.shape),
            Element.INT32,
            reach or (min(ends), max(ends)),
            "IntDiv",
        )

    def shift_right(self, a: Value, amount: Term, rounded: bool = False) -> Value:
        """``a >> amount`` with sign; rounded: half up. The amount lies in [0, 31]."""
        b = self.term(amount, a)
        assert 0 <= b.lo <= b.hi <= 31, f"{self.scope}: shift by [{b.lo}, {b.hi}]"
        if b.hi == 0:
            return a

        def end(x: int, s: int) -> int:
            return (x + ((1 << s) >> 1 if rounded else 0)) >> s

        ends = [end(x, s) for x in (a.lo, a.hi) for s in (b.lo, b.hi)]
        return self._binary("ARITHMETIC_RIGHT_SHIFT", a, b, (min(ends), max(ends)), round=rounded)

    def shift_left(self, a: Value, amount: Term, reach: Range | None = None) -> Value:
        """``a << amount``, of which no bit may be lost."""
        b = self.term(amount, a)
        if b.hi == 0:
            return a
        ends = [x << s for x in (a.lo, a.hi) for s in (b.lo, b.hi)]
        return self._binary("LOGICAL_LEFT_SHIFT", a, b, reach or (min(ends), max(ends)))

    def minimum(self, a: Value, b: Term) -> Value:
        """The smaller one; no op where the ranges decide it."""
        b = self.term(b, a)
        if a.hi <= b.lo:
            return a
        return self._binary("MINIMUM", a, b, (min(a.lo, b.lo), min(a.hi, b.hi)), nan_mode=self._nan)

    def maximum(self, a: Value, b: Term) -> Value:
        """The larger one; no op where the ranges decide it."""
        b = self.term(b, a)
        if a.lo >= b.hi:
            return a
        return self._binary("MAXIMUM", a, b, (max(a.lo, b.lo), max(a.hi, b.hi)), nan_mode=self._nan)

    @property
    def _nan(self) -> Any:
        return self.tosa.NanPropagationMode.PROPAGATE

    def clamp(self, a: Value, lo: int, hi: int) -> Value:
        """``min(max(a, lo), hi)``; no op where the range is inside."""
        if lo <= a.lo and a.hi <= hi:
            return a
        if a.element is Element.INT32:
            return self.minimum(self.maximum(a, lo), hi)
        ends = [list(np.array([n], a.element.numpy).tobytes()) for n in (lo, hi)]
        reach = min(max(a.lo, lo), hi), max(min(a.hi, hi), lo)
        return self._op("CLAMP", [a], a.shape, a.element, reach, min_val=ends[0], max_val=ends[1], nan_mode=self._nan)

    def low_bits(self, a: Value, bits: int) -> Value:
        """``a & (2^bits - 1)``: the remainder of a floored division by 2^bits."""
        mask = (1 << bits) - 1
        if a.lo >= 0 and a.hi <= mask:
            return a
        return self._binary("BITWISE_AND", a, self.term(mask, a), (0, mask))

    def leading_zeros(self, a: Value) -> Value:
        """Number of zero bits above the highest set bit of int32 values that are not negative; 32 for zero."""
        return self._op("CLZ", [a], a.shape, Element.INT32, (32 - a.hi.bit_length(), 32 - max(a.lo, 0).bit_length()))

    def greater(self, a: Value, b: Term) -> Value:
        """``a > b``, bool."""
        return self._binary("GREATER", a, self.term(b, a), (0, 1), Element.BOOL)

    def greater_equal(self, a: Value, b: Term) -> Value:
        """``a >= b``, bool."""
        return self._binary("GREATER_EQUAL", a, self.term(b, a), (0, 1), Element.BOOL)

    def equal(self, a: Value, b: Term) -> Value:
        """``a == b``, bool."""
        return self._binary("EQUAL", a, self.term(b, a), (0, 1), Element.BOOL)

    def select(self, condition: Value, a: Term, b: Term) -> Value:
        """``condition ? a : b``; at least one of the two is a tensor."""
        like = a if isinstance(a, Value) else b
        assert isinstance(like, Value)
        p, q = self.term(a, like), self.term(b, like)
        shape = np.broadcast_shapes(condition.shape, p.shape, q.shape)
        return self._op("SELECT", [condition, p, q], shape, p.element, (min(p.lo, q.lo), max(p.hi, q.hi)))

    def cast(self, a: Value, element: Element) -> Value:
        """Convert; a value that does not fit keeps its low bits."""
        if a.element is element:
            return a
        if a.array is not None:
            return self.const(a.array.astype(element.numpy), element)
        least, most = element.range
        fits = least <= a.lo and a.hi <= most
        return self._op("CAST", [a], a.shape, element, (a.lo, a.hi) if fits else (least, most))

    def wide(self, a: Value) -> Value:
        """Return int32 of it."""
        return self.cast(a, Element.INT32)

    # ---- along axes

    def reduce(self, op: str, a: Value, axis: int, reach: Range | None = None) -> Value:
        """REDUCE_SUM, _MAX, _MIN or _ANY over one axis, which stays with extent 1."""
        n = a.shape[axis]
        shape = (*a.shape[:axis], 1, *a.shape[axis + 1 :])
        whole = (n * a.lo, n * a.hi) if op == "SUM" else (a.lo, a.hi)
        extra = {"nan_mode": self._nan} if op in ("MAX", "MIN") else {}
        return self._op(f"REDUCE_{op}", [a], shape, a.element, reach or whole, axis=axis, **extra)

    def row_sum(self, a: Value, reach: Range | None = None) -> Value:
        """Sum of the last axis."""
        return self.reduce("SUM", a, a.rank - 1, reach)

    def row_max(self, a: Value) -> Value:
        """Largest of the last axis.

        Of many int8 rows through MAX_POOL2D over an image with the rows as channels: an NPU reduces its last axis one
        element at a time.
        """
        count, length = a.size // a.shape[-1], a.shape[-1]
        if a.element is not Element.INT8 or count < POOLED_ROWS or not 1 < length <= POOLED_LENGTH:
            return self.reduce("MAX", a, a.rank - 1)
        columns = self.reshape(self.transpose(self.reshape(a, (count, length)), (1, 0)), (1, length, 1, count))
        largest = self.custom(
            "MAX_POOL2D",
            [columns],
            (1, 1, 1, count),
            a.element,
            (a.lo, a.hi),
            "MaxPool2d",
            kernel=[length, 1],
            stride=[1, 1],
            pad=[0, 0, 0, 0],
            nan_mode=self._nan,
        )
        return self.reshape(largest, (*a.shape[:-1], 1))

    # ---- moving elements

    def reshape(self, a: Value, shape: Sequence[int]) -> Value:
        """The same elements under another shape."""
        if tuple(shape) == a.shape:
            return a
        if a.array is not None:
            return self.const(a.array.reshape(tuple(shape)), a.element)
        return self._op("RESHAPE", [a, self.shape(shape)], shape, a.element, (a.lo, a.hi))

    def transpose(self, a: Value, perm: Sequence[int]) -> Value:
        """Axis i of the result is axis ``perm[i]``."""
        if list(perm) == list(range(a.rank)):
            return a
        if a.array is not None:
            return self.const(a.array.transpose(tuple(perm)), a.element)
        shape = [a.shape[p] for p in perm]
        return self._op("TRANSPOSE", [a], shape, a.element, (a.lo, a.hi), perms=[int(p) for p in perm])

    def slice(self, a: Value, start: Sequence[int], size: Sequence[int]) -> Value:
        """``size`` elements from ``start`` on every axis."""
        if tuple(size) == a.shape:
            return a
        if a.array is not None:
            box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
            return self.const(a.array[box], a.element)
        return self._op("SLICE", [a, self.shape(start), self.shape(size)], size, a.element, (a.lo, a.hi))

    def part(self, a: Value, axis: int, start: int, size: int) -> Value:
        """A slice of one axis."""
        first, extents = [0] * a.rank, list(a.shape)
        first[axis], extents[axis] = start, size
        return self.slice(a, first, extents)

    def pad(self, a: Value, padding: Sequence[tuple[int, int]], value: int) -> Value:
        """Surround by a constant."""
        if not any(n for pair in padding for n in pair):
            return a
        shape = [n + p + q for n, (p, q) in zip(a.shape, padding, strict=True)]
        flat = self.shape([n for pair in padding for n in pair])
        reach = min(a.lo, value), max(a.hi, value)
        return self._op("PAD", [a, flat, self.const(value, a.element)], shape, a.element, reach)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """Join along an axis."""
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(p.shape[axis] for p in parts)
        reach = min(p.lo for p in parts), max(p.hi for p in parts)
        return self._op("CONCAT", list(parts), shape, parts[0].element, reach, axis=axis)

    def gather(self, rows: Value, indices: Value) -> Value:
        """``rows [N, K, C]`` at ``indices [N, W]`` int32: [N, W, C]."""
        n, w = indices.shape
        return self._op("GATHER", [rows, indices], (n, w, rows.shape[2]), rows.element, (rows.lo, rows.hi))

    def look_up(self, entries: Array, index: Value, element: Element = Element.INT32) -> Value:
        """``entries[index]`` of a table with one axis, for int32 indices inside it."""
        assert index.lo >= 0, f"{self.scope}: table of {len(entries)} read from {index.lo}"
        assert index.hi < len(entries), f"{self.scope}: table of {len(entries)} read up to {index.hi}"
        table = self.const(entries.reshape(1, -1, 1), element)
        return self.reshape(self.gather(table, self.reshape(index, (1, index.size))), index.shape)
