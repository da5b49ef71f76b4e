"""Any serial port that pyserial opens: a device, a pty, ``rfc2217://host:port``, ``socket://host:port``."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bitship.device.console.base import Console
from bitship.errors import DeviceError
from bitship.targets import Target

_RESET_SECONDS = 0.1
_WRITE_SECONDS = 10.0


class SerialConsole(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="serial"):
    """A serial port.

    port  a device's path or a URL of pyserial
    baud  None: what the target's firmware speaks
    """

    port: str
    baud: int | None = None

    @contextmanager
    def open(self, target: Target, image: Path) -> Iterator[Console]:
        import serial

        baud = self.baud or (target.uart.baud if target.uart else 115200)
        try:
            write_s = None if "://" in self.port else _WRITE_SECONDS  # remote ports know no deadline for writing
            line = serial.serial_for_url(self.port, baudrate=baud, timeout=0.1, write_timeout=write_s)
        except (serial.SerialException, ValueError, OSError) as e:
            raise DeviceError(f"{self.port}: cannot be opened: {e}; 'bitship devices --scan' lists the ports") from None
        try:
            yield _Line(self.port, line)
        finally:
            line.close()


class _Line:
    def __init__(self, port: str, line: Any) -> None:
        self._port = port
        self._line = line

    def write(self, data: bytes) -> None:
        import serial

        try:
            self._line.write(data)
            self._line.flush()
        except (serial.SerialException, OSError) as e:
            raise DeviceError(f"{self._port}: the line is gone: {e}") from None

    def read(self, deadline_s: float) -> bytes:
        import serial

        end = time.monotonic() + deadline_s
        try:
            while True:
                waiting = self._line.in_waiting
                data = bytes(self._line.read(waiting or 1))
                if data or time.monotonic() >= end:
                    return data
        except (serial.SerialException, OSError) as e:
            raise DeviceError(f"{self._port}: the line is gone: {e}") from None

    def reset(self) -> None:
        import serial

        try:
            self._line.dtr = False
            self._line.rts = True
            time.sleep(_RESET_SECONDS)
            self._line.rts = False
        except (serial.SerialException, OSError):  # a pty has no modem lines
            return
