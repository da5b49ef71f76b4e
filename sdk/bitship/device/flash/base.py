"""What a flasher is: something that puts an image into a board's flash, and starts it."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bitship.targets import Target

Progress = Callable[[float], None]  # the part that is done, 0 to 1


class FlasherDriver(Protocol):
    """Settings of one driver, a struct of ``devices.toml``. GPL tools are started as programs."""

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        """Write an ELF image, verify it, start it.

        Raises DeviceError with the command, its exit code and its last words; MissingDependencyError without the tool.
        """
        ...
