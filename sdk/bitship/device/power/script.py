"""Any program that switches a supply."""

import msgspec

from bitship.device.process import run_tool


class ScriptPower(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="script"):
    """Two commands as words; no shell."""

    on: tuple[str, ...]
    off: tuple[str, ...]
    deadline_s: float = 30.0

    def set(self, on: bool) -> None:
        run_tool(self.on if on else self.off, self.deadline_s)
