"""OpenVINO: the QDQ form of the graph as IR, for Intel's CPUs, GPUs and NPUs; tolerant, measured where it runs.

    model.xml, model.bin      what OpenVINO's runtime loads, made from the QDQ model of the onnx converter
    model.xml.placement.json  the precision each node runs in, and how far the bits are from the graph's

The target's ``npu.accelerator`` is OpenVINO's name of the device: ``CPU``, ``NPU``. IR is the same for all of them.
OpenVINO: https://docs.openvino.ai (2026.4).
"""

import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bitship.converters import placement
from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.measure import measure
from bitship.converters.onnx import QDQ, qdq
from bitship.converters.placement import Place, Placed, Placement
from bitship.converters.tflite import largest_live_bytes
from bitship.errors import FormatError, MissingDependencyError, UnsupportedError
from bitship.extras import quiet, require
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.targets import Target

FILE, WEIGHTS = "model.xml", "model.bin"
ROLE = "openvino"
CPU = "CPU"
_PLACE = ["bitship", "device"]
_NODE = re.compile(r"\bnode(\d+)\.")
_EIGHT = ("i8", "u8")


def _openvino() -> Any:
    return require("openvino", "openvino", "openvino converter")


def accelerator(target: Target | None) -> str:
    """Return OpenVINO's name of a target's device."""
    return target.npu.accelerator if target is not None and target.npu is not None else CPU


class OpenvinoConverter:
    """Lowers a graph to OpenVINO's IR. Same graph, same files."""

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write the IR below ``out`` and measure it where the target's device is in this machine.

        Raises UnsupportedError where the graph has no float form, MissingDependencyError without openvino.
        """
        ov, device = _openvino(), accelerator(target)
        data, nodes = qdq.lower(graph)
        out.mkdir(parents=True, exist_ok=True)
        with quiet(), tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / QDQ
            source.write_bytes(data)
            try:
                model = ov.convert_model(source, verbose=False)
            except Exception as e:  # OpenVINO's front end has errors of many kinds
                raise UnsupportedError(f"{graph.name}: OpenVINO does not take the QDQ model ({_line(e)})") from None
            for i, op in enumerate(model.get_ordered_ops()):
                if not _NODE.match(op.get_friendly_name()) and op.get_type_name() not in ("Parameter", "Result"):
                    op.set_friendly_name(f"op{i}")  # OpenVINO's own names count up from one conversion to the next
            model.set_rt_info(device, _PLACE)
            ov.save_model(model, out / FILE, compress_to_fp16=False)
        found = _placement(graph, nodes, device, out / FILE)
        note = placement.write(out / FILE, found)
        return Conversion(
            files=tuple(sorted((FILE, WEIGHTS, note))),
            artifacts=(Artifact(FILE, ROLE, Numerics.TOLERANT, note),),
            footprint=Footprint(graph.constant_bytes, largest_live_bytes(graph)),
            tools={name: version(name) for name in ("openvino", "onnx")},
        )


def _placement(graph: Graph, nodes: tuple[Placed, ...], device: str, path: Path) -> Placement:
    """Compile for the device and read off where each node runs; without the device, what the QDQ form says."""
    name = f"openvino-{device.lower()}"
    try:
        session = OpenvinoSession(path, graph)
    except MissingDependencyError as e:
        return Placement(name, nodes, untested=str(e))
    try:
        return Placement(name, session.placed(nodes), parts=1, difference=measure(graph, session))
    finally:
        session.close()


class OpenvinoSession:
    """A compiled IR on the device it was made for; one thread on a CPU, arithmetic of float32 outside of int8."""

    def __init__(self, path: Path, graph: Graph) -> None:
        ov = _openvino()
        self._graph = graph
        core = ov.Core()
        if not path.is_file():
            raise FormatError(f"{path}: No such file")
        try:
            model = core.read_model(path)
            device = str(model.get_rt_info(_PLACE).value) if model.has_rt_info(_PLACE) else CPU
        except Exception as e:
            raise FormatError(f"{path}: OpenVINO does not load it ({_line(e)})") from None
        if device not in {d.partition(".")[0] for d in core.available_devices}:
            raise MissingDependencyError(
                f"openvino: no {device} in this machine, there is {', '.join(core.available_devices) or 'nothing'}; a "
                f"computer with one and its driver runs {path.name}"
            )
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"} if device == CPU else {}
        try:
            self._compiled: Any = core.compile_model(model, device, options)
        except Exception as e:
            raise UnsupportedError(f"{path}: OpenVINO does not compile it for {device} ({_line(e)})") from None

    def placed(self, nodes: tuple[Placed, ...]) -> tuple[Placed, ...]:
        """Return the nodes with the precision the device runs each in; one that no layer names was folded."""
        precisions: dict[int, list[str]] = {}
        for layer in self._compiled.get_runtime_model().get_ops():
            info = layer.get_rt_info()
            names = str(info["originalLayersNames"].astype(str)) if "originalLayersNames" in info else ""
            how = str(info["runtimePrecision"].astype(str)) if "runtimePrecision" in info else ""
            kind = str(info["layerType"].astype(str)) if "layerType" in info else ""
            if kind not in ("Input", "Output", "Const"):
                for index in {int(i) for i in _NODE.findall(names)}:
                    precisions.setdefault(index, []).append(how)
        return tuple(_with_precision(node, precisions.get(i, [])) for i, node in enumerate(nodes))

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes; GraphError when they are of others."""
        self._graph.check_inputs(inputs)
        if self._compiled is None:
            raise ValueError("the session is closed")
        results = self._compiled([np.ascontiguousarray(x) for x in inputs])
        return tuple(
            np.array(results[i]).astype(p.type.dtype.numpy, copy=False).reshape(p.type.shape)
            for i, p in enumerate(self._graph.outputs)
        )

    def close(self) -> None:
        """Release the compiled model."""
        self._compiled = None


def _with_precision(node: Placed, precisions: list[str]) -> Placed:
    """Return a node's record: in int8 where any layer that stands for it is, for the others only carry its codes."""
    if not precisions:
        return Placed(node.node, node.op, node.macs, Place.FOLDED, "fused into another layer")
    if any(p in _EIGHT for p in precisions):
        return Placed(node.node, node.op, node.macs, Place.DELEGATE)
    reason = f"computed in {', '.join(sorted(set(precisions)))}"
    return Placed(node.node, node.op, node.macs, Place.CPU, f"{reason}: {node.reason}" if node.reason else reason)


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


def open_session(path: Path, graph: Graph) -> OpenvinoSession:
    """Load IR this converter wrote on its device; MissingDependencyError when the machine has none."""
    return OpenvinoSession(path, graph)


__all__ = ["FILE", "OpenvinoConverter", "OpenvinoSession", "open_session"]
