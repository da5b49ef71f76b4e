"""Flashers: one driver a file, listed here. ``flasher = { driver = "script", ... }`` in devices.toml chooses."""

from bitship.device.flash.base import FlasherDriver, Progress
from bitship.device.flash.script import ScriptFlasher

FlasherSettings = ScriptFlasher

__all__ = ["FlasherDriver", "FlasherSettings", "Progress"]
