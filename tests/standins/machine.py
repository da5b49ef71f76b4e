"""An emulated Cortex-M board seen from its debug port: memory through QEMU's qtest, run control through its gdbstub.

Models: every memory access with its side effects (flash controllers included), halt, resume, step, core registers,
breakpoints of the FPB, a breakpoint instruction in RAM, SYSRESETREQ with or without a catch of it, the ROM table. Time
is counted in instructions, as in the emulators of targets/.
Does not model: DWT, trace, semihosting, faults on bad addresses (they read as QEMU has them), core power states.
"""

import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CPUID = {"microbit": 0x410CC200, "mps2-an385": 0x412FC230, "mps2-an386": 0x410FC241}
IDCODE = {"microbit": 0x0BB11477, "mps2-an385": 0x4BA00477, "mps2-an386": 0x4BA00477}
AP_IDR = {"microbit": 0x04770021, "mps2-an385": 0x24770011, "mps2-an386": 0x24770011}
TABLE = 0xE00FF000
_SCS, _DWT, _FPB = 0xE000E000, 0xE0001000, 0xE0002000
_DHCSR, _DCRSR, _DCRDR, _DEMCR, _AIRCR, _CPUID, _DFSR = (
    0xE000EDF0, 0xE000EDF4, 0xE000EDF8, 0xE000EDFC, 0xE000ED0C, 0xE000ED00, 0xE000ED30,
)  # fmt: skip
_NVMC_CONFIG, _NVMC_ERASEALL = 0x4001E504, 0x4001E50C
_CLENR0 = 0x10000028  # QEMU's nRF51 says that region 0 is protected
_COMPARATORS = 4
_WAIT = 10.0


def _connect(path: Path, process: "subprocess.Popen[bytes]") -> socket.socket:
    end = time.monotonic() + _WAIT
    while True:
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(str(path))
            return s
        except OSError:
            s.close()
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"QEMU gave no socket {path.name}, exit code {process.poll()}") from None
            time.sleep(0.02)


class _Gdb:
    """A client of QEMU's gdbstub: packets with a checksum, one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._buffer, self._queue = sock, b"", list[bytes]()
        self.ask("qSupported")
        self.ask("qXfer:features:read:target.xml:0,ffb")  # before it, registers have no numbers

    def send(self, body: str) -> None:
        self._sock.sendall(f"${body}#{sum(body.encode()) & 0xFF:02x}".encode())

    def receive(self, wait_s: float) -> bytes | None:
        end = time.monotonic() + wait_s
        while not self._queue:
            start, stop = self._buffer.find(b"$"), self._buffer.find(b"#")
            if start >= 0 and stop > start and len(self._buffer) >= stop + 3:
                self._queue.append(self._buffer[start + 1 : stop])
                self._buffer = self._buffer[stop + 3 :]
                self._sock.sendall(b"+")
                continue
            if not select.select([self._sock], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            data = self._sock.recv(65536)
            if not data:
                raise RuntimeError("QEMU has gone")
            self._buffer = (self._buffer + data).lstrip(b"+")
        return self._queue.pop(0)

    def ask(self, body: str) -> str:
        self.send(body)
        answer = self.receive(_WAIT)
        if answer is None:
            raise RuntimeError(f"the gdbstub does not answer {body[:20]}")
        return answer.decode("latin-1")


class _Qtest:
    """A client of QEMU's qtest socket: reads and writes on the machine's bus."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rwb", buffering=0)

    def ask(self, line: str) -> str:
        self._file.write(line.encode() + b"\n")
        while True:
            words = self._file.readline().decode().split()
            if not words:
                raise RuntimeError("QEMU has gone")
            if words[0] == "OK":
                return words[1] if len(words) > 1 else ""
            if words[0] != "IRQ":
                raise RuntimeError(f"qtest: {line[:40]}: {' '.join(words)}")

    def read(self, address: int, size: int) -> int:
        return int(self.ask(f"read{' bwl'[size]} {address:#x}"), 16)

    def write(self, address: int, value: int, size: int) -> None:
        self.ask(f"write{' bwl'[size]} {address:#x} {value:#x}")


@dataclass
class Machine:
    """One QEMU machine, started halted with an endless loop at its vectors: an empty flash would lock the core up."""

    name: str
    options: Sequence[str] = ()
    own_gdb: bool = True  # False: the options give the gdbstub to somebody else
    halted: bool = field(default=True, init=False)

    def __enter__(self) -> "Machine":
        self._folder = tempfile.TemporaryDirectory(prefix="machine-")
        folder = Path(self._folder.name)
        program = shutil.which("qemu-system-arm")
        assert program is not None, "qemu-system-arm is not installed"
        gdb, qtest = folder / "gdb", folder / "qtest"
        command = [program, "-M", self.name, "-display", "none", "-monitor", "none", "-S"]
        if self.own_gdb:
            command += ["-chardev", f"socket,id=g,path={gdb},server=on,wait=off", "-gdb", "chardev:g"]
        command += ["-qtest", f"unix:{qtest},server=on,wait=off"]
        command += ["-qtest-log", "/dev/null", "-accel", "tcg", "-icount", "shift=6,sleep=off", *self.options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._qtest = _Qtest(_connect(qtest, self.process))
            if not self.own_gdb:
                self._loop()
                return self
            self._gdb = _Gdb(_connect(gdb, self.process))
            self._registers: dict[int, int] = {}
            self._stops: set[int] = set()
            self._planted: set[int] = set()
            self._comparators = [0] * _COMPARATORS
            self._fpb, self._dcrdr, self._demcr, self._dfsr, self._debug = 0, 0, 0, 0, 0
            self._reset_seen = self._asked_halt = False
            self._loop()
            self._gdb.ask(f"qRcmd,{b'system_reset'.hex()}")
            self._settle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()

    def _loop(self) -> None:
        """Plant a stack, a reset vector and a branch to itself."""
        nrf = self.name == "microbit"
        if nrf:  # QEMU's flash begins as zeros: erase it, then write
            for register, value in ((_NVMC_CONFIG, 2), (_NVMC_ERASEALL, 1), (_NVMC_CONFIG, 1)):
                self._qtest.write(register, value, 3)
        for address, word in ((0, 0x20001000), (4, 9), (8, 0xE7FEE7FE), (12, 0xE7FEE7FE)):
            self._qtest.write(address, word, 3)
        if nrf:
            self._qtest.write(_NVMC_CONFIG, 0, 3)

    # run control

    def _settle(self) -> None:
        """Wait for the reset, which QEMU's main loop does on its own time."""
        time.sleep(0.05)
        self._registers.clear()

    def poll(self) -> bool:
        """Return whether the core is halted, after looking for a stop."""
        if not self.halted and self._gdb.receive(0.0) is not None:
            self._stopped(2)
        return self.halted

    def _stopped(self, reason: int) -> None:
        self.halted = True
        self._dfsr |= reason
        for address in self._stops:
            self._gdb.ask(f"z1,{address:x},2")
        self._stops.clear()

    def halt(self) -> None:
        """Stop the core."""
        if not self.poll():
            self._gdb._sock.sendall(b"\x03")
            assert self._gdb.receive(_WAIT) is not None, "QEMU does not stop"
            self._stopped(1)

    def resume(self) -> None:
        """Let the core run, with every breakpoint set."""
        if not self.halted:
            return
        self._flush()
        self._stops = {a for a in self._planted if self._qtest.read(a, 2) >> 8 == 0xBE} | self._hardware()
        for address in self._stops:
            self._gdb.ask(f"Z1,{address:x},2")
        self.halted = False
        self._gdb.send("c")

    def step(self) -> None:
        """Run one instruction."""
        self._flush()
        self._gdb.ask("s")
        self._dfsr |= 1

    def reset(self, halt: bool) -> None:
        """Reset the whole board; the memory of its flash stays."""
        self.halt()
        self._registers.clear()
        self._gdb.ask(f"qRcmd,{b'system_reset'.hex()}")
        self._settle()
        self._planted.clear()
        self._reset_seen = True
        if halt:
            self._dfsr |= 8
        else:
            self.resume()

    def _hardware(self) -> set[int]:
        if not self._fpb & 1:
            return set()
        found = set()
        for value in self._comparators:
            if value & 1:
                base = value & 0x1FFFFFFC
                found |= {base + 2 * half for half in (0, 1) if value >> 30 & 1 << half}
        return found

    def _register(self, number: int) -> int:
        if number not in self._registers:
            known = {**{n: n for n in range(16)}, 16: 25, 17: 13}
            wire = known.get(number)
            answer = "00000000" if wire is None else self._gdb.ask(f"p{wire:x}")
            self._registers[number] = int.from_bytes(bytes.fromhex(answer)[:4], "little")
        return self._registers[number]

    def _flush(self) -> None:
        for number, value in self._registers.items():
            wire = {16: 25}.get(number, number)
            if wire < 16 or wire == 25:
                self._gdb.ask(f"P{wire:x}={value.to_bytes(4, 'little').hex()}")
        self._registers.clear()

    # memory, with the debugger's own registers

    def read(self, address: int, size: int = 3) -> int:
        """Return 1, 2 or 4 bytes (size 1, 2, 3), little endian."""
        if address >= TABLE < TABLE + 0x1000:
            return self._table(address - TABLE)
        if _FPB <= address < _FPB + 0x1000:
            return self._unit(address - _FPB, 0x00B, (self._fpb & 1) | _COMPARATORS << 4, self._comparators)
        if _DWT <= address < _DWT + 0x1000:
            return self._unit(address - _DWT, 0x00A, 0, [])
        special: dict[int, Callable[[], int]] = {
            _DHCSR: self._dhcsr,
            _DCRDR: lambda: self._dcrdr,
            _DEMCR: lambda: self._demcr,
            _DFSR: lambda: self._dfsr,
            _CPUID: lambda: CPUID[self.name],
        }
        if self.name == "microbit":
            special[_CLENR0] = lambda: 0xFFFFFFFF
        if address in special:
            return special[address]()
        if _SCS + 0xFD0 <= address < _SCS + 0x1000:
            return self._unit(address - _SCS, 0x008 if self.name == "microbit" else 0x00C, 0, [])
        return self._qtest.read(address, size)

    def write(self, address: int, value: int, size: int = 3) -> None:
        """Write 1, 2 or 4 bytes."""
        special = {
            _DHCSR: self._control,
            _DCRSR: self._select,
            _DCRDR: lambda v: setattr(self, "_dcrdr", v),
            _DEMCR: lambda v: setattr(self, "_demcr", v),
            _DFSR: lambda v: setattr(self, "_dfsr", self._dfsr & ~v),
            _AIRCR: self._request,
        }.get(address)
        if special is not None:
            special(value)
        elif _FPB <= address < _FPB + 0x1000:
            self._breakpoint(address - _FPB, value)
        elif not (_DWT <= address < _DWT + 0x1000 or address >= TABLE):
            self._qtest.write(address, value, size)
            for half in range(0, 1 << (size - 1), 2):
                if 0x20000000 <= address < 0x30000000 and value >> 8 * half & 0xFF00 == 0xBE00:
                    self._planted.add(address + half)

    def _request(self, value: int) -> None:
        if value >> 16 == 0x05FA and value & 5:
            self.reset(bool(self._demcr & 1 and self._debug & 1))

    def _dhcsr(self) -> int:
        halted = self.poll()
        value = self._debug & 0xF | 1 << 16 | halted << 17 | self._reset_seen << 25
        self._reset_seen = False
        return value

    def _control(self, value: int) -> None:
        if value >> 16 != 0xA05F:
            return
        self._debug = value & 0xF
        if value & 3 == 3:
            self.halt()
        elif self.halted and value & 4:
            self.step()
        else:
            self.resume()

    def _select(self, value: int) -> None:
        number = value & 0x7F
        self.halt()
        if value >> 16 & 1:
            self._register(number)
            self._registers[number] = self._dcrdr
            if number == 17:
                self._registers[13] = self._dcrdr
        else:
            self._dcrdr = self._register(number)

    def _breakpoint(self, offset: int, value: int) -> None:
        if offset == 0 and value & 2:
            self._fpb = value & 1
        elif 8 <= offset < 8 + 4 * _COMPARATORS:
            self._comparators[(offset - 8) // 4] = value

    def _unit(self, offset: int, part: int, control: int, comparators: Sequence[int]) -> int:
        """A CoreSight component's registers: control, comparators, identification."""
        if offset == 0:
            return control
        if 8 <= offset < 8 + 4 * len(comparators):
            return comparators[(offset - 8) // 4]
        return _identity(offset, part, 0xE)

    def _table(self, offset: int) -> int:
        entries = [(unit - TABLE & 0xFFFFF000) | 3 for unit in (_SCS, _DWT, _FPB)]
        if offset < 4 * len(entries):
            return entries[offset // 4]
        return 1 if offset == 0xFCC else _identity(offset, 0x471 if self.name == "microbit" else 0x4C4, 1)


def _identity(offset: int, part: int, kind: int) -> int:
    """PIDR4..7, PIDR0..3, CIDR0..3 of a component of Arm's."""
    ids = [4, 0, 0, 0, part & 0xFF, 0xB0 | part >> 8, 0x0B, 0, 0x0D, kind << 4, 5, 0xB1]
    return ids[(offset - 0xFD0) // 4] if offset >= 0xFD0 else 0
