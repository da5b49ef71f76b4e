"""Random CNNs that a stage may run by tiles, and random tilings of them."""

import numpy as np
from op_builders import I8, D, S, ints, requant, tflite_add

from bitship.errors import GraphError, UnsupportedError
from bitship.graph import Graph, GraphBuilder
from bitship.graph.ops import (
    Add,
    AnyOp,
    AvgPool2D,
    Clamp,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    MaxPool2D,
    ReduceMax,
    Rescale,
    Rounding,
    Table,
)
from bitship.passes.stage import Geometry, Halo, Stage, geometry, splits


class _Net:
    """Grows a chain of blocks on one image; a block that does not fit is left out."""

    def __init__(self, seed: int) -> None:
        self.r = np.random.default_rng(seed)
        self.b = GraphBuilder(f"stage{seed}")
        shape = (1, self.whole(4, 26), self.whole(4, 22), self.whole(1, 5))
        self.at = self.b.input("image", shape, I8)

    def whole(self, lo: int, hi: int) -> int:
        return int(self.r.integers(lo, hi, endpoint=True))

    def window(self) -> dict[str, tuple[int, ...]]:
        """Kernel, stride, dilation and padding, each axis by itself."""
        kernel = (self.whole(1, 5), self.whole(1, 5)) if self.r.random() < 0.7 else (1, 1)
        dilation = tuple(self.whole(1, 2) if self.r.random() < 0.2 else 1 for _ in range(2))
        reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        padding = (self.whole(0, reach[0]), self.whole(0, reach[0]), self.whole(0, reach[1]), self.whole(0, reach[1]))
        stride = (self.whole(1, 3), self.whole(1, 3)) if self.r.random() < 0.4 else (1, 1)
        return {"kernel": kernel, "stride": stride, "dilation": dilation, "padding": padding}

    def conv(self, at: str, out: int | None = None, same: bool = False) -> str:
        c = self.b.types[at].shape[3]
        o, w = out or self.whole(1, 9), self.window()
        kernel, zero = w.pop("kernel"), self.whole(-128, 127)
        if same:
            k = 2 * self.whole(0, 2) + 1
            kernel, w = (k, k), {"padding": (k // 2,) * 4}
        groups = c if c == o and not same and self.r.random() < 0.1 else 1
        weights = self.b.constant("w", ints(self.r, (o, *kernel, c // groups)))
        bias = self.b.constant("bias", self.r.integers(-4000, 4000, o).astype(np.int32))
        scale = requant(self.r, o, 1 / (60 * np.sqrt(np.prod(kernel) * c)), self.rounding(), self.whole(-20, 20))
        op = Conv2D(input_zero_point=zero, groups=groups, requant=scale, **w)  # type: ignore[arg-type]
        return self.b.node("conv", op, at, weights, bias)

    def rounding(self) -> Rounding:
        return S if self.r.random() < 0.5 else D

    def depthwise(self, at: str) -> str:
        c, w = self.b.types[at].shape[3], self.window()
        m = 2 if self.r.random() < 0.15 else 1
        kernel = w.pop("kernel")
        weights = self.b.constant("w", ints(self.r, (*kernel, c, m)))
        bias = self.b.constant("bias", self.r.integers(-4000, 4000, c * m).astype(np.int32))
        scale = requant(self.r, c * m, 1 / (60 * np.sqrt(np.prod(kernel))), self.rounding(), self.whole(-20, 20))
        op = DepthwiseConv2D(input_zero_point=self.whole(-128, 127), requant=scale, **w)  # type: ignore[arg-type]
        return self.b.node("dw", op, at, weights, bias)

    def pool(self, at: str) -> str:
        w = self.window()
        kind = AvgPool2D if self.r.random() < 0.5 else MaxPool2D
        return self.b.node("pool", kind(w["kernel"], w["stride"], w["padding"]), at)  # type: ignore[arg-type]

    def pointwise(self, at: str) -> str:
        c = self.b.types[at].shape[3]
        op: AnyOp = Clamp(-100, 90)
        match self.whole(0, 3):
            case 0:
                op = Rescale((1 << 30,), (1,), input_zero_point=3, output_zero_point=-7)
            case 1:
                op = requant(self.r, c, 0.9, S, 5)
            case 2:
                return self.b.node("table", Table(), at, self.b.constant("t", ints(self.r, (256,))))
        return self.b.node("point", op, at)

    def residual(self, at: str) -> str:
        left, right, both = tflite_add()
        y = self.conv(at, self.b.types[at].shape[3], same=True)
        if self.r.random() < 0.5:
            y = self.conv(y, self.b.types[at].shape[3], same=True)
        return self.b.node("add", Add(left, right, both), *((y, at) if self.r.random() < 0.5 else (at, y)))

    def branches(self, at: str) -> str:
        return self.b.node("joined", Concat(3), self.conv(at, same=True), self.conv(at, same=True), at)

    def grow(self) -> None:
        kinds = [self.conv, self.conv, self.depthwise, self.depthwise, self.pool, self.pointwise]
        kinds += [self.residual, self.residual, self.branches]
        try:
            self.at = kinds[self.whole(0, len(kinds) - 1)](self.at)
        except GraphError:
            return


def stage_case(seed: int) -> tuple[Graph, Geometry]:
    """Return a random CNN and a random way to run its beginning by tiles."""
    attempt = seed
    while True:
        net = _Net(attempt)
        for _ in range(net.whole(1, 7)):
            net.grow()
        attempt += 1_000_000
        if net.at == "image":
            continue
        graph = net.b.finish([(net.b.node("most", ReduceMax((3,)), net.at), None), (net.at, None)])
        found = splits(graph)
        if not found:
            continue
        nodes = found[net.whole(0, len(found) - 1)]
        rows, columns = graph.types[graph.nodes[nodes - 1].output].shape[1:3]
        height, width = graph.inputs[0].type.shape[1:3]
        stage = Stage(nodes, net.whole(1, min(height, 6)), width, streamed=net.r.random() < 0.5)
        if net.r.random() < 0.4:
            stage = Stage(nodes, net.whole(1, rows), net.whole(1, columns), Halo.RECOMPUTED)
        try:
            return graph, geometry(graph, stage)
        except UnsupportedError:
            continue


def image(graph: Graph, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Return a random image."""
    return ints(np.random.default_rng(seed), graph.inputs[0].type.shape)
