"""Rows and columns of tensors that run by tiles: windows, edges that move with the step, regions."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A window along one axis: taps' extent (dilation included), stride, padding before."""

    extent: int = 1
    stride: int = 1
    before: int = 0


POINT = Axis()


@dataclass(frozen=True)
class Edge:
    """A row (or column) as a function of the step: ``clamp((scale * step + offset) / divisor, 0, cap)``, floored."""

    scale: int
    offset: int
    cap: int
    divisor: int = 1

    def at(self, step: int) -> int:
        """Return the row at a step."""
        return min(max(self.scale * step + self.offset, 0) // self.divisor, self.cap)

    def after(self, axis: Axis, cap: int) -> "Edge":
        """Return how many output rows a window op can compute from operand rows below this edge.

        The edge runs on past the operand's last row: what follows counts as the padding below.
        """
        offset = self.offset + (axis.before - axis.extent + axis.stride) * self.divisor
        return Edge(self.scale, offset, cap, self.divisor * axis.stride)

    def through(self, axis: Axis, extent: int) -> "Edge":
        """Return one past the last row that a window op reads for output rows below this edge."""
        more = axis.extent - axis.stride - axis.before
        cap = min(extent, max(axis.stride * self.cap + more, 0))
        return Edge(self.scale * axis.stride, self.offset * axis.stride + more, cap)

    def before(self, axis: Axis) -> "Edge":
        """Return the first row that a window op reads for output rows from this edge on."""
        offset = self.offset * axis.stride - axis.before
        return Edge(self.scale * axis.stride, offset, max(self.cap * axis.stride - axis.before, 0))


@dataclass(frozen=True)
class Region:
    """Rows [top, bottom) and columns [left, right) of a tensor."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def pixels(self) -> int:
        """Rows times columns."""
        return self.height * self.width
