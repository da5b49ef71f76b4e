"""Any program that flashes: a command line with the image in it."""

from pathlib import Path

import msgspec

from bitship.device.flash.base import Progress
from bitship.device.process import run_tool
from bitship.targets import Target


class ScriptFlasher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="script"):
    """``command``: words, with ``{image}``, its ``{folder}`` and ``{target}`` replaced; no shell."""

    command: tuple[str, ...]
    deadline_s: float = 300.0

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        run_tool(
            [w.format(image=image, folder=image.parent, target=target.name) for w in self.command], self.deadline_s
        )
