"""A report: what was run where, whether the bits were the reference's, and every raw sample."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bitship.converters.base import Footprint, Numerics
from bitship.device.base import Conditions, OpSamples, Samples, Trace
from bitship.errors import FormatError
from bitship.graph.store import write_atomic

SCHEMA = 2
READS = (1, 2)  # later fields have defaults


class Bits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of the proof: how many vectors ran, how many elements differed, by how much at most.

    No vectors: the device gives no outputs.
    """

    vectors: int
    elements: int
    differing: int
    max_difference: int

    @property
    def exact(self) -> bool:
        """Whether every element of every output was the reference's, and there was one."""
        return self.differing == 0 and self.vectors > 0


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One benchmark of one package on one device. ``environment`` says what decides the figures.

    plan        the memory plan as SVG, where the package has one
    ops         what every call of the program took, where the device can tell
    trace       the power meter's trace
    conditions  temperatures and clocks before and after, where the device can tell
    sections    bytes of every section of the image
    settled     how far the median was known when measuring ended: half its 95 % interval, as a part of it
    difference  where the bits first differ, of a device that gave wrong ones; nothing was measured then
    """

    schema: int
    package: str
    target: str
    device: str
    converter: str
    artifact: str
    numerics: Numerics
    graph_digest: str
    macs: int
    footprint: Footprint
    bits: Bits
    samples: tuple[Samples, ...]
    environment: dict[str, str]
    tools: dict[str, str]
    when: str
    plan: str = ""
    ops: tuple[OpSamples, ...] = ()
    trace: Trace | None = None
    conditions: tuple[Conditions, ...] = ()
    sections: dict[str, int] = {}
    settled: float | None = None
    difference: str = ""


def save(reports: Sequence[Report], path: Path) -> None:
    """Write reports as JSON, all samples kept."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(list(reports)), indent=1) + b"\n")


def load(path: Path) -> list[Report]:
    """Read reports; FormatError when the file is damaged."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise FormatError(f"{path}: cannot be read: {e.strerror}") from None
    try:
        reports = msgspec.json.decode(data, type=list[Report])
    except msgspec.MsgspecError as e:
        raise FormatError(f"{path}: not a bitship report: {e}") from None
    other = next((r.schema for r in reports if r.schema not in READS), None)
    if other is not None:
        raise FormatError(f"{path}: report schema {other}, this bitship reads up to {SCHEMA}")
    return reports
