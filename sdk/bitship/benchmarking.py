"""Prove a package's bits on a device, and only then measure it."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from bitship.converters.base import Artifact, Numerics
from bitship.device import desk
from bitship.device.base import (
    Bursts,
    Chooses,
    Conditioned,
    Conditions,
    Device,
    DeviceSession,
    Looks,
    OpSamples,
    Profiles,
)
from bitship.device.benchmark_model import BenchmarkModelSession
from bitship.device.bisect import first_difference
from bitship.device.conditions import cool_down
from bitship.device.energy import Energy, measure_energy
from bitship.device.meters import MeterDriver
from bitship.errors import BitsDifferError, DeviceError
from bitship.graph.base import Array
from bitship.measuring import Effort, sample
from bitship.package import Package
from bitship.passes.picture import FILE as PICTURE
from bitship.report import SCHEMA, Bits, Report
from bitship.targets import ConverterName, TargetKind, load

HOST, EMULATOR = "host", "emulator"
PLAN = "plan.json"
MOST_PROFILES = 10  # executions that per-op figures are taken from


def default_device(package: Package, threads: int = 1) -> Device:
    """Return the device that runs a package without further word: this machine, or the target's emulator."""
    target = load(package.manifest.target)
    if target.emulator is not None and threads != 1:
        raise DeviceError(f"{package.path}: {threads} threads; in emulation a package runs on 1")
    if target.emulator is not None and target.kind is TargetKind.MCU:
        from bitship.device.board import ROLES, emulated
        from bitship.device.qemu import QemuDevice

        return emulated(target) if package.artifact().role in ROLES else QemuDevice(target)
    if target.emulator is not None:
        from bitship.device.qemu_user import QemuUserDevice

        return QemuUserDevice(target)
    if target.kind is TargetKind.CLOUD and target.hub_device is not None:
        from bitship.device.hub import HubDevice, HubSettings

        return HubDevice(target.name, HubSettings(device=target.hub_device))
    ours = target.triple is None or target.triple.split("-")[0] == platform.machine()
    here = target.kind in (TargetKind.HOST, TargetKind.LINUX) or ConverterName.OPENVINO in target.converters
    if not here or not ours:
        raise DeviceError(f"{package.path}: target '{target.name}' has no emulator; name a device")
    from bitship.device.host import HostDevice

    return HostDevice(threads)


def resolve(name: str, package: Package, threads: int = 1) -> tuple[Device, MeterDriver | None]:
    """Return a device by its name, and its power meter.

    name  ``host``; ``emulator``: what runs the target's packages without further word; or a unit of devices.toml
    """
    if name in (HOST, EMULATOR):
        device = default_device(package, threads)
        if (name == HOST) != (device.name == HOST):
            raise DeviceError(
                f"{package.path}: a package for {package.manifest.target} does not run on '{name}'; "
                f"'{device.name}' or a unit of {desk.FILE} can"
            )
        return device, None
    unit = desk.read().unit(name)
    if threads != 1:
        raise DeviceError(f"bench: {threads} threads for device '{name}'; a device of one's own has its own")
    return desk.connect(unit), unit.meter


def bench(
    package: Package | str | Path,
    device: Device | str | None = None,
    runs: int = 20,
    warmup: int = 3,
    role: str | None = None,
    threads: int = 1,
    *,
    effort: Effort | None = None,
    meter: MeterDriver | None = None,
    tick: Callable[[int, float], None] | None = None,
) -> Report:
    """Run a package's golden vectors on a device, compare every bit, then measure.

    package  a Package or its folder
    device   where to run: a Device, a name that ``resolve`` knows, this machine or the target's emulator when None
    runs     executions measured on the first random vector, after ``warmup`` unrecorded ones
    role     which artifact; the exact one when None. A tolerant one is measured with its difference stated.
    threads  how many a tvm package runs on, here; the report's environment says it. Only without a ``device``
    effort   how much is measured, instead of ``runs`` and ``warmup``
    meter    a power meter on the device's supply; a unit of devices.toml brings its own
    tick     hears of executions done and the spread of the median after every round

    Raises BitsDifferError (and measures nothing) when an exact artifact gives other bits, naming the first, with the
    report of it as ``error.report``.
    """
    if not isinstance(package, Package):
        package = Package.open(Path(package))
    effort = effort or Effort(runs=runs, warmup=warmup, most=max(runs, Effort().most))
    effort.check()
    if isinstance(device, str):
        device, own = resolve(device, package, threads)
        meter = meter or own
    elif device is not None and threads != 1:
        raise DeviceError(f"bench: {threads} threads for device '{device.name}'; a device of one's own has its own")
    device = device or default_device(package, threads)
    if role is None and isinstance(device, Chooses):
        role = device.role(package)
    if role is None and not any(a.numerics is Numerics.EXACT for a in package.manifest.artifacts):
        role = package.manifest.artifacts[0].role
    return _Bench(package, role, package.artifact(role), device, effort, meter, tick).run()


@dataclass(frozen=True)
class _Bench:
    """One package on one device."""

    package: Package
    role: str | None
    artifact: Artifact
    device: Device
    effort: Effort
    meter: MeterDriver | None
    tick: Callable[[int, float], None] | None

    def run(self) -> Report:
        inputs, wanted = self.package.vectors()
        row = inputs[min(2, len(inputs) - 1)]
        with self.device.open(self.package, self.role) as session:
            found = session.run(inputs)
            unproven = session.unproven if isinstance(session, BenchmarkModelSession) else ""
            try:
                bits = (
                    Bits(0, 0, 0, 0) if unproven else compare_bits(found, wanted, self.package, self.artifact.numerics)
                )
            except BitsDifferError as e:
                raise self._differs(e, session, inputs, found, wanted) from None
            before = self._conditions(cool=True)
            samples, spread = sample(session, row, self.effort, self.tick)
            after = self._conditions()
            energy = self._energy(session, row)
            report = self._report(bits)
            if unproven:
                said = {"bits": f"not proven: {unproven}"}
                environment = report.environment | said
                report = msgspec.structs.replace(report, numerics=Numerics.UNVERIFIED, environment=environment)
            used = {} if energy is None else {"meter": energy.meter, "energy windows": energy.edges}
            return msgspec.structs.replace(
                report,
                samples=samples if energy is None else samples + energy.samples,
                ops=self._profile(session, row),
                trace=None if energy is None else energy.trace,
                environment=report.environment | used,
                conditions=tuple(c for c in (before, after) if c is not None),
                settled=spread,
            )

    def _conditions(self, cool: bool = False) -> Conditions | None:
        """Read them, where the device can tell; waiting first until it is cool, where that is asked."""
        if not isinstance(self.device, Conditioned):
            return None
        if cool and self.effort.cool_below is not None:
            return cool_down(self.device.conditions, self.effort.cool_below, self.effort.cool_s)
        return self.device.conditions()

    def _profile(self, session: DeviceSession, row: tuple[Array, ...]) -> tuple[OpSamples, ...]:
        if not self.effort.profile or not isinstance(session, Profiles):
            return ()
        return session.profile(row, min(self.effort.runs, MOST_PROFILES))

    def _energy(self, session: DeviceSession, row: tuple[Array, ...]) -> Energy | None:
        if not self.effort.energy or self.meter is None:
            return None
        if not isinstance(session, Bursts):
            raise DeviceError(
                f"{self.package.path}: {self.device.name} cannot run with its link silent, which energy needs; "
                "use --no-energy"
            )
        return measure_energy(session, self.meter, row)

    def _differs(
        self,
        error: BitsDifferError,
        session: DeviceSession,
        inputs: Sequence[tuple[Array, ...]],
        found: Sequence[tuple[Array, ...]],
        wanted: Sequence[tuple[Array, ...]],
    ) -> BitsDifferError:
        """Return the error with the report of it; where the device can be looked into, the op that is wrong first."""
        bits = compare_bits(found, wanted, self.package, Numerics.TOLERANT)
        said = str(error)
        if isinstance(session, Looks):
            vector = next(
                v for v, (a, b) in enumerate(zip(found, wanted, strict=True)) if not all(map(np.array_equal, a, b))
            )
            try:
                where = first_difference(session, self.package.graph(), inputs[vector])
            except DeviceError as e:
                said += f"; looking for the op failed: {e}"
            else:
                said += f"; {where}" if where is not None else "; every op's own tensor is right when it is looked at"
        return BitsDifferError(said, msgspec.structs.replace(self._report(bits), difference=said))

    def _report(self, bits: Bits) -> Report:
        """Return a report without figures; the device is asked what it is while it is still ours."""
        m = self.package.manifest
        return Report(
            schema=SCHEMA,
            package=m.name,
            target=m.target,
            device=self.device.name,
            converter=m.converter.value,
            artifact=self.artifact.role,
            numerics=self.artifact.numerics,
            graph_digest=m.graph_digest,
            macs=m.macs,
            footprint=m.footprint,
            bits=bits,
            samples=(),
            environment=self.device.environment(),
            tools=m.tools,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            plan=(self.package.path / PICTURE).read_text() if PICTURE in m.files else "",
            sections=self._sections(),
        )

    def _sections(self) -> dict[str, int]:
        """Return what the image's sections take, from the plan beside it."""
        if PLAN not in self.package.manifest.files:
            return {}
        body = msgspec.json.decode((self.package.path / PLAN).read_bytes())
        return {str(k): int(v) for k, v in body.get("sections", {}).items()}


def compare_bits(
    found: Sequence[tuple[Array, ...]], wanted: Sequence[tuple[Array, ...]], package: Package, numerics: Numerics
) -> Bits:
    """Compare all outputs; BitsDifferError names the first difference of an exact artifact."""
    elements = differing = largest = 0
    if len(found) != len(wanted):
        raise DeviceError(f"{package.path}: {len(wanted)} vectors were sent, {len(found)} results came back")
    for v, (mine, reference) in enumerate(zip(found, wanted, strict=True)):
        for i, (a, b) in enumerate(zip(mine, reference, strict=True)):
            port = package.manifest.outputs[i]
            if a.shape != b.shape or a.dtype != b.dtype:
                raise DeviceError(f"{package.path}: output '{port.name}' came back as {a.dtype}{list(a.shape)}")
            delta = np.abs(a.astype(np.int64) - b.astype(np.int64))
            count = int(np.count_nonzero(delta))
            elements, differing = elements + a.size, differing + count
            largest = max(largest, int(delta.max(initial=0)))
            if count and numerics is Numerics.EXACT:
                at = tuple(int(k) for k in np.argwhere(delta)[0])
                raise BitsDifferError(
                    f"{package.path}: vector {v}, output '{port.name}' at {list(at)}: {int(a[at])} came back, "
                    f"the graph gives {int(b[at])}; {count} of {a.size} elements differ; nothing was measured"
                )
    return Bits(len(wanted), elements, differing, largest)
