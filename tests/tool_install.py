"""Other people's programs for tests marked ``tools``: from the PATH, else installed with pip or apt, else a skip.

What pip installs goes into environments below ``build/tools``, one each, so that their dependencies cannot disagree.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "build" / "tools"
SECONDS = 600


@cache
def environment(name: str, *requirements: str) -> Path:
    """Return the ``bin`` folder of an environment with these requirements; skips where pip cannot install them."""
    folder = TOOLS / name
    done = folder / ".done"
    wanted = "\n".join(requirements)
    if not (done.is_file() and done.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        for words in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *requirements],
        ):
            if not _succeeds(words):
                pytest.skip(f"{', '.join(requirements)}: cannot be installed here")
        done.write_text(wanted)
    return folder / "bin"


def pip_program(program: str, *requirements: str) -> str:
    """Return a program of a Python package: the one on the PATH, else one installed for the tests."""
    found = shutil.which(program)
    return found or str(environment(program, *requirements) / program)


@cache
def apt_program(program: str, package: str) -> str:
    """Return a program of a Debian package, installed where it is missing and this is root; skips otherwise."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(program, path=places)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        _succeeds(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package])
        found = shutil.which(program, path=places)
    if found is None:
        pytest.skip(f"{program} is not installed: apt-get install {package}")
    return found


def _succeeds(words: list[str]) -> bool:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
