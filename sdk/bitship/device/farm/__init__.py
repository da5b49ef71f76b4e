"""Farms: one driver a file, listed here. ``farm = { driver = "labgrid", ... }`` in devices.toml chooses."""

from bitship.device.farm.base import FarmDriver, Lease, Resource
from bitship.device.farm.labgrid import LabgridFarm

FarmSettings = LabgridFarm

__all__ = ["FarmDriver", "FarmSettings", "LabgridFarm", "Lease", "Resource"]
