"""Settings files: an unknown key, driver or value names the nearest right one; nothing is guessed."""

from pathlib import Path

import pytest

from bitship.device import desk
from bitship.device.meters.csv import CsvMeter
from bitship.errors import DeviceError, FormatError, TargetError
from bitship.settings import parse_toml
from bitship.targets.base import Target

GOOD = """
[[device]]
name = "l4-a"
target = "mps2-an386"
console = { driver = "serial", port = "/dev/ttyACM0", baud = 921600 }
flasher = { driver = "script", command = ["flash", "{image}"] }
meter = { driver = "csv", command = ["meter"] }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "devices.toml"
    path.write_text(text)
    return path


def test_a_desk_is_read_with_every_driver(tmp_path: Path) -> None:
    unit = desk.read(write(tmp_path, GOOD)).unit("l4-a")
    assert unit.meter == CsvMeter(("meter",))
    assert unit.power is None
    with pytest.raises(DeviceError, match="device 'l4-b': unknown; there are: l4-a"):
        desk.read(write(tmp_path, GOOD)).unit("l4-b")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (('name = "l4-a"', 'nmae = "l4-a"'), DeviceError, "did you mean 'name'"),
        (("console =", "consol ="), DeviceError, "did you mean 'console'"),
        (('driver = "serial"', 'driver = "seriel"'), DeviceError, "did you mean 'serial'"),
        (("baud = 921600", "buad = 1"), DeviceError, r"\.console`; did you mean 'baud'\? allowed: baud, "),
        (("baud = 921600", 'baud = "fast"'), DeviceError, r"`int \| null`, got `str`"),
        (('target = "mps2-an386"', 'target = "mps2-an387"'), TargetError, "nearest: mps2-an38"),
        (('target = "mps2-an386"', ""), DeviceError, "missing required field `target`"),
        (("[[device]]", "[[device]\n"), DeviceError, r"devices\.toml: "),
        (("", GOOD), DeviceError, "two devices are named 'l4-a'"),
    ],
)
def test_a_wrong_key_driver_or_value_is_one_clear_error(
    tmp_path: Path, change: tuple[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        desk.read(write(tmp_path, GOOD.replace(*change, 1)))
    assert "\n" not in str(caught.value).strip()


def test_a_file_that_is_absent_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be read"):
        desk.read(tmp_path / "nowhere.toml")
    (tmp_path / "devices.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DeviceError, match=r"devices\.toml: "):
        desk.read(tmp_path / "devices.toml")


def test_the_file_in_use_is_the_named_one_then_the_one_here_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(desk.VARIABLE, raising=False)
    assert desk.read() == desk.Desk()
    (tmp_path / "home" / "bitship").mkdir(parents=True)
    theirs = write(tmp_path / "home" / "bitship", GOOD)
    assert desk.find() == theirs
    write(tmp_path, GOOD.replace("l4-a", "here"))
    assert desk.read().device[0].name == "here"
    named = tmp_path / "named.toml"
    named.write_text(GOOD.replace("l4-a", "named"))
    monkeypatch.setenv(desk.VARIABLE, str(named))
    assert desk.read().device[0].name == "named"


def test_enumerations_and_nested_structs_name_what_is_allowed() -> None:
    text = 'name = "x"\ntitle = "x"\nkind = "mcuu"\ncpu = "x"\nconverters = ["firmware"]\n'
    with pytest.raises(FormatError, match=r"did you mean 'mcu'\? allowed: .*linux"):
        parse_toml(text.encode(), "here", Target)
    with pytest.raises(FormatError, match="did you mean 'origin'"):
        parse_toml((text.replace("mcuu", "mcu") + "[flash]\norgin = 1\nbytes = 2\n").encode(), "here", Target)
    with pytest.raises(FormatError, match="did you mean 'firmware'"):
        parse_toml(text.replace("mcuu", "mcu").replace("firmware", "firmwear").encode(), "here", Target)
