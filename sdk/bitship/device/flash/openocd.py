"""OpenOCD, run as a program: any adapter it knows."""

from pathlib import Path

import msgspec

from bitship.device.flash.base import Progress, facts
from bitship.device.flash.elf import read_image
from bitship.device.process import find_tool, run_tool
from bitship.errors import DeviceError
from bitship.targets import Target
from bitship.targets.flashers import OpenocdTool

INSTALL = "apt-get install openocd"
_HINTS = (
    ("unable to open", "connect the adapter, or correct 'interface' and 'serial'"),
    ("unable to find a matching", "connect the adapter; 'bitship devices --scan' lists those that are seen"),
    ("failed to connect", "start the adapter's server, or correct 'commands'"),
    ("can't find", "OpenOCD has no such file; its scripts folder lists interface/ and target/"),
    ("libusb_open() failed", "allow USB access to this user: OpenOCD's udev rules (60-openocd.rules)"),
)


class OpenocdFlasher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="openocd"):
    """A debug adapter.

    interface  OpenOCD's file of the adapter, such as ``interface/stlink.cfg``
    serial     the adapter's serial number; None: the only one
    commands   OpenOCD commands before the chip's file (``adapter speed 4000``), or in place of ``interface``
    config     files of the chip; empty: those in target.toml
    """

    interface: str | None = None
    serial: str | None = None
    commands: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    deadline_s: float = 300.0

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        if self.interface is None and not self.commands:
            raise DeviceError("flasher 'openocd': neither 'interface' nor 'commands' say which adapter; name one")
        read_image(image)
        tool = facts(target, OpenocdTool, "openocd")
        if not self.config and not tool.config:
            raise DeviceError(f"flasher 'openocd': OpenOCD has no file for {target.name}; name one as 'config'")
        words = [find_tool("openocd", INSTALL)]
        words += ["-f", self.interface] if self.interface else []
        words += ["-c", f"adapter serial {self.serial}"] if self.serial else []
        for command in ("gdb_port disabled", "tcl_port disabled", "telnet_port disabled", *self.commands):
            words += ["-c", command]
        for name in self.config or tool.config:
            own = target.folder / name
            words += ["-f", str(own if own.is_file() else name)]
        path = f"{{{image.resolve()}}}"
        if tool.ram:
            last = f"init; reset halt; load_image {path}; verify_image {path}; reset run; shutdown"
        else:
            last = f"program {path} verify reset exit"
        said = run_tool([*words, "-c", last], self.deadline_s, hints=_HINTS)
        if not tool.ram and "** Verified OK **" not in said:
            raise DeviceError(f"openocd: {image}: nothing was verified; flash it again")
        if progress is not None:
            progress(1.0)
