"""Import quantized .onnx models: QDQ (QuantizeLinear, DequantizeLinear around float ops) and QOperator (QLinear*).

Every (dequantize, op, quantize) becomes one integer op with one rounding, half up, of an exact product. ONNX defines
the same in float32 with round half even, so onnxruntime differs by at most one step per op, on near-ties; its fused
kernels and its u8 x s8 products, which saturate in 16 bits on CPUs without VNNI, may differ by more.

Images [N, C, H, W] become [N, H, W, C], at the graph's ports too. Float ends are folded away: the graph takes and
gives the codes, int8 or uint8 as in the file, with their scale and zero point. Inside, uint8 is int8 less 128.
"""

from collections.abc import Sequence
from pathlib import Path

from bitship.errors import UnsupportedError
from bitship.graph import Graph
from bitship.importers.onnx.reader import Model, damage_is_format_error, parse, read
from bitship.importers.onnx.walk import Walk


def load(path: str | Path, outputs: Sequence[str] = ()) -> Graph:
    """Read a quantized .onnx file into a verified integer graph.

    outputs  names of values to cut the model at; the model's own outputs when empty

    Raises FormatError for a damaged file, UnsupportedError naming the node by index, op and name (float models,
    dynamic shapes and unknown ops), GraphError when the result is unsound.
    """
    path = Path(path)
    return lower(read(path), str(path), path.stem, outputs)


def loads(data: bytes, where: str, outputs: Sequence[str] = ()) -> Graph:
    """Do what ``load`` does, from bytes."""
    return lower(parse(data, where), where, Path(where).stem, outputs)


def lower(model: Model, where: str, name: str, outputs: Sequence[str] = ()) -> Graph:
    """Lower a read model to a verified graph."""
    defined = {o for node in model.operators for o in node.outputs} | {p.name for p in model.inputs}
    wanted = list(outputs) or [p.name for p in model.outputs]
    for value in wanted:
        if value not in defined:
            raise UnsupportedError(f"{where}: no value is named '{value}'")
    with damage_is_format_error(where):
        return Walk(model, where, name).run(wanted)


__all__ = ["load", "loads"]
