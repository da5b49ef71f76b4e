"""Temperatures, clocks and modes as systems tell them; the wait until it is cool."""

import pytest

from bitship.device.base import Conditions
from bitship.device.conditions import cool_down, hottest, parse, read, throttling
from bitship.device.transfer import LocalTransfer
from bitship.errors import DeviceError

PI = """temp cpu-thermal 48312
khz policy0 1800000
mode governor.policy0 ondemand
mode throttled 0x50005
"""
JETSON = """temp CPU-therm 45500
temp GPU-therm 44000
temp GPU-therm 43000
khz policy0 1420800
khz policy4 729600
mode nvpmodel MODE_15W_6CORE
"""
PHONE = """temp battery 31
battery AC powered=false
battery USB powered=true
battery level=83
battery temperature=312
mode thermal 0
garbage
temp broken x
"""


def test_a_raspberry_pi() -> None:
    found = parse(PI, "before")
    assert found.celsius == {"cpu-thermal": 48.312}
    assert found.hz == {"policy0": 1.8e9}
    assert found.modes["governor.policy0"] == "ondemand"
    assert found.modes["throttled"] == "undervoltage, throttled, undervoltage has occurred, throttling has occurred"
    assert found.when == "before"
    assert throttling("0x0") == "no"


def test_a_jetson_with_two_zones_of_one_type() -> None:
    found = parse(JETSON, "now")
    assert found.celsius == {"CPU-therm": 45.5, "GPU-therm": 44.0, "GPU-therm 2": 43.0}
    assert found.modes == {"nvpmodel": "MODE_15W_6CORE"}


def test_a_phone_on_its_cable() -> None:
    found = parse(PHONE, "now")
    assert found.celsius == {"battery": 31.2}
    assert found.modes == {"power": "USB powered", "battery": "83 %", "thermal": "0"}


def test_the_script_runs_on_this_machine() -> None:
    with LocalTransfer().open() as link:
        assert isinstance(read(link), Conditions)


def test_it_waits_until_every_sensor_is_cool() -> None:
    readings = iter([50.0, 45.0, 39.0])
    seen: list[float] = []
    found = cool_down(lambda: Conditions("now", {"a": next(readings), "b": 30.0}), 40, 10, seen.append, 0.001)
    assert seen == [50, 45, 39]
    assert hottest(found) == 39


def test_without_sensors_nothing_is_waited_for_and_a_deadline_names_the_sensor() -> None:
    assert cool_down(lambda: Conditions("now"), 40, 0) == Conditions("now")
    with pytest.raises(DeviceError, match=r"gpu is at 60 degrees Celsius after 0\.05 s, below 40"):
        cool_down(lambda: Conditions("now", {"cpu": 41.0, "gpu": 60.0}), 40, 0.05, None, 0.01)
