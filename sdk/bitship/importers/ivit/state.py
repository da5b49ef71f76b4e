"""Checked access to a checkpoint in I-ViT's released format, and its quantized layers on an Integerizer."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from bitship.errors import FormatError
from bitship.graph import GraphBuilder
from bitship.graph.base import Array
from bitship.graph.dtypes import DType
from bitship.graph.fixedpoint import quantize_multiplier
from bitship.graph.ops import Add, FullyConnected, Rescale
from bitship.importers import attention, norms
from bitship.importers.integerize import Integerizer, QParams, QuantizedTensor, Weights, Window

_LEAST = 2.0**-23  # what the release clips scales to: a scale of this size was never calibrated
_SHIFT = 1.01


class State:
    """The tensors of a checkpoint by name; every refusal names the file, the tensor and what is needed."""

    def __init__(self, arrays: Mapping[str, Any], source: str) -> None:
        self.arrays = {k: np.asarray(v) for k, v in arrays.items()}
        self.source = source

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.arrays

    def array(self, name: str, *shape: int | None) -> Array:
        """Return a float tensor as float64; None in the shape is any extent."""
        if name not in self.arrays:
            raise FormatError(f"{self.source}: tensor '{name}' is missing; an I-ViT ViT, DeiT or Swin has it")
        value = self.arrays[name]
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise FormatError(
                f"{self.source}: tensor '{name}' is {value.dtype} or not finite; float numbers are needed"
            )
        fits = value.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True))
        if shape and not fits:
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise FormatError(f"{self.source}: tensor '{name}' has shape {value.shape}; ({wanted}) is needed")
        return value.astype(np.float64)

    def scale(self, module: str, bits: int = 8) -> QParams:
        """Return the parameters of a QuantAct from its buffer ``act_scaling_factor``."""
        name = f"{module}.act_scaling_factor"
        value = self.array(name).reshape(-1)
        if value.size != 1 or not value[0] > _LEAST * _SHIFT:
            found = float(value[0]) if value.size else 0.0
            raise FormatError(
                f"{self.source}: scale '{name}' is {found:.3g}: it was not calibrated when the file was saved. The "
                "release recomputes scales from ranges it does not save, so a model that was loaded and saved again "
                "has lost them; run it on images in train() mode once (QuantAct unfixed), then save"
            )
        return QParams(float(value[0]), 0, bits)

    def count(self, prefix: str) -> int:
        """Return how many consecutive modules ``prefix.0``, ``prefix.1`` ... there are."""
        n = 0
        while any(k.startswith(f"{prefix}.{n}.") for k in self.arrays):
            n += 1
        return n


def read(path: Path) -> State:
    """Read a safetensors file of a checkpoint's state dictionary; FormatError when it is damaged."""
    from safetensors import SafetensorError
    from safetensors import numpy as st

    try:
        return State(st.load(path.read_bytes()), str(path))
    except OSError as e:
        raise FormatError(f"{path}: cannot be read: {e.strerror}") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as e:
        raise FormatError(f"{path}: not a readable safetensors file ({' '.join(str(e).split())[:160]})") from None


class Layers:
    """Writes the release's modules, by their names in the checkpoint."""

    def __init__(self, state: State, name: str) -> None:
        self.state = state
        self.builder = GraphBuilder(name, fold=True)
        self.g = Integerizer(self.builder)

    def weights(self, module: str) -> tuple[Weights, Array | None]:
        """Return QuantLinear's or QuantConv2d's weights (symmetric per channel, from the float ones) and bias."""
        values = self.state.array(f"{module}.weight")
        rows = values.reshape(values.shape[0], -1)
        scales = np.maximum(np.abs(rows).max(axis=1) / 127, _LEAST)
        integers = np.clip(np.rint(rows / scales[:, None]), -128, 127).astype(np.int8).reshape(values.shape)
        bias = self.state.array(f"{module}.bias", values.shape[0]) if self.state.has(f"{module}.bias") else None
        return Weights(integers, tuple(scales.tolist())), bias

    def linear(self, module: str, x: QuantizedTensor, out: QParams) -> QuantizedTensor:
        """QuantLinear and the QuantAct after it."""
        w, bias = self.weights(module)
        self._width(module, w.values.shape[1], x.shape[-1])
        return self.g.linear(module, x, w, bias, out)

    def patches(self, module: str, x: QuantizedTensor, out: QParams) -> QuantizedTensor:
        """The patch embedding as tokens [1, N, C]."""
        from bitship.importers import shapes

        w, bias = self.weights(module)
        self._width(module, w.values.shape[1], x.shape[1])
        kernel = (int(w.values.shape[2]), int(w.values.shape[3]))
        y = self.g.conv2d(module, x, w, bias, Window(kernel, kernel), 1, out)
        n, c, height, width = y.shape
        return shapes.permute(
            self.g, f"{module}.tokens", shapes.reshape(self.g, module, y, (n, c, height * width)), (0, 2, 1)
        )

    def norm(self, module: str, x: QuantizedTensor, out: QParams) -> QuantizedTensor:
        """IntLayerNorm and the QuantAct after it."""
        gain, offset = (self.state.array(f"{module}.{part}", x.shape[-1]) for part in ("weight", "bias"))
        return norms.i_layer_norm(self.g, module, x, 1, gain, offset, out)

    def constant(self, name: str, q: QParams) -> QuantizedTensor:
        """A parameter as integers, rounded half to even as the release does."""
        values = self.state.array(name)
        integers = np.clip(np.rint(values / q.scale), *q.ends).astype(q.dtype.numpy)
        return self.g.constant(name, integers, q)

    def residual(self, name: str, x: QuantizedTensor, identity: QuantizedTensor, out: QParams) -> QuantizedTensor:
        """QuantAct with an identity: each operand is rounded to the output's scale, then the sum is clipped."""
        sides = []
        for t in (x, identity):
            multiplier, shift = quantize_multiplier(Fraction(t.q.scale) / Fraction(out.scale))
            whole = DType.INT32
            sides.append(
                Rescale((multiplier,), (shift,), t.q.zero_point, dtype=whole, qmin=whole.qmin, qmax=whole.qmax)
            )
        low, high = out.ends
        op = Add(sides[0], sides[1], Rescale((1 << 30,), (1,), dtype=out.dtype, qmin=low, qmax=high))
        x, identity = self.g.aligned(x, identity)
        return self.g.result(self.builder.node(name, op, x.name, identity.name), x, out)

    def mlp(self, module: str, x: QuantizedTensor) -> QuantizedTensor:
        """fc1, ShiftGELU, fc2."""
        y = self.linear(f"{module}.fc1", x, self.state.scale(f"{module}.qact_gelu"))
        y = attention.shiftgelu(self.g, f"{module}.act", y, self.state.scale(f"{module}.qact1"))
        return self.linear(f"{module}.fc2", y, self.state.scale(f"{module}.qact2", 16))

    def head(self, x: QuantizedTensor) -> tuple[str, QParams]:
        """The classifier: int32 logits brought to the largest channel's scale."""
        w, bias = self.weights("head")
        self._width("head", w.values.shape[1], x.shape[-1])
        w, ints = self.g.accumulator_bias(x, w, bias)
        largest = max(w.scales)
        pairs = [quantize_multiplier(Fraction(s) / Fraction(largest)) for s in w.scales]
        whole = DType.INT32
        requant = Rescale(
            tuple(m for m, _ in pairs),
            tuple(s for _, s in pairs),
            dtype=whole,
            qmin=whole.qmin,
            qmax=whole.qmax,
        )
        flat = self.g.view(self.g.natural(x).name, (1, x.shape[-1]))
        constants = [self.builder.constant(f"head.{part}", a) for part, a in (("weight", w.values), ("bias", ints))]
        return self.builder.node("logits", FullyConnected(requant=requant), flat, *constants), QParams(
            float(Fraction(x.q.scale) * Fraction(largest)), 0
        )

    def _width(self, module: str, needed: int, found: int) -> None:
        if needed != found:
            raise FormatError(f"{self.state.source}: '{module}.weight' reads {needed} channels, its input has {found}")
