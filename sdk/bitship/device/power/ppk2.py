"""A Power Profiler Kit II as a board's supply."""

import msgspec

from bitship.device.meters.ppk2 import Ppk2Mode, configure, opened, read_calibration

_POWER = 0x0C


class Ppk2Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="ppk2"):
    """A kit on a serial port; the same one may be the meter. ``supply_mv``: 800 to 5000."""

    port: str
    supply_mv: int = 3300
    mode: Ppk2Mode = Ppk2Mode.SOURCE

    def __post_init__(self) -> None:
        if not 800 <= self.supply_mv <= 5000:
            raise ValueError(f"supply_mv is {self.supply_mv}; 800 to 5000 are allowed")

    def set(self, on: bool) -> None:
        with opened(self.port) as line:
            read_calibration(line, self.port)
            configure(line, self.mode, self.supply_mv)
            line.write(bytes((_POWER, int(on))))
            line.flush()
