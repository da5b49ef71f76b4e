"""Power switches: one driver a file, listed here. ``power = { driver = "uhubctl", ... }`` in devices.toml chooses."""

from bitship.device.power.base import PowerDriver
from bitship.device.power.labgrid import LabgridPower
from bitship.device.power.ppk2 import Ppk2Power
from bitship.device.power.script import ScriptPower
from bitship.device.power.uhubctl import UhubctlPower

PowerSettings = ScriptPower | UhubctlPower | LabgridPower | Ppk2Power

__all__ = ["LabgridPower", "PowerDriver", "PowerSettings", "Ppk2Power", "ScriptPower", "UhubctlPower"]
