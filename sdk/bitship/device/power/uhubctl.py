"""uhubctl, run as a program: a port of a USB hub that can cut its power."""

import re

import msgspec

from bitship.device.process import find_tool, last_words, run_tool
from bitship.errors import DeviceError

INSTALL = "apt-get install uhubctl"
_HINTS = (
    ("no compatible", "this hub cannot switch its ports; uhubctl's page lists hubs that can"),
    ("permission", "allow USB access to this user: uhubctl's udev rule"),
)
_STATE = re.compile(r"^\s*Port (\d+): ([0-9a-f]{4})(.*)$", re.MULTILINE)


class UhubctlPower(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="uhubctl"):
    """``hub``: its location, such as ``1-1.4`` (``uhubctl`` lists them); ``port``: its number."""

    hub: str
    port: int
    deadline_s: float = 30.0

    def set(self, on: bool) -> None:
        words = [find_tool("uhubctl", INSTALL), "-l", self.hub, "-p", str(self.port), "-a", "on" if on else "off"]
        said = run_tool([*words, "-r", "3"], self.deadline_s, hints=_HINTS)
        states = [rest for number, _, rest in _STATE.findall(said) if int(number) == self.port]
        if not states:
            raise DeviceError(f"uhubctl: hub {self.hub} has no port {self.port}: {last_words(said)}")
        if ("power" in states[-1].split()) != on:
            raise DeviceError(
                f"uhubctl: hub {self.hub}, port {self.port}: is still {'off' if on else 'on'}: {states[-1].strip()}; "
                "many hubs only pretend to switch"
            )
