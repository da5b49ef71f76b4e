"""A computer or phone with a system of its own: files go there, a runner runs there, results come back."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from bitship.device import conditions
from bitship.device.base import Conditions, DeviceSession
from bitship.device.benchmark_model import BenchmarkModel
from bitship.device.benchmark_model import opened as opened_benchmark
from bitship.device.host import RUNNER_ROLE
from bitship.device.runner import DEADLINE_SECONDS, opened, opened_package
from bitship.device.transfer import Transfer, TransferDriver
from bitship.errors import DeviceError
from bitship.package import Package
from bitship.targets import ConverterName, Target

PYTHON_RUNNER = Path(__file__).with_name("python_runner.py")
# What a Python over there must import to run a converter's packages.
RUNTIMES = {
    ConverterName.EXECUTORCH: "executorch.runtime, numpy, torch",
    ConverterName.TFLITE: "ai_edge_litert.interpreter, numpy",
    ConverterName.ONNX: "onnxruntime, numpy",
}
_SHORT_SECONDS = 60.0

_ABOUT = r"""
echo "system $(uname -sr)"
echo "machine $(uname -m)"
echo "processors $(grep -c ^processor /proc/cpuinfo)"
sed -n 's/^model name[^:]*: */processor /p; s/^Hardware[^:]*: */hardware /p' /proc/cpuinfo | sort -u
[ -r /proc/device-tree/model ] && echo "model $(tr -d '\0' </proc/device-tree/model)"
if command -v getprop >/dev/null 2>&1; then
    echo "model $(getprop ro.product.manufacturer) $(getprop ro.product.model)"
    echo "android $(getprop ro.build.version.release) $(getprop ro.build.fingerprint)"
fi
true
"""
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "arm", "armv7l": "arm", "armv6l": "arm"}


class RemoteComputer:
    """A unit of devices.toml that packages are copied to and run on.

    runner  over there: a Python with the package's runtime in it, or the user's own ``executor_runner``
    benchmark  the user's own ``benchmark_model``, for tflite packages
    """

    def __init__(
        self,
        name: str,
        target: Target,
        transfer: TransferDriver,
        runner: str | None = None,
        deadline_s: float = DEADLINE_SECONDS,
        benchmark: BenchmarkModel | None = None,
    ) -> None:
        self._name = name
        self._target = target
        self._driver = transfer
        self._runner = runner
        self._deadline_s = deadline_s
        self._benchmark = benchmark
        self._link: Transfer | None = None

    @property
    def name(self) -> str:
        return self._name

    @contextmanager
    def _connected(self) -> Iterator[Transfer]:
        """Yield the open connection, or one for this purpose alone."""
        if self._link is not None:
            yield self._link
            return
        with self._driver.open() as link:
            self._link = link
            try:
                yield link
            finally:
                self._link = None

    def environment(self) -> dict[str, str]:
        """Return system, machine, processor and model as they are told over there, and how its runner is started."""
        with self._connected() as link:
            done = link.run(["sh", "-c", _ABOUT], _SHORT_SECONDS)
            launcher = " ".join(link.launcher)
        found: dict[str, str] = {}
        for line in done.stdout.splitlines():
            key, _, value = line.partition(" ")
            if value.strip():
                found.setdefault(key, value.strip())
        return found | ({"emulator" if link.emulated else "launcher": launcher} if launcher else {})

    def conditions(self) -> Conditions:
        """Read temperatures, clocks and power mode over there."""
        with self._connected() as link:
            return conditions.read(link)

    def role(self, package: Package) -> str | None:
        """Return the runner's role; a package that a runtime over there loads has no runner."""
        return None if package.manifest.converter in RUNTIMES else RUNNER_ROLE

    @contextmanager
    def open(self, package: Package, role: str | None) -> Iterator[DeviceSession]:
        with ExitStack() as stack:
            link = stack.enter_context(self._connected())
            self._check_machine(link)
            if package.manifest.converter in RUNTIMES:
                session = stack.enter_context(self._loaded(link, package, role))
            else:
                made = opened_package(link, package, role or self.role(package) or RUNNER_ROLE, self._deadline_s)
                session = stack.enter_context(made)
            yield session

    def _check_machine(self, link: Transfer) -> None:
        """Raise DeviceError where programs of this target cannot run."""
        if link.emulated or self._target.triple is None:
            return
        said = link.run(["uname", "-m"], _SHORT_SECONDS).stdout.strip()
        wanted = self._target.triple.split("-")[0]
        found = _MACHINES.get(said, said)
        if found != wanted and not (wanted == "arm" and found == "aarch64"):
            raise DeviceError(
                f"device '{self._name}': its processor is {said or 'unknown'}, target '{self._target.name}' is for "
                f"{wanted}; correct the target in devices.toml"
            )

    @contextmanager
    def _loaded(self, link: Transfer, package: Package, role: str | None) -> Iterator[DeviceSession]:
        model = package.path / package.artifact(role).path
        graph = package.graph()
        runner, converter = self._runner or "python3", package.manifest.converter
        if converter is ConverterName.EXECUTORCH and not re.fullmatch(r"python[\d.]*", PurePosixPath(runner).name):
            from bitship.device.executor_runner import opened as opened_executor

            with opened_executor(link, runner, model, graph, self._deadline_s) as session:
                yield session
            return
        probe = link.run([runner, "-c", f"import {RUNTIMES[converter]}"], _SHORT_SECONDS)
        timed = self._benchmark if converter is ConverterName.TFLITE else None
        if probe.code != 0:
            said = (probe.stderr.strip().splitlines() or ["nothing said"])[-1]
            if timed is not None:
                why = f"{runner} over there does not import {RUNTIMES[converter]} ({said})"
                with opened_benchmark(link, timed, model, why, self._deadline_s) as session:
                    yield session
                return
            raise DeviceError(
                f"device '{self._name}': {package.path} is for {converter.value}, and {runner} over there does "
                f"not import {RUNTIMES[converter]} ({said}); install it there, or name another Python"
                f"{' or an executor_runner' if converter is ConverterName.EXECUTORCH else ''}: runner = ..."
            )
        inputs = ",".join(f"{p.type.dtype.value}:{'x'.join(map(str, p.type.shape))}" for p in graph.inputs)
        words = [runner, PYTHON_RUNNER.name, model.name, inputs]
        with ExitStack() as stack:
            made = stack.enter_context(opened(link, [PYTHON_RUNNER, model], words, graph, self._deadline_s))
            if timed is None:
                yield made
            else:
                yield stack.enter_context(opened_benchmark(link, timed, model, made, self._deadline_s))
