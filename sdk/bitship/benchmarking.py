"""Prove a package's bits on a device, and only then measure it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bitship.converters.base import Numerics
from bitship.device.base import Device
from bitship.errors import BitsDifferError, DeviceError
from bitship.graph.base import Array
from bitship.package import Package
from bitship.passes.picture import FILE as PICTURE
from bitship.report import SCHEMA, Bits, Report
from bitship.targets import TargetKind, load


def default_device(package: Package, threads: int = 1) -> Device:
    """Return the device that runs a package without further word: this machine, or the target's emulator."""
    target = load(package.manifest.target)
    if target.emulator is not None and threads != 1:
        raise DeviceError(f"{package.path}: {threads} threads; in emulation a package runs on 1")
    if target.emulator is not None and target.kind is TargetKind.MCU:
        from bitship.device.qemu import QemuDevice

        return QemuDevice(target)
    if target.emulator is not None:
        from bitship.device.qemu_user import QemuUserDevice

        return QemuUserDevice(target)
    if target.kind is TargetKind.MCU:
        raise DeviceError(f"{package.path}: target '{target.name}' has no emulator; name a device")
    from bitship.device.host import HostDevice

    return HostDevice(threads)


def bench(
    package: Package | str | Path,
    device: Device | None = None,
    runs: int = 20,
    warmup: int = 3,
    role: str | None = None,
    threads: int = 1,
) -> Report:
    """Run a package's golden vectors on a device, compare every bit, then measure.

    package  a Package or its folder
    device   where to run; this machine or the target's emulator when None
    runs     executions measured on the first random vector, after ``warmup`` unrecorded ones
    role     which artifact; the exact one when None. A tolerant one is measured with its difference stated.
    threads  how many a tvm package runs on, here; the report's environment says it. Only without a ``device``

    Raises BitsDifferError (and measures nothing) when an exact artifact gives other bits, naming the first.
    """
    if not isinstance(package, Package):
        package = Package.open(Path(package))
    if runs < 1:
        raise DeviceError(f"bench: {runs} runs; at least 1 is needed")
    if device is not None and threads != 1:
        raise DeviceError(f"bench: {threads} threads for device '{device.name}'; a device of one's own has its own")
    device = device or default_device(package, threads)
    artifact = package.artifact(role)
    inputs, wanted = package.vectors()
    with device.open(package, role) as session:
        bits = compare_bits(session.run(inputs), wanted, package, artifact.numerics)
        samples = session.measure(inputs[min(2, len(inputs) - 1)], runs, warmup)
    m = package.manifest
    return Report(
        schema=SCHEMA,
        package=m.name,
        target=m.target,
        device=device.name,
        converter=m.converter.value,
        artifact=artifact.role,
        numerics=artifact.numerics,
        graph_digest=m.graph_digest,
        macs=m.macs,
        footprint=m.footprint,
        bits=bits,
        samples=samples,
        environment=device.environment(),
        tools=m.tools,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        plan=(package.path / PICTURE).read_text() if PICTURE in m.files else "",
    )


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
