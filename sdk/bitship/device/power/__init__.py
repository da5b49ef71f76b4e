"""Power switches: one driver a file, listed here. ``power = { driver = "script", ... }`` in devices.toml chooses."""

from bitship.device.power.base import PowerDriver
from bitship.device.power.ppk2 import Ppk2Power
from bitship.device.power.script import ScriptPower

PowerSettings = ScriptPower | Ppk2Power

__all__ = ["PowerDriver", "PowerSettings", "Ppk2Power", "ScriptPower"]
