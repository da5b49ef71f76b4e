"""Programs and drives that only look like themselves."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bitship.device.flash import uf2

Fake = Callable[[str, str], Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put programs on the PATH that note their words and say something."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, body: str) -> Path:
        noted = tmp_path / f"{name}.words"
        program = folder / name
        text = f"import sys\nopen({str(noted)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n{body}\n"
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o755)
        return noted

    return make


def drive(folder: Path, name: str) -> Path:
    """A folder that looks like a mounted UF2 drive."""
    volume = folder / name
    volume.mkdir()
    (volume / uf2.INFO).write_text("UF2 Bootloader v1.0\nModel: Raspberry Pi RP2\nBoard-ID: RPI-RP2\n")
    return volume
