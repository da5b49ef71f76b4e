"""Write small .tflite files operator by operator, and run them through LiteRT's reference kernels."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitship.graph.base import Array

TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "int8": 9}
_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "HARD_SWISH": 1,
    "RELU_N1_TO_1": 1,
    "RESHAPE": 1,
    "TRANSPOSE_CONV": 4,
    "BATCH_MATMUL": 4,
    **dict.fromkeys(("DEPTH_TO_SPACE", "ELU", "EXPAND_DIMS", "PRELU", "RELU_0_TO_1", "SHAPE", "SQUEEZE", "SUM"), 1),
}


@dataclass
class T:
    """One tensor of a test model; a constant when it has data."""

    shape: tuple[int, ...]
    dtype: str = "int8"
    scale: float | list[float] | None = None
    zero_point: int = 0
    axis: int = 0
    data: Array | None = None
    signature: tuple[int, ...] | None = None


@dataclass
class Net:
    """Tensors and operators under construction."""

    tensors: list[T] = field(default_factory=list)
    ops: list[tuple[str, list[int], list[int], str | None, dict[str, Any]]] = field(default_factory=list)

    def add(self, tensor: T) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def op(self, name: str, inputs: list[int], outputs: list[int], options: str | None = None, **fields: Any) -> None:
        self.ops.append((name, inputs, outputs, options, fields))


def encode(net: Net, inputs: list[int], outputs: list[int]) -> bytes:
    """Return the bytes of a .tflite file."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as s

    model, graph = s.ModelT(), s.SubGraphT()
    model.version, model.description = 3, "test"
    model.buffers = [s.BufferT()]
    graph.tensors, graph.operators, model.operatorCodes = [], [], []
    for i, t in enumerate(net.tensors):
        x = s.TensorT()
        x.name, x.shape, x.type, x.buffer = f"t{i}".encode(), list(t.shape), TYPES[t.dtype], 0
        if t.data is not None:
            buffer = s.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(t.data).tobytes(), np.uint8)
            model.buffers.append(buffer)
            x.buffer = len(model.buffers) - 1
        if t.signature is not None:
            x.shapeSignature = list(t.signature)
        if t.scale is not None:
            x.quantization = s.QuantizationParametersT()
            scales = t.scale if isinstance(t.scale, list) else [t.scale]
            x.quantization.scale = np.array(scales, np.float32)
            x.quantization.zeroPoint = np.array([t.zero_point] * len(scales), np.int64)
            x.quantization.quantizedDimension = t.axis
        graph.tensors.append(x)
    for k, (name, ins, outs, options, fields) in enumerate(net.ops):
        code = s.OperatorCodeT()
        code.builtinCode = getattr(s.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = _VERSIONS.get(name, 2)
        model.operatorCodes.append(code)
        op = s.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = k, ins, outs
        if options:
            op.builtinOptionsType = getattr(s.BuiltinOptions, options)
            op.builtinOptions = getattr(s, f"{options}T")()
            for key, value in fields.items():
                assert hasattr(op.builtinOptions, key), key
                setattr(op.builtinOptions, key, value)
        graph.operators.append(op)
    graph.inputs, graph.outputs, graph.name = inputs, outputs, b"main"
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class Reference:
    """LiteRT's reference kernels (BUILTIN_REF) on a .tflite file; the judge of an import."""

    def __init__(self, model: bytes, resolver: str = "BUILTIN_REF") -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.interpreter = Interpreter(
            model_content=model,
            experimental_op_resolver_type=getattr(OpResolverType, resolver),
            num_threads=1,
            experimental_preserve_all_tensors=resolver == "BUILTIN_REF",
        )
        self.interpreter.allocate_tensors()

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the file's own dtypes."""
        for detail, value in zip(self.interpreter.get_input_details(), inputs, strict=True):
            self.interpreter.set_tensor(detail["index"], value)
        self.interpreter.invoke()
        return tuple(self.interpreter.get_tensor(d["index"]) for d in self.interpreter.get_output_details())

    def tensor(self, name: str) -> Array:
        """Return any tensor by name after a run."""
        index = {d["name"]: d["index"] for d in self.interpreter.get_tensor_details()}[name]
        return np.asarray(self.interpreter.get_tensor(index))
