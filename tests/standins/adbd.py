"""A daemon of adb's device side on 127.0.0.1 that any adb client can connect to.

Models: the TCP transport (CNXN, OPEN, WRTE, OKAY, CLSE; version 0x01000001, without checksums), flow control of one
packet a stream, the shell service in its second version (streams apart, exit codes) and, with ``old_shell``, in its
first (one stream, no exit code), and sync's STAT, SEND, RECV, LIST. Commands run on this machine. Does not model:
authorization, TLS, sync's second version, ports that are forwarded, a terminal, another file system: files lie where
their path says, so tests must name a folder of their own.
"""

import os
import queue
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CNXN, OPEN, OKAY, CLSE, WRTE = (int.from_bytes(w, "little") for w in (b"CNXN", b"OPEN", b"OKAY", b"CLSE", b"WRTE"))
VERSION, MOST = 0x01000001, 256 * 1024
CHUNK = 64 * 1024
STDOUT, STDERR, EXIT = 1, 2, 3


class Stream:
    """One open service: bytes in through a queue, bytes out packet by packet."""

    def __init__(self, daemon: "Connection", local: int, remote: int) -> None:
        self._daemon, self._local, self._remote = daemon, local, remote
        self._in: queue.Queue[bytes | None] = queue.Queue()
        self._may_write = threading.Semaphore(0)
        self._rest = b""
        self.closed = False

    def accept(self) -> None:
        self._daemon.send(OKAY, self._local, self._remote)

    def arrived(self, data: bytes) -> None:
        self._in.put(data)
        self._daemon.send(OKAY, self._local, self._remote)

    def acknowledged(self) -> None:
        self._may_write.release()

    def end(self) -> None:
        self.closed = True
        self._in.put(None)
        self._may_write.release()

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), CHUNK):
            if self.closed:
                return
            self._daemon.send(WRTE, self._local, self._remote, data[at : at + CHUNK])
            self._may_write.acquire()

    def read(self, count: int) -> bytes:
        while len(self._rest) < count:
            part = self._in.get()
            if part is None:
                raise EOFError
            self._rest += part
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    def close(self) -> None:
        self._daemon.send(CLSE, self._local, self._remote)


class Connection:
    """One client's transport."""

    def __init__(self, link: socket.socket, features: str) -> None:
        self._link, self._features = link, features
        self._lock = threading.Lock()
        self._streams: dict[int, Stream] = {}

    def send(self, command: int, a: int, b: int, data: bytes = b"") -> None:
        head = struct.pack("<6I", command, a, b, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self._lock:
            try:
                self._link.sendall(head + data)
            except OSError:
                return

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._link.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def serve(self) -> None:
        try:
            while True:
                command, a, b, size, _, magic = struct.unpack("<6I", self._take(24))
                data = self._take(size)
                if magic != command ^ 0xFFFFFFFF:
                    return
                self._handle(command, a, b, data)
        except (EOFError, OSError):
            return
        finally:
            for stream in self._streams.values():
                stream.end()
            self._link.close()

    def _handle(self, command: int, a: int, b: int, data: bytes) -> None:
        if command == CNXN:
            name = (
                f"device::ro.product.name=standin;ro.product.model=standin;ro.product.device=standin;{self._features}"
            )
            self.send(CNXN, VERSION, MOST, name.encode())
        elif command == OPEN:
            local = len(self._streams) + 1
            stream = self._streams[local] = Stream(self, local, a)
            service = service_of(data.rstrip(b"\0").decode())
            if service is None:
                self.send(CLSE, 0, a)
                return
            stream.accept()
            threading.Thread(target=_run, args=(service, stream), daemon=True).start()
        elif b in self._streams:
            stream = self._streams[b]
            if command == WRTE:
                stream.arrived(data)
            elif command == OKAY:
                stream.acknowledged()
            elif command == CLSE:
                stream.end()


Service = Callable[[Stream], None]


def _run(service: Service, stream: Stream) -> None:
    try:
        service(stream)
    except EOFError:
        pass
    finally:
        stream.close()


def service_of(name: str) -> Service | None:
    """Return what an OPEN asks for."""
    if name == "sync:":
        return sync
    kind, _, line = name.partition(":")
    if kind.startswith("shell,v2"):
        return lambda stream: shell(stream, line, True)
    if kind in ("shell", "exec"):
        return lambda stream: shell(stream, line, False)
    return None


def shell(stream: Stream, line: str, second: bool) -> None:
    """Run a line; kill it when the client goes away."""
    process = subprocess.Popen(
        ["sh", "-c", line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if second else subprocess.STDOUT,
    )

    def copy(pipe: int, number: int) -> None:
        while data := os.read(pipe, CHUNK // 2):
            stream.write(struct.pack("<BI", number, len(data)) + data if second else data)

    assert process.stdout is not None
    pipes = [(process.stdout.fileno(), STDOUT)]
    if process.stderr is not None:
        pipes.append((process.stderr.fileno(), STDERR))
    threads = [threading.Thread(target=copy, args=p, daemon=True) for p in pipes]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    code = process.wait()
    if second:
        stream.write(struct.pack("<BIB", EXIT, 1, code & 0xFF))


def sync(stream: Stream) -> None:
    """Serve file requests until QUIT."""
    while True:
        word, size = struct.unpack("<4sI", stream.read(8))
        path = stream.read(size).decode()
        if word == b"QUIT":
            return
        if word == b"STAT":
            stream.write(b"STAT" + _stat(Path(path)))
        elif word == b"LIST":
            for entry in sorted(Path(path).iterdir()) if Path(path).is_dir() else []:
                name = entry.name.encode()
                stream.write(b"DENT" + _stat(entry) + struct.pack("<I", len(name)) + name)
            stream.write(b"DONE" + bytes(16))
        elif word == b"RECV":
            _send_file(stream, Path(path))
        elif word == b"SEND":
            _receive_file(stream, path)
        else:
            _fail(stream, f"unknown request {word!r}")


def _stat(path: Path) -> bytes:
    try:
        found = path.lstat()
    except OSError:
        return bytes(12)
    return struct.pack("<III", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))


def _fail(stream: Stream, text: str) -> None:
    stream.write(b"FAIL" + struct.pack("<I", len(text)) + text.encode())


def _send_file(stream: Stream, path: Path) -> None:
    try:
        data = path.read_bytes()
    except OSError as e:
        _fail(stream, f"open failed: {e.strerror}")
        return
    for at in range(0, len(data), CHUNK):
        part = data[at : at + CHUNK]
        stream.write(b"DATA" + struct.pack("<I", len(part)) + part)
    stream.write(b"DONE" + bytes(4))


def _receive_file(stream: Stream, request: str) -> None:
    path, _, mode = request.rpartition(",")
    data = bytearray()
    while True:
        word, size = struct.unpack("<4sI", stream.read(8))
        if word == b"DONE":  # what follows DONE is a time
            break
        data += stream.read(size)
    try:
        Path(path).write_bytes(data)
        Path(path).chmod(int(mode) & 0o777)
    except OSError as e:
        _fail(stream, f"couldn't create file: {e.strerror}")
        return
    stream.write(b"OKAY" + bytes(4))


class Adbd:
    """The daemon: ``serial`` is what adb calls it; ``drop`` cuts every connection off."""

    def __init__(self, old_shell: bool) -> None:
        self._features = "features=cmd" if old_shell else "features=cmd,shell_v2"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: list[socket.socket] = []
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self._links.append(link)
            threading.Thread(target=Connection(link, self._features).serve, daemon=True).start()

    def drop(self, for_good: bool = False) -> None:
        """Cut every connection; ``for_good``: and take no other."""
        if for_good:
            self._listener.close()
        for link in self._links:
            try:
                link.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


@contextmanager
def adbd(old_shell: bool = False) -> Iterator[Adbd]:
    """Run a daemon."""
    daemon = Adbd(old_shell)
    threading.Thread(target=daemon.accept, daemon=True).start()
    try:
        yield daemon
    finally:
        daemon.drop(for_good=True)
