"""labgrid-client, run as a program: the power port of a labgrid place, whatever switches it."""

import msgspec

from bitship.device.process import find_tool, run_tool
from bitship.errors import DeviceError

INSTALL = "pip install labgrid, in an environment of its own"
_HINTS = (
    ("coordinator is unavailable", "start the coordinator, or correct 'coordinator'"),
    ("has not been acquired", "acquire the place: labgrid-client -p PLACE acquire"),
    ("not acquired", "acquire the place: labgrid-client -p PLACE acquire"),
)


class LabgridPower(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="labgrid"):
    """``place``: a place this user has acquired; coordinator  ``host:port``, None: labgrid's own setting.

    program  where labgrid's client is, when not on the PATH
    """

    place: str
    coordinator: str | None = None
    program: str = "labgrid-client"
    deadline_s: float = 60.0

    def set(self, on: bool) -> None:
        words = [find_tool(self.program, INSTALL), *(["-x", self.coordinator] if self.coordinator else [])]
        words += ["-p", self.place, "power"]
        wanted = "on" if on else "off"
        run_tool([*words, wanted], self.deadline_s, hints=_HINTS)
        said = run_tool([*words, "get"], self.deadline_s, hints=_HINTS)
        states = said.split()
        if not states or states[-1] not in ("on", "off"):
            return  # a switch that cannot tell; labgrid has said that it switched
        if states[-1] != wanted:
            raise DeviceError(f"labgrid: place {self.place}: is {states[-1]} after 'power {wanted}'")
