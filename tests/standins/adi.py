"""Arm's debug interface (ADIv5) in front of a machine: a debug port and one AHB access port."""

from dataclasses import dataclass, field

from standins.machine import AP_IDR, IDCODE, TABLE, Machine

CSW_FIXED = 0x23000040
OK = 2  # of a JTAG acknowledgement


@dataclass
class DebugPort:
    """SW-DP or JTAG-DP registers and AP 0. The address wraps within 1 KiB (M0) or 4 KiB, as the real ones do."""

    machine: Machine
    select: int = 0
    control: int = 0
    csw: int = CSW_FIXED | 2
    tar: int = 0
    last: int = field(default=0)

    def read_dp(self, address: int) -> int:
        """IDR, CTRL/STAT, SELECT, RDBUFF."""
        if address == 0:
            return IDCODE[self.machine.name]
        if address == 4:
            acknowledged = (self.control & 0x50000000) << 1
            return 0 if self.select & 0xF else self.control & 0x50000000 | acknowledged | 0x40
        return self.select if address == 8 else self.last

    def write_dp(self, address: int, value: int) -> None:
        """CTRL/STAT and SELECT; ABORT has nothing to clear."""
        if address == 4 and self.select & 0xF == 0:
            self.control = value
        elif address == 8:
            self.select = value

    def read_ap(self, address: int) -> int:
        """A register of the selected AP; only AP 0 is there. ``address`` 0 to 12 within the bank."""
        self.last = self._read(address & 0xC | self.select & 0xF0) if self.select >> 24 == 0 else 0
        return self.last

    def _read(self, register: int) -> int:
        fixed = {0x00: self.csw, 0x04: self.tar, 0xF4: 0, 0xF8: TABLE | 3, 0xFC: AP_IDR[self.machine.name]}
        if register == 0x0C:
            value = self.machine.read(self.tar, self._size) << 8 * (self.tar & 3) & 0xFFFFFFFF
            self._advance()
            return value
        if register & 0xF0 == 0x10:
            return self.machine.read(self.tar & ~0xF | register & 0xC)
        return fixed.get(register, 0)

    def write_ap(self, address: int, value: int) -> None:
        """Write a register of the selected AP."""
        if self.select >> 24:
            return
        register = address & 0xC | self.select & 0xF0
        if register == 0x00:
            packed = value >> 4 & 3 == 2  # not supported: reads back as no increment
            self.csw = (value & ~0x30 if packed else value) | 0x40
        elif register == 0x04:
            self.tar = value
        elif register == 0x0C:
            lanes = value >> 8 * (self.tar & 3) & (1 << 8 * (1 << self._size - 1)) - 1
            self.machine.write(self.tar, lanes, self._size)
            self._advance()
        elif register & 0xF0 == 0x10:
            self.machine.write(self.tar & ~0xF | register & 0xC, value)

    @property
    def _size(self) -> int:
        return min(self.csw & 7, 2) + 1

    def _advance(self) -> None:
        if self.csw >> 4 & 3 == 1:
            page = 0x3FF if self.machine.name == "microbit" else 0xFFF
            self.tar = self.tar & ~page | (self.tar + (1 << self._size - 1)) & page
