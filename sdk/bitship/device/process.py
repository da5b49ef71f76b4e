"""Other people's programs, run with a deadline; what they say is the error."""

import codecs
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from bitship.errors import DeviceError, MissingDependencyError

_LAST_LINES = 3
_END_SECONDS = 5.0

Heard = Callable[[str], None]
Hint = tuple[str, str]  # (what a failing program says, what to do about it)


def find_tool(name: str, install: str) -> str:
    """Return a program's path; MissingDependencyError says how to install it."""
    path = shutil.which(name)
    if path is None:
        raise MissingDependencyError(f"{name}: not found; {install}")
    return path


def run_tool(
    words: Sequence[str],
    deadline_s: float,
    cwd: Path | None = None,
    heard: Heard | None = None,
    hints: Sequence[Hint] = (),
) -> str:
    """Run a program and return what it printed; DeviceError with its last words when it fails or hangs.

    heard  gets the output as it comes; hints  the first whose text a failing program said ends the error's message
    """
    line = " ".join(words)
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise MissingDependencyError(f"{words[0]}: not found; install it, or name its path") from None
    except OSError as e:
        raise DeviceError(f"{line}: cannot be started: {e.strerror}") from None
    parts: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=_read, args=(process.stdout, parts, heard), daemon=True)
    end = time.monotonic() + deadline_s
    try:
        reader.start()
        reader.join(deadline_s)
        process.wait(max(0.0, end - time.monotonic()))
        late = reader.is_alive()
    except subprocess.TimeoutExpired:
        late = True
    finally:
        _kill(process)
    said = "".join(parts)
    if late:
        raise DeviceError(f"{line}: not done after {deadline_s:g} s, stopped{_reason(said, hints)[1]}")
    if process.returncode != 0:
        words_said, todo = _reason(said, hints)
        raise DeviceError(f"{line}: ended with code {process.returncode}: {words_said}{todo}")
    return said


def last_words(said: str) -> str:
    """Return the last lines of an output as one."""
    lines = [" ".join(text.split()) for text in said.replace("\r", "\n").splitlines() if text.strip()]
    return " | ".join(lines[-_LAST_LINES:]) or "nothing said"


def _reason(said: str, hints: Sequence[Hint]) -> tuple[str, str]:
    """Return (the line a hint knows, what to do about it), or the last words."""
    for text, todo in hints:
        for spoken in said.replace("\r", "\n").splitlines():
            if text.lower() in spoken.lower():
                return " ".join(spoken.split()), f"; {todo}"
    return last_words(said), ""


def _read(stream: IO[bytes], parts: list[str], heard: Heard | None) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := os.read(stream.fileno(), 4096):
        text = decoder.decode(data)
        parts.append(text)
        if heard is not None:
            heard(text)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the program and whatever it started that still holds its output."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_END_SECONDS)
    if process.stdout is not None and process.returncode is not None:
        process.stdout.close()
