"""A real OpenSSH daemon for one test: on 127.0.0.1, an unprivileged port, its own host key, one key of one user.

Models everything ssh does, for it is sshd itself; not a slow link, and the far side is this machine.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
MISSING = None if SSHD and shutil.which("ssh-keygen") else "openssh-server is not installed"


@dataclass(frozen=True)
class Daemon:
    """How the daemon is reached, and its process."""

    port: int
    key: Path
    known_hosts: Path
    user: str
    process: "subprocess.Popen[bytes]"


def free_port() -> int:
    """Return a port of 127.0.0.1 nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


@contextmanager
def sshd(folder: Path) -> Iterator[Daemon]:
    """Run a daemon with its files in ``folder``."""
    assert SSHD is not None
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name in ("host", "user"):
        _key(folder / name)
    shutil.copy(folder / "user.pub", folder / "authorized")
    port = free_port()
    public = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    if os.geteuid() == 0:  # where root's daemon leaves its privileges
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    lines = [
        "ListenAddress 127.0.0.1",
        f"Port {port}",
        f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {folder / 'authorized'}",
        f"PidFile {folder / 'pid'}",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin yes",
        "StrictModes no",
        "UsePAM no",
        "Subsystem sftp internal-sftp",
    ]
    (folder / "config").write_text("\n".join(lines) + "\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Daemon(port, folder / "user", folder / "known", getpass.getuser(), process)
    finally:
        process.kill()
        process.wait()
