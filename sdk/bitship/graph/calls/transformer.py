"""Softmaxes, norms and I-ViT's functions as kernel calls."""

from bitship.graph import ops
from bitship.graph.base import TensorType
from bitship.graph.calls.structs import CArray, Lowered, Types, dtype, rescale, struct
from bitship.graph.ops.ivit import SHIFTGELU_N, SHIFTMAX_N, shift_exp_tables


def _rows(out: TensorType) -> dict[str, int]:
    return {"rows": out.size // out.shape[-1], "channels": out.shape[-1]}


def softmax(op: ops.Softmax, out: TensorType, types: Types, tile: int) -> Lowered:
    """TFLite's softmax."""
    return "softmax", struct("softmax", **_rows(out)), 0


def table_softmax(op: ops.TableSoftmax, out: TensorType, types: Types, tile: int) -> Lowered:
    """Softmax to 16 bits."""
    return "table_softmax", struct("table_softmax", **_rows(out), masked=int(op.masked)), 0


def softmax_matmul(op: ops.SoftmaxMatMul, out: TensorType, types: Types, tile: int) -> Lowered:
    """Softmax and product; scratch holds the codes of ``tile`` rows (bitship_softmax_matmul_scratch_bytes)."""
    batch, rows, depth = types[0].shape
    tile = min(tile, rows)
    params = struct(
        "softmax_matmul",
        batch=batch,
        rows=rows,
        depth=depth,
        columns=out.shape[2],
        v_zero_point=op.v_zero_point,
        masked=int(op.masked),
        tile=tile,
        requant=rescale(op.requant),
    )
    return "softmax_matmul", params, tile * depth


def norm(op: ops.LayerNorm | ops.RmsNorm | ops.ILayerNorm, out: TensorType, types: Types, tile: int) -> Lowered:
    """The norms: one struct, three functions."""
    params = struct(
        "norm",
        x_dtype=dtype(types[0].dtype),
        out_dtype=dtype(out.dtype),
        **_rows(out),
        period=types[1].shape[0],
        shift=op.shift,
        input_zero_point=op.input_zero_point if isinstance(op, ops.RmsNorm) else 0,
        output_zero_point=op.output_zero_point,
        qmin=op.qmin,
        qmax=op.qmax,
        epsilon=0 if isinstance(op, ops.ILayerNorm) else op.epsilon,
    )
    return op.name, params, 0


def _exponentials(unit: int, n: int) -> tuple[CArray, CArray]:
    below, zero = (CArray("int32_t", tuple(t.tolist())) for t in shift_exp_tables(unit, n))
    return below, zero


def shiftmax(op: ops.Shiftmax, out: TensorType, types: Types, tile: int) -> Lowered:
    """ShiftExp of every difference to the maximum, made ahead of time."""
    below, _ = _exponentials(op.unit, SHIFTMAX_N)
    return (
        "shiftmax",
        struct("shift_exp", **_rows(out), masked=op.unit * op.masked, below=below, zero=None, requant=None),
        0,
    )


def shiftgelu(op: ops.ShiftGelu, out: TensorType, types: Types, tile: int) -> Lowered:
    """ShiftExp of every difference to the maximum, and of every negated maximum."""
    below, zero = _exponentials(op.unit, SHIFTGELU_N)
    params = struct("shift_exp", **_rows(out), masked=0, below=below, zero=zero, requant=rescale(op.requant))
    return "shiftgelu", params, 0
