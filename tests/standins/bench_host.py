"""A bench host's board: an emulated board behind a serial port that stays, and a flasher that restarts it.

It models a board on a USB serial adapter: the port (a pty) has one name for as long as the host runs, and flashing
puts a new image on the board and starts it. It does not model the port's speed, nor modem lines.

    python bench_host.py TARGET SOCKET        prints the port's name, then serves until it is killed
    python bench_host.py flash SOCKET IMAGE   what a script flasher calls; returns when the board has started
"""

import os
import pty
import socket
import subprocess
import sys
import threading
import tty
from pathlib import Path

from bitship import targets

_SECONDS = 20.0


class BenchHost:
    """A board of one target; ``port`` is its serial port."""

    def __init__(self, target: str, control: Path) -> None:
        self._target = targets.load(target)
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._board: subprocess.Popen[bytes] | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(control))
        self._listener.listen()
        threading.Thread(target=self._to_board, daemon=True).start()

    def serve(self) -> None:
        """Flash whatever image is asked for, for ever."""
        while True:
            line, _ = self._listener.accept()
            with line:
                image = line.recv(4096).decode()
                self.flash(Path(image))
                line.sendall(b"started")

    def flash(self, image: Path) -> None:
        """Stop the board and start it with another image."""
        self.stop()
        emulator = self._target.emulator
        assert emulator is not None
        words = [emulator.program, "-machine", str(emulator.machine), "-display", "none", "-monitor", "none"]
        words += ["-serial", "stdio", "-icount", f"shift={emulator.icount_shift},sleep=off", *emulator.options]
        self._board = subprocess.Popen(
            [*words, "-kernel", str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        threading.Thread(target=self._from_board, args=(self._board,), daemon=True).start()

    def stop(self) -> None:
        """Take the board's power away."""
        if self._board is not None:
            self._board.kill()
            self._board.wait()
            self._board = None

    def _from_board(self, board: "subprocess.Popen[bytes]") -> None:
        assert board.stdout is not None
        while data := board.stdout.read(4096):
            os.write(self._master, data)

    def _to_board(self) -> None:
        while True:
            data = os.read(self._master, 4096)
            board = self._board
            if board is not None and board.stdin is not None:
                try:
                    board.stdin.write(data)
                except BrokenPipeError:
                    continue


def flash(control: str, image: str) -> None:
    """Ask a running host to flash an image; raises OSError when it does not answer."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_SECONDS)
        line.connect(control)
        line.sendall(str(Path(image).resolve()).encode())
        if line.recv(64) != b"started":
            raise OSError("the host closed the line")


if __name__ == "__main__":
    if sys.argv[1] == "flash":
        flash(*sys.argv[2:4])
    else:
        host = BenchHost(sys.argv[1], Path(sys.argv[2]))
        print(host.port, flush=True)
        host.serve()
