"""Flashers: one driver a file, listed here. ``flasher = { driver = "pyocd", ... }`` in devices.toml chooses."""

from bitship.device.flash.base import FlasherDriver, Progress
from bitship.device.flash.bossac import BossacFlasher
from bitship.device.flash.esptool import EsptoolFlasher
from bitship.device.flash.gdb import GdbFlasher
from bitship.device.flash.openocd import OpenocdFlasher
from bitship.device.flash.pyocd import PyocdFlasher
from bitship.device.flash.script import ScriptFlasher
from bitship.device.flash.smp import SmpFlasher
from bitship.device.flash.stm32 import Stm32Flasher
from bitship.device.flash.uf2 import Uf2Flasher

FlasherSettings = (
    PyocdFlasher
    | OpenocdFlasher
    | GdbFlasher
    | EsptoolFlasher
    | Stm32Flasher
    | Uf2Flasher
    | SmpFlasher
    | BossacFlasher
    | ScriptFlasher
)

__all__ = ["FlasherDriver", "FlasherSettings", "Progress"]
