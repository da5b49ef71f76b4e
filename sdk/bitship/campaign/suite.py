"""A suite: models times targets times devices, as a TOML file says.

name = "tiny"

[effort]
runs = 20
spread = 0.01

[[model]]
name = "ic01"
file = "$BITSHIP_DATA/mlperf-tiny/ic01_resnet8_int8.tflite"

[[run]]
targets = ["mps2-an386", "mps3-an547"]
devices = ["emulator"]
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bitship import targets
from bitship.benchmarking import EMULATOR, HOST
from bitship.device import desk
from bitship.errors import FormatError
from bitship.measuring import Effort
from bitship.settings import read_toml
from bitship.targets import Application, ConverterName
from bitship.version import VERSION

_VARIABLE = re.compile(r"\$(\w+)")


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model's file, relative to the suite's folder unless absolute; ``$NAME`` is an environment variable."""

    name: str
    file: str


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every one of these models on every one of these targets and devices.

    models     names of models; all when left out
    packages   folders of packages that are there already, instead of models and targets
    devices    units of devices.toml, or ``emulator``, or ``host``
    converter  the target's first when left out
    artifact   which artifact, by its role; the exact one when left out
    app        firmware of microcontrollers: the program around the model; the target's own when left out
    ram        firmware: bytes of RAM
    """

    models: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = (EMULATOR,)
    converter: ConverterName | None = None
    artifact: str | None = None
    app: Application | None = None
    ram: int | None = None


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is run, and how much is measured.

    attempts  how often a job is begun whose device is lost; wrong bits are never tried again
    """

    name: str
    run: tuple[Run, ...]
    model: tuple[Model, ...] = ()
    effort: Effort = Effort()
    attempts: int = 2


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One package on one device.

    name     what reports call the package
    source   the model's file, or the package's folder where ``target`` is empty
    sha256   of the source
    unit     the device's entry in devices.toml; empty for ``emulator`` and ``host``
    """

    name: str
    source: str
    sha256: str
    target: str
    device: str
    effort: Effort
    converter: ConverterName | None = None
    artifact: str | None = None
    app: Application | None = None
    ram: int | None = None
    unit: str = ""
    bitship: str = VERSION

    @property
    def key(self) -> str:
        """What tells this job from any other: a digest of everything that decides its result."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    @property
    def build_key(self) -> str:
        """The same of the package alone: jobs that share it share the package."""
        fields = (self.name, self.sha256, self.target, self.converter, self.app, self.ram, self.bitship)
        return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()[:16]

    @property
    def title(self) -> str:
        """One line for people."""
        return f"{self.name} for {self.target} on {self.device}" if self.target else f"{self.name} on {self.device}"


def read(path: Path) -> Suite:
    """Read a suite; FormatError names the file, the key and what is allowed."""
    suite = read_toml(path, Suite)
    if not suite.run:
        raise FormatError(f"{path}: no [[run]]; at least one is needed")
    if suite.attempts < 1:
        raise FormatError(f"{path}: attempts is {suite.attempts}; 1 or more is allowed")
    suite.effort.check()
    return suite


def jobs(suite: Suite, folder: Path) -> list[Job]:
    """Return every job of a suite once, in its order; ``folder`` is where its files' names begin.

    FormatError on a model, package or file that is not there, TargetError and DeviceError on unknown names.
    """
    models = {m.name: m for m in suite.model}
    if len(models) != len(suite.model):
        raise FormatError(f"suite '{suite.name}': two models have one name; names must differ")
    found = {job.key: job for run in suite.run for job in _expand(suite, run, models, folder)}
    return list(found.values())


def _expand(suite: Suite, run: Run, models: dict[str, Model], folder: Path) -> Iterator[Job]:
    where = f"suite '{suite.name}'"
    if run.packages and (run.models or run.targets or run.converter or run.app or run.ram):
        raise FormatError(f"{where}: a [[run]] has packages and models, targets or options; give packages alone")
    if not run.packages and not run.targets:
        raise FormatError(f"{where}: a [[run]] has neither targets nor packages; one of them is needed")
    units = {name: _unit(name) for name in run.devices}
    for package in run.packages:
        path = _path(package, folder, where)
        for device, unit in units.items():
            yield Job(
                path.name,
                str(path),
                _digest(path / "manifest.json", where),
                "",
                device,
                suite.effort,
                artifact=run.artifact,
                unit=unit,
            )
    for name in () if run.packages else (run.models or tuple(models)):
        if name not in models:
            raise FormatError(f"{where}: model '{name}' is not in it; there are: {', '.join(models) or 'none'}")
        path = _path(models[name].file, folder, where)
        sha256 = _digest(path, where)
        for target in run.targets:
            targets.load(target)
            for device, unit in units.items():
                yield Job(
                    name,
                    str(path),
                    sha256,
                    target,
                    device,
                    suite.effort,
                    run.converter,
                    run.artifact,
                    run.app,
                    run.ram,
                    unit,
                )


def _unit(name: str) -> str:
    if name in (HOST, EMULATOR):
        return ""
    return msgspec.json.encode(desk.read().unit(name)).decode()


def _path(text: str, folder: Path, where: str) -> Path:
    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise FormatError(f"{where}: '{text}' needs the environment variable {match[1]}, which is not set")
        return found

    return (folder / Path(_VARIABLE.sub(value, text))).resolve()


def _digest(path: Path, where: str) -> str:
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise FormatError(f"{where}: {path}: cannot be read: {e.strerror}") from None
