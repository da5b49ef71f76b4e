"""What ssh and adb share: a session's folder on the other side, and how a command is run in it through a shell.

Folders are ``bitship.HOST.PID.NUMBER`` below one base folder: a session begins by removing those that this machine left
behind, together with a program that still runs in one.
"""

import itertools
import os
import re
import shlex
import socket
from collections.abc import Callable, Sequence

from bitship.device.transfer.base import Completed
from bitship.errors import DeviceError

SHORT_SECONDS = 30.0
_EXIT = re.compile(r"\n?bitship-exit (\d+)\s*\Z")
_numbers = itertools.count()
_in_use: set[str] = set()

Shell = Callable[[str, float], Completed]  # runs one line of POSIX shell within seconds


def host_name() -> str:
    """Return this machine's name, fit for a file name."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()) or "host"


def claim(shell: Shell, base: str, where: str) -> str:
    """Remove what dead sessions of this machine left below ``base``, make a folder for a new one, return its path."""
    prefix = f"{base.rstrip('/')}/bitship.{host_name()}."
    listed = shell(f"ls -d {shlex.quote(prefix)}* 2>/dev/null; true", SHORT_SECONDS)
    for path in listed.stdout.split():
        if path.startswith(prefix) and _dead(path, path.removeprefix(prefix)):
            remove(shell, path)
    folder = f"{prefix}{os.getpid()}.{next(_numbers)}"
    made = shell(f"mkdir -m 700 {shlex.quote(folder)} && echo made", SHORT_SECONDS)
    if made.stdout.strip() != "made":
        said = last_line(made)
        raise DeviceError(f"{where}: the folder {folder} cannot be made: {said}; name another one: folder = ...")
    _in_use.add(folder)
    return folder


def release(shell: Shell, folder: str) -> None:
    """Remove a session's folder; where the connection is gone the next session does."""
    _in_use.discard(folder)
    try:
        remove(shell, folder)
    except DeviceError:
        return


def remove(shell: Shell, folder: str) -> None:
    """Remove a folder, and end the program that was started in it, if it is still there and runs there."""
    stop(shell, folder)
    shell(f"rm -rf {shlex.quote(folder)}", SHORT_SECONDS)


def stop(shell: Shell, folder: str) -> None:
    """End the program that was started in a folder, unless its process id is another's by now."""
    quoted = shlex.quote(folder)
    shell(
        f"p=$(cat {quoted}/.pid 2>/dev/null) && "
        f'[ "$(readlink /proc/$p/cwd)" = "$(cd {quoted} && pwd -P)" ] && kill -9 $p; true',
        SHORT_SECONDS,
    )


def _dead(path: str, rest: str) -> bool:
    """Whether no session holds a folder ``PID.NUMBER`` of this machine any more."""
    pid = rest.split(".")[0]
    if not pid.isdigit():
        return False
    if int(pid) == os.getpid():
        return path not in _in_use
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def command(folder: str, words: Sequence[str]) -> str:
    """Return a line of shell that runs words in a folder, notes its process id there, and tells the exit code.

    The code is said in words because adb's older shells lose it, and because ssh has a 255 of its own.
    """
    inner = f"cd {shlex.quote(folder)} && echo $$ >.pid && exec {shlex.join(words)}"
    return f'sh -c {shlex.quote(inner)}; echo "\nbitship-exit $?"'


def completed(done: Completed, where: str, words: Sequence[str]) -> Completed:
    """Return how the words of ``command`` ended; DeviceError when they were cut off."""
    found = _EXIT.search(done.stdout)
    if found is None:
        said = last_line(done)
        raise DeviceError(f"{where}: the connection was lost while {words[0]} ran: {said}; run it again")
    return Completed(int(found[1]), done.stdout[: found.start()], done.stderr)


def last_line(done: Completed) -> str:
    """Return the last thing a command said."""
    lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines()
    return lines[-1].strip() if lines else "nothing said"
