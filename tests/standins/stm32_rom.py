"""The serial loader in the ROM of an STM32 (AN3155) on a serial line, for the real stm32flash.

Models: the start byte, get, get version, get id, read, write, extended erase of pages, go; checksums are checked. Not
modelled: parity (a pty has none), read-out protection, write protection, real speeds.
"""

from dataclasses import dataclass, field
from functools import reduce

from standins.ports import Read, Write

ACK, NACK = b"\x79", b"\x1f"
GET, VERSION, ID, READ, GO, WRITE, EXTENDED_ERASE = 0x00, 0x01, 0x02, 0x11, 0x21, 0x31, 0x44
ORIGIN = 0x08000000


class _WrongError(Exception):
    """A checksum that does not hold, or an address outside."""


def _xor(data: bytes) -> int:
    return reduce(lambda a, b: a ^ b, data, 0)


@dataclass
class Stm32Rom:
    """``pid`` 0x470: STM32L4R5. ``started``: the address of the last go; ``spoil``: an offset that stays wrong."""

    pid: int = 0x470
    page: int = 4096
    flash: bytearray = field(default_factory=lambda: bytearray(b"\xff" * (2 << 20)))
    started: int | None = None
    spoil: int | None = None

    def run(self, read: Read, write: Write) -> None:
        """Answer until the line closes."""
        while read(1) != b"\x7f":
            pass
        write(ACK)
        while True:
            command = read(1)[0]
            if command == 0x7F and self.started is None:
                write(NACK)  # a second start byte is taken as a command
                continue
            try:
                if read(1)[0] != command ^ 0xFF:
                    raise _WrongError
                self._handle(command, read, write)
            except _WrongError:
                write(NACK)

    def _handle(self, command: int, read: Read, write: Write) -> None:
        known = bytes((GET, VERSION, ID, READ, GO, WRITE, EXTENDED_ERASE))
        if command not in known:
            raise _WrongError
        write(ACK)
        if command == GET:
            write(bytes([len(known), 0x31]) + known + ACK)
        elif command == VERSION:
            write(b"\x31\0\0" + ACK)
        elif command == ID:
            write(bytes([1]) + self.pid.to_bytes(2, "big") + ACK)
        elif command == EXTENDED_ERASE:
            self._erase(read)
            write(ACK)
        else:
            self._memory(command, self._address(read), read, write)

    def _memory(self, command: int, address: int, read: Read, write: Write) -> None:
        write(ACK)
        if command == GO:
            self.started = address
            return
        count = read(1)[0]
        if command == READ:
            if read(1)[0] != count ^ 0xFF:
                raise _WrongError
            write(ACK + self._bytes(address, count + 1))
            return
        data = read(count + 1)
        if read(1)[0] != count ^ _xor(data):
            raise _WrongError
        at = address - ORIGIN
        if not 0 <= at <= len(self.flash) - len(data):
            raise _WrongError
        self.flash[at : at + len(data)] = bytes(a & b for a, b in zip(self.flash[at:], data, strict=False))
        if self.spoil is not None and at <= self.spoil < at + len(data):
            self.flash[self.spoil] ^= 0x10
        write(ACK)

    def _bytes(self, address: int, count: int) -> bytes:
        at = address - ORIGIN
        return bytes(self.flash[at : at + count]) if 0 <= at < len(self.flash) else bytes(count)

    def _address(self, read: Read) -> int:
        body = read(4)
        if read(1)[0] != _xor(body):
            raise _WrongError
        return int.from_bytes(body, "big")

    def _erase(self, read: Read) -> None:
        count = read(2)
        body = b"" if count == b"\xff\xff" else read(2 * (int.from_bytes(count, "big") + 1))
        if read(1)[0] != _xor(count + body):
            raise _WrongError
        if not body:
            self.flash[:] = b"\xff" * len(self.flash)
        for i in range(0, len(body), 2):
            at = int.from_bytes(body[i : i + 2], "big") * self.page
            self.flash[at : at + self.page] = b"\xff" * self.page
