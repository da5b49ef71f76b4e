"""docs/boards.md names every driver of devices.toml with all its keys, and every board."""

import re
from pathlib import Path

import msgspec
import pytest

from bitship import targets
from bitship.device.desk import Unit
from bitship.settings import _structs
from bitship.targets import TargetKind

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "boards.md").read_text()
KEYS = [f.name for f in msgspec.structs.fields(Unit) if _structs(Unit, f"$.{f.name}")]


def documented() -> dict[tuple[str, str], set[str]]:
    """Return the words in code marks of every row, by (key, driver)."""
    rows: dict[tuple[str, str], set[str]] = {}
    key = ""
    for found in re.finditer(r"^\| (?:`(\w+)`)? ?\| `(\w+)`(?: \(no `driver`\))? \| (.*) \|$", TEXT, re.MULTILINE):
        key = found[1] or key
        rows[key, found[2]] = set(re.findall(r"`(\w+)`", found[3]))
    return rows


def drivers(key: str) -> dict[str, set[str]]:
    return {str(t.tag or key): {f.encode_name for f in t.fields} for t in _structs(Unit, f"$.{key}")}


def test_keys_of_a_unit_are_known() -> None:
    assert {"console", "flasher", "transfer", "power", "meter", "farm"} <= {*KEYS}


@pytest.mark.parametrize("key", KEYS)
def test_every_driver_and_every_key_is_documented(key: str) -> None:
    rows = documented()
    for tag, names in drivers(key).items():
        assert (key, tag) in rows, f"{key}: driver {tag} is not in docs/boards.md"
        assert names <= rows[key, tag], f"{key} {tag}: {names - rows[key, tag]} are not in docs/boards.md"


def test_every_board_has_its_row_with_its_flashers_and_clock() -> None:
    for name in targets.names():
        target = targets.load(name)
        if target.kind is not TargetKind.MCU or target.emulator is not None or not target.flashers:
            continue
        row = next((line for line in TEXT.splitlines() if line.startswith(f"| `{name}`")), "")
        assert row, f"{name} is not in docs/boards.md"
        if "the same" not in row:
            assert f"{(target.clock_hz or 0) // 1_000_000} MHz" in row
            assert target.marker is None or target.marker.pin in row
        tools = ", ".join(str(t.__struct_config__.tag) for t in target.flashers)
        assert f"| {tools} |" in row
