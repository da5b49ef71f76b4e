"""A small writer of TIR functions over flat buffers: what every kernel of this back end is written with.

Functions come out fully lowered (one-dimensional buffers, explicit vectors), so no TVM pass has to guess a schedule,
and with the plain C calling convention, so no TVM runtime is needed where they run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitship.graph.base import Array, TensorType

Expr = Any
Index = Any


@dataclass(frozen=True)
class Argument:
    """A parameter of a kernel: where a tensor of the graph, a constant or scratch of some bytes lies, or a number.

    nbytes  of the tensor as it is read; number  its dtype and value
    """

    tensor: str | None = None
    constant: Array | None = None
    scratch_bytes: int = 0
    nbytes: int = 0
    number: tuple[str, int] | None = None


@dataclass(frozen=True)
class Stage:
    """Part of a kernel with no barrier inside: a PrimFunc without a symbol yet, and whether threads may share it.

    extent  iterations of the longest loop that is shared out
    """

    name: str
    function: Any
    divided: bool
    extent: int = 1


def vector(dtype: str, lanes: int) -> str:
    """Return the name of a vector dtype, or of the scalar for one lane."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def const(value: int, dtype: str, lanes: int = 1) -> Expr:
    """Return an integer immediate, broadcast to the lanes."""
    from tvm import tirx

    scalar = tirx.IntImm(dtype, value)
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def i32(value: int) -> Expr:
    """Return an int32 immediate."""
    return const(value, "int32")


def splat(value: Expr, lanes: int) -> Expr:
    """Return a scalar in every lane."""
    from tvm import tirx

    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def cast(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """Convert every lane; narrowing keeps the low bits."""
    from tvm import tirx

    return tirx.Cast(vector(dtype, lanes), value)


def bits(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """Read the same bits as another dtype."""
    from tvm import tirx

    return tirx.op.reinterpret(vector(dtype, lanes), value)


def intrinsic(dtype: str, name: str, *args: Expr) -> Expr:
    """Call an LLVM intrinsic without side effects."""
    from tvm import tirx

    return tirx.op.call_llvm_pure_intrin(dtype, name, *args)


def maximum(a: Expr, b: Expr) -> Expr:
    """Return the larger of two, lane by lane."""
    from tvm import tirx

    return tirx.Max(a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """Return the smaller of two, lane by lane."""
    from tvm import tirx

    return tirx.Min(a, b)


def clamp(value: Expr, lo: int, hi: int, dtype: str, lanes: int = 1) -> Expr:
    """Return the value limited to [lo, hi]."""
    return maximum(minimum(value, const(hi, dtype, lanes)), const(lo, dtype, lanes))


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Choose lane by lane; both sides are evaluated."""
    from tvm import tirx

    return tirx.Select(condition, yes, no)


def shuffle(values: Sequence[Expr], picks: Sequence[int]) -> Expr:
    """Return the picked lanes of the joined vectors."""
    from tvm import tirx

    return tirx.Shuffle(list(values), [i32(p) for p in picks])


class Buffer:
    """A flat array in memory, addressed in elements."""

    def __init__(self, fn: "Function", raw: Any, dtype: str) -> None:
        self.fn, self.raw, self.dtype = fn, raw, dtype

    def load(self, index: Index, lanes: int = 1) -> Expr:
        """Read one element, or consecutive ones as a vector."""
        from tvm import tirx

        return tirx.BufferLoad(self.raw, [_span(index, lanes)])

    def final(self, value: Expr, lanes: int) -> tuple["Buffer", Expr]:
        """Return the buffer in memory and the value it gets: what a kernel needs that stores a vector in pieces."""
        return self, value

    def store(self, index: Index, value: Expr, lanes: int = 1) -> None:
        """Write one element, or a vector to consecutive ones."""
        from tvm import tirx

        self.fn.emit(tirx.BufferStore(self.raw, value, [_span(index, lanes)]))


def _span(index: Index, lanes: int) -> Expr:
    from tvm import tirx

    start = i32(index) if isinstance(index, int) else index
    return start if lanes == 1 else tirx.Ramp(start, i32(1), lanes)


class Function:
    """One kernel being written: its parameters in order, and the statement list that is open.

    portable  whether intrinsics of LLVM are out of reach
    """

    portable = False
    scope = ""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arguments: list[Argument] = []
        self._params: list[Any] = []
        self._head: list[Any] = []
        self._open: list[list[Any]] = [[]]
        self._stages: list[tuple[list[Any], bool]] = []
        self._divided = False
        self._buffers: dict[str, Buffer] = {}
        self._vars = 0
        self.part = self._scalar("part")
        self.parts = self._scalar("parts")

    @staticmethod
    def _scalar(name: str) -> Expr:
        from tvm import tirx

        return tirx.Var(name, "int32")

    def tensor(self, name: str, t: TensorType) -> Buffer:
        """Declare a tensor of the graph as a parameter (once per name)."""
        if name not in self._buffers:
            dtype = "int8" if t.dtype.value == "bool" else t.dtype.value
            self._buffers[name] = self._parameter(Argument(tensor=name, nbytes=t.nbytes), dtype, t.size)
        return self._buffers[name]

    @property
    def tensors(self) -> list[str]:
        """Names of the graph's tensors among the parameters."""
        return [a.tensor for a in self.arguments if a.tensor is not None]

    def constant(self, array: Array) -> Buffer:
        """Declare constant data as a parameter."""
        array = np.ascontiguousarray(array)
        return self._parameter(Argument(constant=array), array.dtype.name, array.size)

    def number(self, value: int, dtype: str) -> Expr:
        """Return an integer that is data: kernels that differ in nothing else are one function."""
        return self.constant(np.array([value], dtype)).load(0)

    def scratch(self, dtype: str, size: int) -> Buffer:
        """Declare workspace that lives for this call only."""
        return self._parameter(Argument(scratch_bytes=size * np.dtype(dtype).itemsize), dtype, size)

    def registers(self, dtype: str, size: int = 1) -> Buffer:
        """Declare local variables; addressed by constants only, they end up in registers."""
        from tvm import tirx

        raw = tirx.decl_buffer((size,), dtype, name=self._fresh("r"), scope="local")
        self._head.append(tirx.AllocBuffer(raw))
        return Buffer(self, raw, dtype)

    def _parameter(self, argument: Argument, dtype: str, size: int) -> Buffer:
        from tvm import ir, tirx

        name = self._fresh("p")
        pointer = tirx.Var(name, ir.PointerType(ir.PrimType(dtype), self.scope))
        raw = tirx.decl_buffer((size,), dtype, name=f"{name}_data")
        self.arguments.append(argument)
        self._params.append(pointer)
        self._head.append(tirx.DeclBuffer(raw, data=pointer))
        return Buffer(self, raw, dtype)

    def _fresh(self, stem: str) -> str:
        self._vars += 1
        return f"{stem}{self._vars}"

    def emit(self, statement: Any) -> None:
        """Append a statement."""
        self._open[-1].append(statement)

    def let(self, value: Expr) -> Expr:
        """Evaluate once and return a name for the value."""
        from tvm import tirx

        var = tirx.Var(self._fresh("v"), value.dtype if hasattr(value, "dtype") else value.ty.dtype)
        self.emit(tirx.Bind(var, value))
        return var

    @contextmanager
    def loop(self, extent: Index) -> Iterator[Expr]:
        """Write the body of a loop over 0..extent-1 and yield its index; no loop for an extent of 1, no code for 0."""
        from tvm import tirx

        self._open.append([])
        single = isinstance(extent, int) and extent == 1
        var = i32(0) if single else tirx.Var(self._fresh("i"), "int32")
        yield var
        body = _sequence(self._open.pop())
        if body is None or (isinstance(extent, int) and extent <= 0):
            return
        count = i32(extent) if isinstance(extent, int) else extent
        self.emit(body if single else tirx.For(var, i32(0), count, tirx.ForKind.SERIAL, body))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Write statements that run only under a condition."""
        from tvm import tirx

        self._open.append([])
        yield
        body = _sequence(self._open.pop())
        if body is not None:
            self.emit(tirx.IfThenElse(condition, body, None))

    @contextmanager
    def divided(self, extent: int) -> Iterator[Expr]:
        """Write the body of a loop whose iterations are shared out among the threads, and yield its index.

        What a stage writes outside of such loops must be under ``last_part``. One iteration is the last part's.
        """
        from tvm import tirx

        if extent == 1:
            with self.last_part():
                yield i32(0)
            return
        self._divided = self._divided or extent > 1
        total = i32(extent)
        first = self.let(tirx.truncdiv(self.part * total, self.parts))
        end = self.let(tirx.truncdiv((self.part + 1) * total, self.parts))
        with self.loop(end - first if extent else 0) as i:
            yield self.let(first + i)

    @contextmanager
    def points(self, images: int, rows: int, columns: int, channels: int) -> Iterator[tuple[Expr, Expr, Expr, Expr]]:
        """Write the body of a loop over every element of NHWC, rows shared out among the threads."""
        with self.loop(images) as n, self.divided(rows) as y, self.loop(columns) as x, self.loop(channels) as c:
            yield n, y, x, c

    @contextmanager
    def last_part(self) -> Iterator[None]:
        """Write statements that one of the threads runs."""
        from tvm import tirx

        with self.when(tirx.EQ(self.part, self.parts - 1)):
            yield

    def barrier(self) -> None:
        """End a stage: what follows begins when all threads are here. No name or register outlives it."""
        assert len(self._open) == 1, "a barrier is outside of all loops"
        if self._open[0]:
            self._stages.append((self._open[0], self._divided))
        self._open, self._divided = [[]], False

    def chunks(self, extent: int, lanes: int, body: Callable[[Index, int], None], divided: bool = False) -> None:
        """Write ``body(index, lanes)`` for whole vectors, then a loop of single elements for what is left.

        divided  share the vectors out among the threads; the last of them does the rest
        """
        whole = extent // lanes
        if lanes > 1 and whole:
            with self.divided(whole) if divided else self.loop(whole) as i:
                body(i * lanes, lanes)
        done = whole * lanes if lanes > 1 else 0
        if extent > done:
            with self.last_part() if divided else nullcontext(), self.loop(extent - done) as i:
                body(i + done, 1)

    def finish(self, target: Any) -> list[Stage]:
        """Return the stages."""
        from tvm import tirx

        self.barrier()
        assert self._stages, "a kernel has a body"
        result = []
        for i, (statements, divided) in enumerate(self._stages):
            name = f"{self.name}_{i}"
            fn = tirx.PrimFunc([*self._params, self.part, self.parts], _sequence(self._head + statements))
            fn = fn.with_attr("tirx.noalias", True).with_attr("target", target)
            result.append(Stage(name, fn, divided))
        return result


def _sequence(statements: list[Any]) -> Any | None:
    from tvm import tirx

    if not statements:
        return None
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)
