"""Consoles: one driver a file, listed here. ``driver = "serial"`` in devices.toml chooses."""

from bitship.device.console.base import Console, ConsoleDriver
from bitship.device.console.program import ProgramConsole
from bitship.device.console.qemu import QemuConsole
from bitship.device.console.serial import SerialConsole

ConsoleSettings = SerialConsole | QemuConsole | ProgramConsole

__all__ = ["Console", "ConsoleDriver", "ConsoleSettings"]
