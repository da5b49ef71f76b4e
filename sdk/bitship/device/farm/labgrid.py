"""labgrid: a place is reserved by its tags, acquired, and released; ``labgrid-client`` runs as a program.

A program, because labgrid and other optional packages need different versions of protobuf: it may live in an
environment of its own.
"""

import ast
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bitship.device.farm.base import Lease, Resource
from bitship.device.process import find_tool, run_tool
from bitship.errors import DeviceError

_COMMAND_SECONDS = 30.0
_PAUSE_SECONDS = 1.0
_TOKEN = re.compile(r"LG_TOKEN=(\S+)")
_PLACE = re.compile(r"^Place '([^']+)'", re.MULTILINE)
_RESOURCE = re.compile(r"^Acquired resource '([^']+)' \(([^)]*)\):\n((?:  .*\n?)+)", re.MULTILINE)


class LabgridFarm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="labgrid"):
    """A labgrid coordinator.

    tags         what a place must have, such as ``{ board = "nucleo-l4r5zi" }``
    coordinator  host:port
    client       the program, where it is not on the PATH
    wait_s       seconds to wait for a place, and for a coordinator that is gone to come back
    """

    tags: dict[str, str]
    coordinator: str = "127.0.0.1:20408"
    client: str = "labgrid-client"
    wait_s: float = 600.0

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        end = time.monotonic() + self.wait_s
        token = self._reserve(end)
        place = f"+{token}"
        try:
            shown = self._acquire(place, token, end)
            named = _PLACE.search(shown)
            yield Lease(named[1] if named else place, _resources(shown))
        finally:
            self._give_back(place, token)

    def _ask(self, *words: str, deadline_s: float = _COMMAND_SECONDS) -> str:
        program = find_tool(self.client, "pip install labgrid, in an environment of its own; name it as 'client'")
        return run_tool([program, "-x", self.coordinator, *words], deadline_s)

    def _persist(self, end: float, *words: str) -> str:
        """Ask until it works or the time is over: a coordinator may be starting anew."""
        while True:
            try:
                return self._ask(*words)
            except DeviceError:
                if time.monotonic() + _PAUSE_SECONDS >= end:
                    raise
                time.sleep(_PAUSE_SECONDS)

    def _reserve(self, end: float) -> str:
        said = self._persist(end, "reserve", "--shell", *(f"{k}={v}" for k, v in sorted(self.tags.items())))
        token = _TOKEN.search(said)
        if token is None:
            raise DeviceError(f"labgrid at {self.coordinator}: no reservation came back: {said.strip()[:200]}")
        return token[1]

    def _acquire(self, place: str, token: str, end: float) -> str:
        """Wait for the reservation's place and take it; returns what the place has."""
        wanted = " ".join(f"{k}={v}" for k, v in sorted(self.tags.items()))
        try:
            self._ask("wait", token, deadline_s=max(end - time.monotonic(), 1.0))
        except DeviceError as e:
            raise DeviceError(
                f"labgrid at {self.coordinator}: no place with {wanted} within {self.wait_s:g} s: {e}"
            ) from None
        self._persist(end, "-p", place, "acquire")
        return self._ask("-p", place, "show")

    def _give_back(self, place: str, token: str) -> None:
        """Release and cancel; a coordinator that stays away is warned of, for what was measured is not lost by it."""
        end = time.monotonic() + min(self.wait_s, 2 * _COMMAND_SECONDS)
        for words in (("-p", place, "release"), ("cancel-reservation", token)):
            try:
                self._ask(*words)
            except DeviceError as first:
                if "matches nothing" in str(first) or "not acquired" in str(first) or "not found" in str(first):
                    continue
                try:
                    self._persist(end, *words)
                except DeviceError as e:
                    warnings.warn(f"labgrid at {self.coordinator}: not given back: {e}", RuntimeWarning, stacklevel=2)


def _resources(shown: str) -> tuple[Resource, ...]:
    """Return what ``labgrid-client show`` prints of an acquired place; DeviceError on anything unexpected."""
    found = []
    for name, path, block in _RESOURCE.findall(shown):
        try:
            body = ast.literal_eval(block.strip())
            params, available = dict(body["params"]), bool(body["avail"])
        except (ValueError, SyntaxError, KeyError, TypeError) as e:
            raise DeviceError(f"labgrid: resource '{name}' is shown as {block.strip()[:120]!r}: {e}") from None
        if not available:
            raise DeviceError(f"labgrid: resource '{name}' ({path}) is not available; look at its exporter's log")
        found.append(Resource(str(body.get("cls", path.split("/")[2])), name, params))
    return tuple(found)
