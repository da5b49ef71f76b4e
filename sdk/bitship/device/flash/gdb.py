"""gdb's ``load`` through any gdb server: J-Link, pyOCD, OpenOCD, QEMU, a vendor's."""

import re
from pathlib import Path

import msgspec

from bitship.device.flash.base import Progress, facts
from bitship.device.flash.elf import read_image
from bitship.device.process import find_tool, run_tool
from bitship.errors import DeviceError
from bitship.targets import Target
from bitship.targets.flashers import GdbTool

INSTALL = "apt-get install gdb-multiarch"
_HINTS = (("connection refused", "start the gdb server, or correct 'server'"),)
_FAILED = re.compile(r"(Connection refused|could not connect|MIS-MATCHED|Load failed|Remote .*closed|timed out)", re.I)


class GdbFlasher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="gdb"):
    """A gdb server.

    server  ``host:port``
    before  commands of the server before the load, such as ``reset halt``
    after   the same after it, such as ``reset run``; without, gdb sets stack pointer and entry, and lets the core run
    program the debugger
    """

    server: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    program: str = "gdb-multiarch"
    deadline_s: float = 300.0

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        facts(target, GdbTool, "gdb")
        entry = read_image(image).entry
        words = [find_tool(self.program, INSTALL), "-nx", "-batch"]
        commands = [
            "set confirm off",
            "set remotetimeout 10",
            "set tcp auto-retry off",
            f"target extended-remote {self.server}",
        ]
        commands += [f"monitor {c}" for c in self.before]
        commands += ["load", "compare-sections"]
        commands += [f"monitor {c}" for c in self.after] or _start(target, entry)
        for command in (*commands, "detach"):
            words += ["-ex", command]
        said = run_tool([*words, str(image)], self.deadline_s, hints=_HINTS)
        wrong = _FAILED.search(said)
        if wrong is not None or "Transfer rate" not in said:
            line = next((x for x in said.splitlines() if wrong and wrong[0] in x), "nothing was loaded")
            hint = f"; {_HINTS[0][1]}" if "refused" in line else "; flash it again"
            raise DeviceError(f"gdb: {self.server}: {line.strip()}{hint}")
        if progress is not None:
            progress(1.0)


def _start(target: Target, entry: int) -> list[str]:
    """Commands that start the image as a reset would: stack pointer and entry of a Cortex-M's table, else the entry."""
    if target.cpu.startswith("cortex-m") and target.flash is not None:
        table = f"{target.flash.origin:#x}"
        return [f"set $sp = *(unsigned *){table}", f"set $pc = *(unsigned *)({table} + 4) & ~1"]
    return [f"set $pc = {entry:#x}"]
