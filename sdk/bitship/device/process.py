"""Other people's programs, run with a deadline; what they say is the error."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bitship.errors import DeviceError, MissingDependencyError

_LAST_LINES = 3


def find_tool(name: str, install: str) -> str:
    """Return a program's path; MissingDependencyError says how to install it."""
    path = shutil.which(name)
    if path is None:
        raise MissingDependencyError(f"{name}: not found; {install}")
    return path


def run_tool(words: Sequence[str], deadline_s: float, cwd: Path | None = None) -> str:
    """Run a program and return what it printed; DeviceError with its last words when it fails or hangs."""
    line = " ".join(words)
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=deadline_s,
            check=False,
        )
    except FileNotFoundError:
        raise MissingDependencyError(f"{words[0]}: not found; install it, or name its path") from None
    except OSError as e:
        raise DeviceError(f"{line}: cannot be started: {e.strerror}") from None
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{line}: not done after {deadline_s:g} s, stopped") from None
    if done.returncode != 0:
        said = " | ".join(done.stdout.strip().splitlines()[-_LAST_LINES:]) or "nothing said"
        raise DeviceError(f"{line}: ended with code {done.returncode}: {said}")
    return done.stdout
