"""From a graph to a package for a target."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitship import converters, targets
from bitship.converters.base import Converter
from bitship.errors import DoesNotFitError, TargetError
from bitship.graph import Graph, spec, verify
from bitship.graph.base import Array
from bitship.loading import load
from bitship.package import Package, Staging, golden_inputs, write
from bitship.targets import Application, ConverterName, Target, TargetKind, TinyModel

if TYPE_CHECKING:
    from bitship.converters.firmware.serial import SerialOptions

DEFAULT_VECTORS = 5
Vectors = tuple[list[tuple[Array, ...]], list[tuple[Array, ...]]]  # inputs, outputs


def export(
    graph: Graph | str | Path,
    target: str | Target,
    out: str | Path,
    converter: ConverterName | None = None,
    inputs: Sequence[tuple[Array, ...]] | None = None,
    overwrite: bool = False,
    ram: int | None = None,
    streamed: bool | None = None,
    application: Application | None = None,
    tiny: TinyModel = TinyModel.NONE,
    self_test: int = 0,
) -> Package:
    """Lower a graph for a target and write a package folder; the same graph and target give the same bytes.

    graph      a Graph, or the path of a model file
    target     a target's name ('bitship targets' lists them) or a Target
    out        the folder to create; PackageError when it exists, unless ``overwrite`` and it is a package
    converter  one of the target's converters; its first when None
    inputs     golden inputs (one tuple of arrays each); five made ones when None: lowest, highest, random
    ram        firmware: bytes of RAM for arena, stack and static data; the first layers run by tiles where they must
    streamed   firmware: whether the image arrives by rows while the model runs, and is never whole in RAM; None: where
               that is the cheapest way into a given ``ram``
    application  firmware: the program around the model; None: FILES where the target is emulated, else SERIAL
    tiny       serial applications: which model of MLPerf Tiny the image says it runs
    self_test  serial applications: how many of the golden vectors go into flash, for a test without a host

    The golden outputs come from the specification. Raises TargetError, DoesNotFitError, UnsupportedError,
    MissingDependencyError, PackageError; on any failure nothing is left behind.
    """
    if not isinstance(graph, Graph):
        graph = load(graph)
    resolved = targets.load(target) if isinstance(target, str) else target
    chosen = _choose(resolved, converter)
    verify(graph)
    check_fits(graph, resolved)
    vectors = _vectors(graph, inputs)
    made = _converter(chosen, resolved, ram, streamed, application, _options(tiny, self_test, vectors))
    return _package(graph, resolved, chosen, made, Path(out), vectors, overwrite)


def export_image(
    graph: Graph, target: str | Target, out: Path, converter: Converter, overwrite: bool = False
) -> Package:
    """Write a package as ``export`` does, by a firmware converter that was made for one application."""
    resolved = targets.load(target) if isinstance(target, str) else target
    chosen = _choose(resolved, ConverterName.FIRMWARE)
    verify(graph)
    check_fits(graph, resolved)
    return _package(graph, resolved, chosen, converter, out, _vectors(graph, None), overwrite)


def _package(
    graph: Graph,
    target: Target,
    name: ConverterName,
    converter: Converter,
    out: Path,
    vectors: Vectors,
    overwrite: bool,
) -> Package:
    with Staging(out, overwrite) as folder:
        conversion = converter.convert(graph, target, folder)
        write(out, graph, target, name, folder, conversion, vectors)
    return Package.open(out)


def _vectors(graph: Graph, inputs: Sequence[tuple[Array, ...]] | None) -> Vectors:
    rows = list(golden_inputs(graph, DEFAULT_VECTORS) if inputs is None else inputs)
    if not rows:
        raise TargetError("export: no golden inputs are given; at least one is needed")
    return rows, [spec.run(graph, *row) for row in rows]


def _options(tiny: TinyModel, self_test: int, vectors: Vectors) -> "SerialOptions | None":
    """Return what a serial application is told beside the model; None where nothing was asked for."""
    if tiny is TinyModel.NONE and not self_test:
        return None
    from bitship.converters.firmware import serial

    return serial.SerialOptions(tiny, (vectors[0][:self_test], vectors[1][:self_test]))


def _choose(target: Target, converter: ConverterName | None) -> ConverterName:
    if not target.converters:
        raise TargetError(
            f"target '{target.name}': no converter makes packages for hosted devices; export for 'host', and name a "
            "model file of your own in devices.toml: hub = { model = ... }"
        )
    if converter is None:
        return target.converters[0]
    if converter not in target.converters:
        allowed = ", ".join(c.value for c in target.converters)
        raise TargetError(f"target '{target.name}': converter '{converter.value}' is not for it; allowed: {allowed}")
    return converter


def _converter(
    name: ConverterName,
    target: Target,
    ram: int | None,
    streamed: bool | None,
    application: Application | None,
    options: "SerialOptions | None",
) -> Converter:
    if ram is None and streamed is None and application is None and options is None:
        return converters.get(name)
    alone = ram is None and streamed is None and options is None
    if name is ConverterName.ETHOS_U and target.kind is TargetKind.MCU and alone:
        from bitship.converters.ethosu import EthosUConverter

        return EthosUConverter(application)
    if name is not ConverterName.FIRMWARE:
        raise TargetError(
            f"target '{target.name}': a RAM budget, a streamed image and an application are for converter 'firmware', "
            f"not '{name.value}'; choose that one, or leave them out"
        )
    from bitship.converters.firmware import FirmwareConverter

    return FirmwareConverter(ram=ram, streamed=streamed, application=application, options=options)


def check_fits(graph: Graph, target: Target) -> None:
    """Raise DoesNotFitError when the constants alone exceed the target's flash."""
    if target.flash is not None and graph.constant_bytes > target.flash.nbytes:
        raise DoesNotFitError(
            f"{target.name}: the constants need {graph.constant_bytes} B of flash, {target.flash.nbytes} B exist, "
            f"{graph.constant_bytes - target.flash.nbytes} B too many; use a smaller model or a larger target"
        )
