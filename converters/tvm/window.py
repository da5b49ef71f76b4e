"""Sliding windows over NHWC activations: geometry, the padded copy, and stores of partly filled vectors."""

from dataclasses import dataclass

from bitship.converters.tvm.tir import Buffer, Expr, Function, cast, const, shuffle
from bitship.graph.ops.conv import Padding, Pair

SLACK = 64


@dataclass(frozen=True)
class Window:
    """Geometry of a window op: x [n, h, w, c], output [n, oh, ow, ...]; all in elements."""

    n: int
    h: int
    w: int
    c: int
    oh: int
    ow: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)

    @property
    def padded(self) -> bool:
        """Whether any padding is read."""
        return any(self.padding)

    @property
    def ph(self) -> int:
        """Rows of the padded activations."""
        return self.h + self.padding[0] + self.padding[1]

    @property
    def pw(self) -> int:
        """Columns of the padded activations."""
        return self.w + self.padding[2] + self.padding[3]

    @property
    def pitch(self) -> int:
        """Elements from one output pixel's window to the next one's in the row."""
        return self.stride[1] * self.c

    @property
    def dense(self) -> bool:
        """Whether output pixels follow input pixels one to one, so that all of them are one long row."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not self.padded

    def origin(self, n: Expr, y: Expr, x: Expr) -> Expr:
        """Return the element where the window of output pixel (n, y, x) begins in the padded activations."""
        if self.dense:
            return x * self.c
        return ((n * self.ph + y * self.stride[0]) * self.pw + x * self.stride[1]) * self.c

    def pixel(self, n: Expr, y: Expr, x: Expr) -> Expr:
        """Return the index of output pixel (n, y, x)."""
        return x if self.dense else (n * self.oh + y) * self.ow + x


def split_rows(extent: int, most: int) -> tuple[int, int, int]:
    """Return (rows per tile, whole tiles, rows of the last smaller tile) for even tiles of at most ``most`` rows."""
    tiles = -(-extent // most)
    rows = -(-extent // tiles)
    return rows, extent // rows, extent % rows


def padded_input(fn: Function, x: Buffer, w: Window, value: int, dtype: str | None = None) -> Buffer:
    """Return the activations with their padding filled in, in another dtype if asked; x itself when nothing changes."""
    if not w.padded and dtype is None:
        return x
    wide = dtype or x.dtype
    copy = fn.scratch(wide, w.n * w.ph * w.pw * w.c + SLACK)
    top, bottom, left, right = w.padding
    fill = const(value, wide)

    def put(start: Expr, count: int) -> None:
        with fn.loop(count) as i:
            copy.store(start + i, fill)

    row = w.pw * w.c
    with fn.loop(w.n) as n:
        image = fn.let(n * (w.ph * row))
        with fn.last_part():
            put(image, top * row)
            put(image + (top + w.h) * row, bottom * row)
        with fn.divided(w.h) as y:
            start = fn.let(image + (y + top) * row)
            put(start, left * w.c)
            with fn.loop(w.w * w.c) as i:
                value_in = x.load((n * w.h + y) * (w.w * w.c) + i)
                copy.store(start + left * w.c + i, cast(value_in, wide) if wide != x.dtype else value_in)
            put(start + (left + w.w) * w.c, right * w.c)
    fn.barrier()
    return copy


def store_vector(out: Buffer, index: Expr, value: Expr, lanes: int, used: int) -> None:
    """Store the first ``used`` lanes of a vector, in powers of two, and not a byte more."""
    if used == lanes:
        out.store(index, value, lanes)
        return
    out, value = out.final(value, lanes)
    value = out.fn.let(value)
    at, piece = 0, lanes
    while used - at:
        piece //= 2
        if used - at >= piece:
            out.store(index + at, shuffle([value], range(at, at + piece)), piece)
            at += piece
