"""The firmware converter: ahead-of-time C, straight-line kernel calls, constants in flash, one static arena."""

from bitship.converters.firmware.convert import FirmwareConverter
from bitship.converters.firmware.session import open_session

__all__ = ["FirmwareConverter", "open_session"]
