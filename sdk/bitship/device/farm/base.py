"""What a farm is: a place where many people's boards are, each lent to one at a time."""

from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol


class Resource(NamedTuple):
    """Something a place has: the farm's name for its kind, and its settings."""

    kind: str
    name: str
    settings: dict[str, Any]


class Lease(NamedTuple):
    """A place that is ours until the lease ends."""

    place: str
    resources: tuple[Resource, ...]


class FarmDriver(Protocol):
    """Settings of one driver, a struct of ``devices.toml``."""

    def lease(self) -> AbstractContextManager[Lease]:
        """Wait for a place and take it; give it back at the end. DeviceError when there is none in time."""
        ...
