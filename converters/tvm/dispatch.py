"""The one table from op to lowering."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bitship.converters.tvm import attention, copy, elementwise, ivit, lookup, norm, pool, products
from bitship.converters.tvm.computed import Strided
from bitship.converters.tvm.copy import strides_of
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.lookup import Lookup, MappedBuffer
from bitship.converters.tvm.softmax import lower_softmax
from bitship.converters.tvm.tir import Buffer, Function
from bitship.converters.tvm.views import Shortcuts
from bitship.converters.tvm.window import Window
from bitship.errors import UnsupportedError
from bitship.graph import Node, TensorType
from bitship.graph import ops as o
from bitship.graph.base import Op, Operand
from bitship.graph.dtypes import DType


@dataclass(frozen=True)
class Site:
    """One node to lower: the function being written, what is known of its operands, and the type of its result.

    accumulator  where the result goes instead of the node's own tensor
    shortcuts    what of the graph around it needs no kernel of its own
    """

    fn: Function
    isa: Isa
    node: Node
    operands: tuple[Operand, ...]
    out_type: TensorType
    accumulator: Buffer | None = None
    shortcuts: Shortcuts = field(default_factory=Shortcuts)

    @property
    def op(self) -> Any:
        """The node's attributes; ``LOWERINGS`` has matched their class."""
        return self.node.op

    @property
    def out(self) -> Buffer:
        """The result as a parameter."""
        if self.accumulator is not None:
            return self.accumulator
        memory = self.fn.tensor(self.node.output, self.out_type)
        table = self.shortcuts.tables.get(self.node.output)
        return memory if table is None else MappedBuffer(memory, Lookup(self.fn, self.isa, table))

    def x(self, i: int = 0) -> Buffer:
        """Operand i as a parameter; operands never asked for are not passed."""
        assert self.node.inputs[i] not in self.shortcuts.views, "this operand is read through strides"
        return self.fn.tensor(self.node.inputs[i], self.operands[i].type)

    def strided(self, i: int = 0) -> Strided:
        """Operand i where it lies: as a tensor of its own, or inside another."""
        view = self.shortcuts.views.get(self.node.inputs[i])
        if view is None:
            return Strided(self.x(i), 0, strides_of(self.shape(i)))
        reach = view.offset + sum((n - 1) * s for n, s in zip(self.shape(i), view.strides, strict=True)) + 1
        span = TensorType((reach,), self.operands[i].type.dtype)
        return Strided(self.fn.tensor(view.root, span), view.offset, view.strides)

    @property
    def placed(self) -> tuple[int, ...]:
        """Strides of the result in memory."""
        return self.shortcuts.placed.get(self.node.output) or strides_of(self.out_type.shape)

    def shape(self, i: int = 0) -> tuple[int, ...]:
        """Shape of operand i."""
        return self.operands[i].type.shape


Lowering = Callable[[Site], None]


def _conv(s: Site) -> None:
    a, w, b = s.operands
    products.lower_conv(s.fn, s.isa, s.op, s.x, s.out, (a, w, b), s.out_type.shape)


def _depthwise(s: Site) -> None:
    a, w, b = s.operands
    products.lower_depthwise(s.fn, s.isa, s.op, s.x, s.out, (a, w, b), s.out_type.shape)


def _fully_connected(s: Site) -> None:
    a, w, b = s.operands
    products.lower_fully_connected(s.fn, s.isa, s.op, s.x, s.out, (a, w, b))


def _matmul(s: Site) -> None:
    a, b = s.operands
    products.lower_matmul(s.fn, s.isa, s.op, s.strided, s.out, (a, b), s.placed)


def _binary(lowering: Callable[..., None]) -> Lowering:
    def lower(s: Site) -> None:
        shapes = (s.shape(0), s.shape(1), s.out_type.shape)
        ranges = (s.operands[0].range, s.operands[1].range)
        lowering(s.fn, s.isa, s.op, (s.x(0), s.x(1)), s.out, shapes, ranges)

    return lower


def _pool(s: Site) -> None:
    n, h, w, c = s.shape()
    oh, ow = s.out_type.shape[1:3]
    window = Window(n, h, w, c, oh, ow, s.op.kernel, s.op.stride, (1, 1), s.op.padding)
    pool.lower_pool(s.fn, s.isa, s.op, s.x(), s.out, window)


def _reduce(s: Site) -> None:
    pool.lower_reduce(s.fn, s.isa, s.op, s.x(), s.out, s.shape(), s.operands[0].range)


def _concat(s: Site) -> None:
    count = len(s.operands)
    shapes = [s.shape(i) for i in range(count)]
    copy.lower_concat(s.fn, s.op, [s.x(i) for i in range(count)], s.out, shapes, s.out_type.shape)


def _each(lowering: Callable[..., None]) -> Lowering:
    return lambda s: lowering(s.fn, s.op, s.x(), s.out, s.out_type.size)


def _table(s: Site) -> None:
    table = s.operands[1].value
    lookup.lower_table(s.fn, s.isa, s.x(), s.x(1) if table is None else table, s.out, s.out_type.size)


def _norm(s: Site) -> None:
    _, m, b = s.operands
    norm.lower_norm(s.fn, s.isa, s.op, s.x(), s.out, s.shape(), m, b)


def _softmax_matmul(s: Site) -> None:
    (groups, rows, length), columns = s.shape(), s.shape(1)[2]
    shape = (groups, rows, length)
    attention.lower_softmax_matmul(
        s.fn, s.isa, s.op, s.x(), s.strided(1), s.out, shape, s.operands[2], columns, s.placed
    )


LOWERINGS: Mapping[type[Op], Lowering] = {
    o.Conv2D: _conv,
    o.DepthwiseConv2D: _depthwise,
    o.FullyConnected: _fully_connected,
    o.MatMul: _matmul,
    o.Rescale: lambda s: elementwise.lower_rescale(s.fn, s.isa, s.op, s.x(), s.out, s.shape(), s.operands[0].range),
    o.Add: _binary(elementwise.lower_sum),
    o.Sub: _binary(elementwise.lower_sum),
    o.Mul: _binary(elementwise.lower_mul),
    o.Table: _table,
    o.Clamp: _each(elementwise.lower_clamp),
    o.Cast: _each(elementwise.lower_cast),
    o.LogicalLeftShift: _each(elementwise.lower_shift),
    o.ArithmeticRightShift: _each(elementwise.lower_shift),
    o.AvgPool2D: _pool,
    o.MaxPool2D: _pool,
    o.ReduceSum: _reduce,
    o.ReduceMax: _reduce,
    o.ReduceMin: _reduce,
    o.ReduceAny: _reduce,
    o.ArgMax: lambda s: pool.lower_argmax(s.fn, s.op, s.x(), s.out, s.shape()),
    o.Pad: lambda s: copy.lower_pad(s.fn, s.op, s.x(), s.out, s.shape(), s.out_type.shape),
    o.Concat: _concat,
    o.Slice: lambda s: copy.lower_slice(s.fn, s.op, s.x(), s.out, s.shape()),
    o.Transpose: lambda s: copy.lower_transpose(s.fn, s.op, s.x(), s.out, s.shape(), s.out_type.shape),
    o.Gather: lambda s: copy.lower_gather(s.fn, s.op, s.x(), s.x(1), s.out, s.shape(), s.shape(1)[0]),
    o.Resize: lambda s: pool.lower_resize(s.fn, s.isa, s.op, s.x(), s.out, s.shape()),
    o.LayerNorm: _norm,
    o.RmsNorm: _norm,
    o.ILayerNorm: _norm,
    o.TableSoftmax: lambda s: attention.lower_table_softmax(s.fn, s.op, s.x(), s.operands[1], s.out, s.shape()),
    o.SoftmaxMatMul: _softmax_matmul,
    o.Shiftmax: lambda s: ivit.lower_shiftmax(s.fn, s.op, s.x(), s.out, s.shape()),
    o.ShiftGelu: lambda s: ivit.lower_shiftgelu(s.fn, s.isa, s.op, s.x(), s.out, s.shape()),
    o.Softmax: lambda s: lower_softmax(s.fn, s.x(), s.x(1), s.out, s.shape()),
}
"""Every op of the graph but reshape, which is its operand's memory and no step at all."""


def lower_node(site: Site) -> None:
    """Write one node's kernel; UnsupportedError names a node whose op has no lowering."""
    lowering = LOWERINGS.get(type(site.node.op))
    if lowering is None:
        raise UnsupportedError(f"tvm: node '{site.node.output}': no lowering for {site.node.op.name}")
    requant = getattr(site.op, "requant", None)
    if isinstance(site.op, o.Add | o.Sub | o.Mul | o.ReduceSum) and requant is not None and requant.per_channel:
        _in_two_steps(site, requant)
    else:
        lowering(site)


def _in_two_steps(s: Site, requant: o.Rescale) -> None:
    """Write the accumulators to scratch, then rescale them per channel: these kernels walk merged axes."""
    bare = msgspec.structs.replace(s.op, requant=None)
    acc_type = TensorType(s.out_type.shape, DType.INT32)
    accumulator = s.fn.scratch("int32", acc_type.size)
    node = Node(bare, s.node.inputs, s.node.output)
    LOWERINGS[type(bare)](Site(s.fn, s.isa, node, s.operands, acc_type, accumulator))
    s.fn.barrier()
    found = bare.bounds(acc_type, *s.operands)
    elementwise.lower_rescale(s.fn, s.isa, requant, accumulator, s.out, s.out_type.shape, found)
