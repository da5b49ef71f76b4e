"""What a flasher is: something that puts an image into a board's flash, and starts it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from bitship.errors import DeviceError
from bitship.targets import Target

Progress = Callable[[float], None]  # the part that is done, 0 to 1
T = TypeVar("T")

_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?%")


class FlasherDriver(Protocol):
    """Settings of one driver, a struct of ``devices.toml``. GPL tools are started as programs."""

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        """Write an ELF image, verify it, start it.

        Raises DeviceError with the command, its exit code and its last words; MissingDependencyError without the tool.
        """
        ...


def facts(target: Target, kind: type[T], driver: str) -> T:
    """Return what the target says of a tool; DeviceError names the tools it can be flashed with."""
    for tool in target.flashers:
        if isinstance(tool, kind):
            return tool
    names = ", ".join(dict.fromkeys(str(t.__struct_config__.tag) for t in target.flashers)) or "none"
    raise DeviceError(f"{target.name}: flasher '{driver}' cannot flash it; its target.toml lists: {names}")


def percent(progress: Progress | None) -> Callable[[str], None] | None:
    """Return a listener that passes on the last ``50 %`` of a program's output."""
    if progress is None:
        return None

    def heard(text: str) -> None:
        found = _PERCENT.findall(text)
        if found:
            progress(min(float(found[-1]) / 100, 1.0))

    return heard
