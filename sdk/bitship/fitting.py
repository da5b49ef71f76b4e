"""What a model needs on a microcontroller under every schedule worth having: RAM, flash, instructions."""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bitship import targets
from bitship.converters.firmware import FirmwareConverter
from bitship.converters.firmware.cores import core_of
from bitship.converters.firmware.fit import Option, options, pareto
from bitship.device.qemu import QemuDevice
from bitship.errors import DeviceError, TargetError
from bitship.graph import Graph, verify
from bitship.package import golden_inputs
from bitship.targets import Memory, Target, TargetKind


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
    progress: Callable[[str], None] = lambda _: None,
) -> list[Fit]:
    """Return the Pareto set (RAM, instructions) of a graph's schedules on a target, the fastest first.

    ram       bytes of RAM to count with; None: the target's
    simulate  count instructions where the target is emulated; wrong bits are a DeviceError
    most      how many schedules are built
    progress  told what is being done

    Raises TargetError for a target without firmware, UnsupportedError, MissingDependencyError.
    """
    found = targets.load(target) if isinstance(target, str) else target
    if found.kind is not TargetKind.MCU or found.ram is None or found.flash is None:
        raise TargetError(f"target '{found.name}': schedules are for microcontrollers; 'bitship targets' lists them")
    verify(graph)
    progress("planning schedules")
    every = [o for streamed in (False, True) for o in options(graph, core_of(found), streamed)]
    chosen = _spread(pareto(every), most)

    def built(option: Option) -> Fit:
        progress(f"building: {option.title}")
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
    allowed = target.ram.nbytes if ram is None and target.ram else ram or 0
    wide = msgspec.structs.replace(target, flash=_wide(target.flash), ram=_wide(target.ram))
    with tempfile.TemporaryDirectory(prefix="bitship-") as name:
        footprint = FirmwareConverter(option.stage).convert(graph, wide, Path(name)).footprint
        flash = footprint.weights_bytes + (footprint.code_bytes or 0)
        stack = footprint.stack_bytes or 0
        fits = footprint.arena_bytes + stack <= allowed and flash <= (target.flash.nbytes if target.flash else 0)
        streamed = option.stage is not None and option.stage.streamed
        made = Fit(option.title, streamed, footprint.arena_bytes, stack, flash, option.macs, fits)
        emulated = simulate and target.emulator is not None and _loads(target, made)
        return msgspec.structs.replace(made, instructions=_count(graph, target, Path(name)) if emulated else None)


def _wide(memory: Memory | None) -> Memory | None:
    return None if memory is None else msgspec.structs.replace(memory, nbytes=1 << 27)


def _loads(target: Target, made: Fit) -> bool:
    """Whether the emulated board has the memory, whatever RAM is counted with."""
    assert target.ram is not None
    assert target.flash is not None
    return made.ram + 4096 <= target.ram.nbytes and made.flash <= target.flash.nbytes


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


def _has_room(target: Target, made: Fit) -> bool:
    if target.ram is None or target.flash is None:
        return False
    return made.ram <= target.ram.nbytes and made.flash <= target.flash.nbytes
