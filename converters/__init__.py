"""Converters: one file or folder per back end, listed here and imported only when asked for."""

from collections.abc import Callable

from bitship.converters.base import Converter
from bitship.targets import ConverterName


def _firmware() -> Converter:
    from bitship.converters.firmware import FirmwareConverter

    return FirmwareConverter()


def _tvm() -> Converter:
    from bitship.converters.tvm import TvmConverter

    return TvmConverter()


def _executorch() -> Converter:
    from bitship.converters.executorch import ExecutorchConverter

    return ExecutorchConverter()


CONVERTERS: dict[ConverterName, Callable[[], Converter]] = {
    ConverterName.FIRMWARE: _firmware,
    ConverterName.TVM: _tvm,
    ConverterName.EXECUTORCH: _executorch,
}


def get(name: ConverterName) -> Converter:
    """Return a converter; MissingDependencyError when its packages are not installed."""
    return CONVERTERS[name]()
