"""Transfers: one driver a file, listed here. ``transfer = { driver = "ssh", ... }`` in devices.toml chooses."""

from bitship.device.transfer.adb import AdbTransfer
from bitship.device.transfer.base import Completed, Transfer, TransferDriver
from bitship.device.transfer.local import LocalTransfer
from bitship.device.transfer.ssh import SshTransfer

TransferSettings = LocalTransfer | SshTransfer | AdbTransfer

__all__ = ["AdbTransfer", "Completed", "LocalTransfer", "SshTransfer", "Transfer", "TransferDriver", "TransferSettings"]
