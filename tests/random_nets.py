"""Integer graphs of whole networks with random weights, for converters."""

import numpy as np

from bitship.graph import DType, Graph, GraphBuilder, Quant
from bitship.graph.ops import Add, Conv2D, DepthwiseConv2D, FullyConnected, ReduceSum, Rescale, Reshape, Rounding

_I32 = {"dtype": DType.INT32, "qmin": -(1 << 31), "qmax": (1 << 31) - 1}


class _Net:
    def __init__(self, seed: int) -> None:
        self.b = GraphBuilder("mobilenet")
        self.r = np.random.default_rng(seed)

    def weights(self, *shape: int) -> str:
        return self.b.constant("w", self.r.integers(-127, 128, shape, np.int64).astype(np.int8))

    def bias(self, n: int) -> str:
        return self.b.constant("bias", self.r.integers(-500, 500, n, np.int64).astype(np.int32))

    def requant(self, n: int, fan_in: int, zero_point: int) -> Rescale:
        """A factor that spreads a random accumulator over int8."""
        real = 40.0 / (75.0 * 75.0 * np.sqrt(fan_in)) * self.r.uniform(0.7, 1.3, n)
        mantissa, shift = np.frexp(real)
        multiplier = tuple(int(m) for m in (mantissa * (1 << 31)).astype(np.int64))
        return Rescale(multiplier, tuple(map(int, shift)), output_zero_point=zero_point)

    def conv(self, x: str, c: int, o: int, k: int, stride: int, zero_point: int, into: int) -> str:
        p = k // 2
        op = Conv2D(
            stride=(stride, stride),
            padding=(p, p, p, p),
            input_zero_point=zero_point,
            requant=self.requant(o, c * k * k, into),
        )
        return self.b.node("conv", op, x, self.weights(o, k, k, c), self.bias(o))

    def depthwise(self, x: str, c: int, stride: int) -> str:
        op = DepthwiseConv2D(
            stride=(stride, stride), padding=(1, 1, 1, 1), input_zero_point=-128, requant=self.requant(c, 9, -128)
        )
        return self.b.node("dw", op, x, self.weights(3, 3, c, 1), self.bias(c))

    def add(self, a: str, b: str, a_zero_point: int) -> str:
        left, right = (Rescale((1 << 30,), (0,), zp, pre_shift=20, **_I32) for zp in (a_zero_point, 0))  # type: ignore[arg-type]
        op = Add(left, right, Rescale((1 << 30,), (-18,), rounding=Rounding.SINGLE))
        return self.b.node("add", op, a, b)


_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(size: int, width: float = 1.0, classes: int = 1000, blocks: int = 7, seed: int = 0) -> Graph:
    """MobileNetV2 (arXiv 1801.04381 table 2), int8; the first ``blocks`` rows of the table."""
    net = _Net(seed)

    def scaled(n: int) -> int:
        return max(8, int(n * width + 4) // 8 * 8)

    b = net.b
    x = b.input("image", (1, size, size, 3), DType.INT8, Quant(1 / 64, 0))
    c = scaled(32)
    x = net.conv(x, 3, c, 3, 2, 0, -128)
    zero_point = -128
    for expand, channels, repeat, stride in _BLOCKS[:blocks]:
        out = scaled(channels)
        for i in range(repeat):
            y, s = x, stride if i == 0 else 1
            if expand != 1:
                y = net.conv(y, c, c * expand, 1, 1, zero_point, -128)
            y = net.depthwise(y, c * expand, s)
            y = net.conv(y, c * expand, out, 1, 1, -128, 0)
            x = net.add(x, y, zero_point) if s == 1 and c == out else y
            c, zero_point = out, 0
    last = max(1280, scaled(1280)) if blocks == len(_BLOCKS) else 4 * c
    x = net.conv(x, c, last, 1, 1, 0, -128)
    pixels = b.types[x].shape[1] * b.types[x].shape[2]
    x = b.node("mean", ReduceSum((1, 2), -128, Rescale(((1 << 30) // pixels * 2,), (0,), output_zero_point=-128)), x)
    x = b.node("flat", Reshape((1, last)), x)
    op = FullyConnected(input_zero_point=-128, requant=Rescale((1 << 30,), (-6,)))
    x = b.node("logits", op, x, net.weights(classes, last), net.bias(classes))
    return b.finish([(x, Quant(0.1, 3))])
