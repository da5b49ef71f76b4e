"""What a model needs on a microcontroller under every schedule worth having: RAM, flash, instructions."""

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bitship import targets
from bitship.converters.firmware import FirmwareConverter
from bitship.converters.firmware.cores import core_of
from bitship.converters.firmware.fit import Option, options, pareto
from bitship.converters.firmware.program import lower_calls
from bitship.device.qemu import QemuDevice
from bitship.errors import DeviceError, TargetError
from bitship.graph import Graph, verify
from bitship.package import golden_inputs
from bitship.targets import Memory, Target, TargetKind

STACK_BYTES = 4096  # what the boards' linker scripts reserve


class Fit(msgspec.Struct, frozen=True):
    """One schedule of a graph on a target.

    schedule      in words; streamed  whether the image arrives by rows
    arena, stack  bytes of RAM; the stack as the compiler's call graph bounds it
    flash         bytes of code and constants
    macs          of one inference, halo included
    instructions  of one inference, simulated; None where the target has no emulator or was not asked
    fits          whether RAM and flash suffice
    """

    schedule: str
    streamed: bool
    arena: int
    stack: int
    flash: int
    macs: int
    fits: bool
    instructions: int | None = None

    @property
    def ram(self) -> int:
        """Arena and stack in bytes."""
        return self.arena + self.stack


def fit(
    graph: Graph,
    target: str | Target,
    ram: int | None = None,
    simulate: bool = True,
    most: int = 8,
) -> list[Fit]:
    """Return the Pareto set (RAM, instructions) of a graph's schedules on a target, the fastest first.

    ram       bytes of RAM to count with; None: the target's
    simulate  count instructions where the target is emulated; wrong bits are a DeviceError
    most      how many schedules are built

    Raises TargetError for a target without firmware, UnsupportedError, MissingDependencyError.
    """
    found = targets.load(target) if isinstance(target, str) else target
    if found.kind is not TargetKind.MCU or found.ram is None or found.flash is None:
        raise TargetError(f"target '{found.name}': schedules are for microcontrollers; 'bitship targets' lists them")
    verify(graph)
    lowered = lower_calls(graph, core_of(found))
    chosen = _spread(pareto([*options(lowered), *options(lowered, streamed=True)]), most)

    def built(option: Option) -> Fit:
        return _built(graph, found, option, ram, simulate)

    with ThreadPoolExecutor(2) as pool:
        return sorted(pool.map(built, chosen), key=lambda f: (f.instructions or 0, -f.ram))


def _spread(found: Sequence[Option], most: int) -> list[Option]:
    """Return at most so many: the smallest, the cheapest, and between them those that save the most RAM."""
    kept = list(found) if most > 1 else list(found[-1:])
    while len(kept) > max(most, 2):
        saving = {i: kept[i - 1].arena - kept[i].arena for i in range(1, len(kept) - 1)}
        del kept[min(saving, key=lambda i: saving[i])]
    return kept


def _built(graph: Graph, target: Target, option: Option, ram: int | None, simulate: bool) -> Fit:
    wide = msgspec.structs.replace(target, flash=_wide(target.flash), ram=_wide(target.ram))
    with tempfile.TemporaryDirectory(prefix="bitship-") as name:
        footprint = FirmwareConverter(option.stage).convert(graph, wide, Path(name)).footprint
        flash = footprint.weights_bytes + (footprint.code_bytes or 0)
        stack = footprint.stack_bytes or 0
        streamed = option.stage is not None and option.stage.streamed
        made = Fit(option.title, streamed, footprint.arena_bytes, stack, flash, option.macs, fits=False)
        made = msgspec.structs.replace(made, fits=_has_room(target, made, ram))
        if not simulate or target.emulator is None or not _has_room(target, made, _loadable(target)):
            return made
        return msgspec.structs.replace(made, instructions=_count(graph, target, Path(name)))


def _wide(memory: Memory | None) -> Memory | None:
    return None if memory is None else msgspec.structs.replace(memory, nbytes=1 << 27)


def _loadable(target: Target) -> int:
    """Return the RAM that arena and stack may take on the emulated board, whatever RAM is counted with."""
    return target.ram.nbytes - STACK_BYTES if target.ram else 0


def _count(graph: Graph, target: Target, folder: Path) -> int | None:
    row = golden_inputs(graph, 3)[-1]
    result = QemuDevice(target).run(folder / "model.elf", graph, [row])
    for port, value, wanted in zip(graph.outputs, result.outputs[0], graph.run(*row), strict=True):
        if not (value == wanted).all():
            raise DeviceError(f"{target.name}: output '{port.name}' differs from the graph's; report this as a defect")
    return result.instructions[0] if result.instructions else None


def roomier(found: Sequence[Fit]) -> list[str]:
    """Return the targets whose RAM and flash take one of these schedules."""
    boards = [targets.load(name) for name in targets.names()]
    return [t.name for t in boards if t.kind is TargetKind.MCU and any(_has_room(t, f) for f in found)]


def _has_room(target: Target, made: Fit, ram: int | None = None) -> bool:
    """Whether flash and RAM suffice, counting with ``ram`` bytes where given."""
    if target.ram is None or target.flash is None:
        return False
    return made.ram <= (target.ram.nbytes if ram is None else ram) and made.flash <= target.flash.nbytes
