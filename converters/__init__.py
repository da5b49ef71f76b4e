"""Converters: one file or folder per back end, listed here and imported only when asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bitship.converters.base import Converter, Session
from bitship.graph import Graph
from bitship.targets import ConverterName


@dataclass(frozen=True)
class BackEnd:
    """Where a back end's code is: its module, the class that converts, and whether it runs on several threads.

    The module has ``open_session(path, graph)`` (with ``threads`` where it can use them) unless ``opens`` is False.
    """

    module: str
    name: str
    threads: bool = False
    opens: bool = True

    def load(self) -> Any:
        """Import the module; MissingDependencyError when its packages are not installed."""
        return import_module(self.module)


BACK_ENDS: dict[ConverterName, BackEnd] = {
    ConverterName.FIRMWARE: BackEnd("bitship.converters.firmware", "FirmwareConverter"),
    ConverterName.TVM: BackEnd("bitship.converters.tvm", "TvmConverter", threads=True),
    ConverterName.TFLITE: BackEnd("bitship.converters.tflite", "TfliteConverter"),
    ConverterName.ONNX: BackEnd("bitship.converters.onnx", "OnnxConverter"),
    ConverterName.OPENVINO: BackEnd("bitship.converters.openvino", "OpenvinoConverter"),
    ConverterName.QAI_HUB: BackEnd("bitship.converters.qai_hub", "QaiHubConverter", opens=False),
    ConverterName.EXECUTORCH: BackEnd("bitship.converters.executorch", "ExecutorchConverter"),
    ConverterName.TOSA: BackEnd("bitship.converters.tosa", "TosaConverter"),
    ConverterName.ETHOS_U: BackEnd("bitship.converters.ethosu", "EthosUConverter"),
}


def get(name: ConverterName) -> Converter:
    """Return a converter; MissingDependencyError when its packages are not installed."""
    back_end = BACK_ENDS[name]
    make: Callable[[], Converter] = getattr(back_end.load(), back_end.name)
    return make()


def open_session(name: ConverterName, path: Path, graph: Graph, threads: int = 1) -> Session:
    """Load an artifact for this machine; FormatError when its runtime refuses it."""
    back_end = BACK_ENDS[name]
    open_artifact: Callable[..., Session] = back_end.load().open_session
    return open_artifact(path, graph, threads) if back_end.threads else open_artifact(path, graph)
