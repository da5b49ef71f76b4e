"""A debug probe with an emulated board on it: ``python -m standins.probe pyocd|openocd MACHINE PORT``, in tests/.

pyocd    the line-JSON protocol of pyOCD's remote probes
openocd  OpenOCD's remote_bitbang: JTAG pins, one character a state; the TAP has IDCODE, DPACC, APACC, ABORT and BYPASS

Further words are QEMU's (``-serial tcp:...``). One client at a time; it listens on 127.0.0.1 alone. When a client
leaves, the core is let run. USB, SWD's wire and every probe's own command set are not modelled.
"""

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from standins.adi import OK, DebugPort
from standins.machine import IDCODE, Machine

_ID, _ABORT, _DPACC, _APACC = 0xE, 0x8, 0xA, 0xB
_NEXT = {  # TAP controller: state -> (tms 0, tms 1)
    "reset": ("idle", "reset"), "idle": ("idle", "dr-select"),
    "dr-select": ("dr-capture", "ir-select"), "ir-select": ("ir-capture", "reset"),
    **{f"{r}-{a}": (f"{r}-{b}", f"{r}-{c}") for r in ("dr", "ir") for a, b, c in (
        ("capture", "shift", "exit1"), ("shift", "shift", "exit1"), ("exit1", "pause", "update"),
        ("pause", "pause", "exit2"), ("exit2", "shift", "update"))},
    "dr-update": ("idle", "dr-select"), "ir-update": ("idle", "dr-select"),
}  # fmt: skip


class RemoteProbe:
    """Answers pyOCD's requests."""

    def __init__(self, port: DebugPort) -> None:
        self._port = port
        p = port
        self._requests: dict[str, Callable[..., Any]] = {
            "readprop": self._property,
            "reset": lambda: p.machine.reset(False),
            "is_reset_asserted": lambda: False,
            "read_dp": p.read_dp,
            "write_dp": p.write_dp,
            "read_ap": p.read_ap,
            "write_ap": p.write_ap,
            "read_ap_multiple": lambda a, n: [p.read_ap(a) for _ in range(n)],
            "write_ap_multiple": self._write_ap_multiple,
        }

    def _property(self, name: str) -> Any:
        known: dict[str, Any] = {
            "vendor_name": "bitship",
            "product_name": "emulated probe",
            "supported_wire_protocols": ["DEFAULT", "SWD"],
            "wire_protocol": "SWD",
            "capabilities": [],
        }
        return known[name]

    def _write_ap_multiple(self, address: int, values: list[int]) -> None:
        for value in values:
            self._port.write_ap(address, value)

    def serve(self, client: socket.socket) -> None:
        """Answer until the client leaves."""
        with client.makefile("rwb") as stream:
            for line in stream:
                asked = json.loads(line)
                answer: dict[str, Any] = {"id": asked["id"], "status": 0}
                handler = self._requests.get(asked["request"])
                if handler is not None:  # the others (open, lock, connect, flush, ...) need nothing
                    answer["result"] = handler(*asked.get("arguments", ()))
                stream.write(json.dumps(answer).encode() + b"\n")
                stream.flush()


class Bitbang:
    """A JTAG TAP driven pin by pin."""

    def __init__(self, port: DebugPort) -> None:
        self._port, self._state, self._clock = port, "reset", 0
        self._ir, self._shift, self._length, self._answer, self._tdo = _ID, 0, 32, 0, 0

    def serve(self, client: socket.socket) -> None:
        """Follow the pins until the client leaves."""
        while data := client.recv(65536):
            out = bytearray()
            for c in data:
                if 0x30 <= c <= 0x37:
                    self._pins(c >> 2 & 1, c >> 1 & 1, c & 1)
                elif c == 0x52:
                    out.append(0x30 + self._tdo)
                elif c == 0x51:
                    return
                elif c in b"su":  # SRST asserted
                    self._port.machine.reset(True)
            if out:
                client.sendall(out)

    def _pins(self, clock: int, tms: int, tdi: int) -> None:
        rising, falling = clock > self._clock, clock < self._clock
        self._clock = clock
        if rising:
            if self._state in ("dr-shift", "ir-shift"):
                self._shift = self._shift >> 1 | tdi << self._length - 1
            elif self._state == "dr-capture":
                self._capture()
            elif self._state == "ir-capture":
                self._shift, self._length = 1, 4
            self._state = _NEXT[self._state][tms]
            if self._state == "reset":
                self._ir = _ID
        if falling:
            self._tdo = self._shift & 1
            if self._state == "ir-update":
                self._ir = self._shift
            elif self._state == "dr-update":
                self._update()

    def _capture(self) -> None:
        if self._ir in (_DPACC, _APACC, _ABORT):
            self._shift, self._length = self._answer << 3 | OK, 35
        elif self._ir == _ID:
            self._shift, self._length = IDCODE[self._port.machine.name], 32
        else:
            self._shift, self._length = 0, 1

    def _update(self) -> None:
        if self._ir not in (_DPACC, _APACC):
            return
        read, address, value = self._shift & 1, self._shift << 1 & 0xC, self._shift >> 3
        p = self._port
        if self._ir == _DPACC:
            if read:
                self._answer = p.read_dp(address)
            else:
                p.write_dp(address, value)
        elif read:
            self._answer = p.read_ap(address)
        else:
            p.write_ap(address, value)


PROTOCOLS: dict[str, Callable[[DebugPort], RemoteProbe | Bitbang]] = {"pyocd": RemoteProbe, "openocd": Bitbang}


class Probe:
    """A server thread on a free port of 127.0.0.1."""

    def __init__(self, protocol: str, machine: Machine, port: int = 0) -> None:
        self._protocol, self._machine = PROTOCOLS[protocol], machine
        self._server = socket.create_server(("127.0.0.1", port))
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Probe":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with contextlib.suppress(ConnectionError):
                    self._protocol(DebugPort(self._machine)).serve(client)
            with contextlib.suppress(ConnectionError, RuntimeError):  # the machine may have ended first
                self._machine.poll()
                self._machine.resume()


def main() -> None:
    """Serve until the emulator or the user ends it."""
    protocol, name, port, *options = sys.argv[1:]
    with Machine(name, options) as machine, Probe(protocol, machine, int(port)) as probe:
        print(f"{protocol} probe on 127.0.0.1:{probe.port}, {name}", flush=True)
        machine.process.wait()


if __name__ == "__main__":
    main()
