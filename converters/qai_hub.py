"""Qualcomm AI Hub: what its jobs are given, as a package; submitting them is ``bitship bench``'s (``device/hub.py``).

    model.qdq.onnx                 the QDQ model, for QNN's compilers; its placement beside it
    calibration.npz                inputs of the whole range: of the inference job, and for a calibration of one's own
    job.json                       the jobs with every option, as they are submitted

The hub's devices compute with their vendor's arithmetic, and nothing here runs it: numerics are unverified.
Qualcomm AI Hub: https://workbench.aihub.qualcomm.com (client qai-hub 0.56).
"""

import io
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.onnx import QDQ, write_qdq
from bitship.converters.tflite import largest_live_bytes
from bitship.errors import PackageError
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.package import golden_inputs
from bitship.targets import Target

JOB, CALIBRATION = "job.json", "calibration.npz"
ROLE = "onnx"
COMPILE_OPTIONS = "--target_runtime onnx"
ROWS = 8


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The jobs of one package.

    device    the hub's name of the device
    model     the file that is uploaded; input_specs its inputs: shape and dtype by name
    quantize  options of a quantize job; empty: the model has its own scales, so there is none
    dataset   the inputs of the inference job, samples along the first axis of ``input_0``, ``input_1``, ...
    """

    device: str
    model: str
    input_specs: Mapping[str, tuple[tuple[int, ...], str]]
    compile_options: str = COMPILE_OPTIONS
    quantize_options: str = ""
    profile_options: str = ""
    inference_options: str = ""
    dataset: str = CALIBRATION

    def text(self) -> str:
        """Return what is submitted, in one line."""
        inputs = ", ".join(f"{n} {d}{list(s)}" for n, (s, d) in self.input_specs.items())
        return (
            f"compile {self.model} ({inputs}) for '{self.device}' with {self.compile_options}, then an inference and a "
            "profile job"
        )


def job_of(graph: Graph, target: Target) -> Job:
    """Return the jobs of a graph for a target's hosted device."""
    specs = {f"input_{i}": (p.type.shape, p.type.dtype.value) for i, p in enumerate(graph.inputs)}
    return Job(target.hub_device or target.name, QDQ, specs)


def read(package: Path) -> Job | None:
    """Return a package's jobs; None where it has none, PackageError when the file is damaged."""
    path = package / JOB
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Job)
    except msgspec.MsgspecError as e:
        raise PackageError(f"{path}: damaged: {e}; export the package again") from None


class QaiHubConverter:
    """Makes what the hub's jobs are given. Same graph, same files."""

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write model, calibration and jobs below ``out``; UnsupportedError where the graph has no float form."""
        out.mkdir(parents=True, exist_ok=True)
        model = write_qdq(graph, out, Numerics.UNVERIFIED)
        (out / CALIBRATION).write_bytes(_calibration(graph))
        (out / JOB).write_bytes(msgspec.json.format(msgspec.json.encode(job_of(graph, target)), indent=2) + b"\n")
        return Conversion(
            files=tuple(sorted((model.path, model.placement, CALIBRATION, JOB))),
            artifacts=(Artifact(model.path, ROLE, Numerics.UNVERIFIED, model.placement),),
            footprint=Footprint(graph.constant_bytes, largest_live_bytes(graph)),
            tools={name: version(name) for name in ("onnx", "onnxruntime")},
        )


def _calibration(graph: Graph) -> bytes:
    columns: dict[str, Array] = {
        f"input_{i}": np.stack(column) for i, column in enumerate(zip(*golden_inputs(graph, ROWS), strict=True))
    }
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    return buffer.getvalue()


__all__ = ["JOB", "Job", "QaiHubConverter", "job_of", "read"]
