"""Transfers: one driver a file, listed here. ``transfer = { driver = "ssh", ... }`` in devices.toml chooses."""

from bitship.device.transfer.base import Completed, Transfer, TransferDriver
from bitship.device.transfer.local import LocalTransfer

TransferSettings = LocalTransfer

__all__ = ["Completed", "Transfer", "TransferDriver", "TransferSettings"]
