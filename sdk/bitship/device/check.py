"""What the units of a desk lack on this machine: programs, ports, permissions."""

import os
import shutil
from pathlib import Path

import msgspec

from bitship.device import flash
from bitship.device.desk import Desk, Drivers, Unit

# program and how to install it, by (key of the unit, driver)
PROGRAMS: dict[tuple[str, str], tuple[str, str]] = {
    ("flasher", "pyocd"): ("pyocd", flash.pyocd.INSTALL),
    ("flasher", "openocd"): ("openocd", flash.openocd.INSTALL),
    ("flasher", "gdb"): ("gdb-multiarch", flash.gdb.INSTALL),
    ("flasher", "esptool"): ("esptool", flash.esptool.INSTALL),
    ("flasher", "stm32"): ("stm32flash", flash.stm32.INSTALL),
    ("flasher", "smp"): ("smpmgr", flash.smp.INSTALL),
    ("flasher", "bossac"): ("bossac", flash.bossac.INSTALL),
    ("transfer", "ssh"): ("ssh", "apt-get install openssh-client"),
    ("transfer", "adb"): ("adb", "apt-get install adb"),
    ("power", "uhubctl"): ("uhubctl", "apt-get install uhubctl"),
    ("power", "labgrid"): ("labgrid-client", "pip install labgrid, in an environment of its own"),
}


class Lack(msgspec.Struct, frozen=True):
    """One thing a unit lacks, and what to do."""

    unit: str
    what: str
    todo: str


def lacks(desk: Desk) -> list[Lack]:
    """Return what the units of a desk lack here, in order."""
    return [lack for unit in desk.device for lack in _unit(unit)]


def _unit(unit: Unit) -> list[Lack]:
    found = []
    for field in msgspec.structs.fields(Drivers):
        driver = getattr(unit, field.name, None)
        if driver is None or not isinstance(driver, msgspec.Struct):
            continue
        tag = str(driver.__struct_config__.tag)
        program, install = PROGRAMS.get((field.name, tag), ("", ""))
        program = getattr(driver, "program", program) or program
        if program and shutil.which(program) is None:
            found.append(Lack(unit.name, f"{field.name}: {program} is not installed", install or "install it"))
        port = getattr(driver, "port", None)
        if isinstance(port, str) and port.startswith("/"):
            found += _port(unit.name, field.name, Path(port))
    return found


def _port(unit: str, key: str, port: Path) -> list[Lack]:
    if not port.exists():
        return [Lack(unit, f"{key}: {port} is not there", "connect it; 'bitship devices --scan' lists the ports")]
    if not os.access(port, os.R_OK | os.W_OK):
        return [
            Lack(unit, f"{key}: {port} is not open to this user", f"sudo usermod -aG {_group(port)} $USER, log in anew")
        ]
    return []


def _group(port: Path) -> str:
    """Return the name of the group that may use a port."""
    try:
        return port.group()
    except (KeyError, OSError):
        return "dialout"
