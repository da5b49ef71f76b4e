"""Power switches: one driver a file, listed here. ``power = { driver = "script", ... }`` in devices.toml chooses."""

from bitship.device.power.base import PowerDriver
from bitship.device.power.script import ScriptPower

PowerSettings = ScriptPower

__all__ = ["PowerDriver", "PowerSettings"]
