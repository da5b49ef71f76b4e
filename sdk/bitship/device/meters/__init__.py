"""Power meters: one driver a file, listed here. ``meter = { driver = "ppk2", ... }`` in devices.toml chooses."""

from bitship.device.meters.base import MeterDriver, PowerTrace, Recording
from bitship.device.meters.csv import CsvMeter

MeterSettings = CsvMeter

__all__ = ["MeterDriver", "MeterSettings", "PowerTrace", "Recording"]
