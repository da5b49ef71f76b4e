"""Power meters: one driver a file, listed here. ``meter = { driver = "ppk2", ... }`` in devices.toml chooses."""

from bitship.device.meters.base import MeterDriver, PowerTrace, Recording
from bitship.device.meters.csv import CsvMeter
from bitship.device.meters.joulescope import JoulescopeMeter
from bitship.device.meters.lpm01a import Lpm01aMeter
from bitship.device.meters.monsoon import MonsoonMeter
from bitship.device.meters.ppk2 import Ppk2Meter
from bitship.device.meters.sysfs import SysfsMeter

MeterSettings = CsvMeter | JoulescopeMeter | Lpm01aMeter | MonsoonMeter | Ppk2Meter | SysfsMeter

__all__ = [
    "CsvMeter",
    "JoulescopeMeter",
    "Lpm01aMeter",
    "MeterDriver",
    "MeterSettings",
    "MonsoonMeter",
    "PowerTrace",
    "Ppk2Meter",
    "Recording",
    "SysfsMeter",
]
