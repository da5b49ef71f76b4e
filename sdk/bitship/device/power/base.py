"""What a power switch is: something that cuts a board's supply and gives it back."""

from typing import Protocol


class PowerDriver(Protocol):
    """Settings of one driver, a struct of ``devices.toml``."""

    def set(self, on: bool) -> None:
        """Switch; DeviceError when it cannot be told, or reports another state afterwards."""
        ...
