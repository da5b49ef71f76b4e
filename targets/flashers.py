"""What a type of board needs to be flashed by each tool; the unit's own facts (port, probe) are in devices.toml."""

import msgspec


class PyocdTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="pyocd"):
    """``target``: pyOCD's name of the chip, of its own or of a CMSIS pack; ``cortex_m`` loads into RAM."""

    target: str


class OpenocdTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="openocd"):
    """``config``: OpenOCD's files of the chip, or of the target's own folder. ram: there is no flash to program."""

    config: tuple[str, ...]
    ram: bool = False


class GdbTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="gdb"):
    """Any gdb server that writes the flash itself, or a board without one."""


class EsptoolTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="esptool"):
    """``chip``: esptool's name of it; the image lies in flash from ``offset`` on."""

    chip: str
    offset: int = 0


class Stm32Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="stm32"):
    """The serial loader in ST's ROM (AN3155)."""


class Uf2Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="uf2"):
    """A USB drive that flashes what is copied to it: its labels, and the family id it accepts."""

    family: int
    labels: tuple[str, ...]


class SmpTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="smp"):
    """MCUboot in front and an SMP server. The image must be linked behind a header of ``header_bytes``."""

    header_bytes: int = 512


class BossacTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="bossac"):
    """A SAM-BA loader on USB; it writes behind itself, where the image is linked."""


FlashTool = PyocdTool | OpenocdTool | GdbTool | EsptoolTool | Stm32Tool | Uf2Tool | SmpTool | BossacTool
