"""What a computer's or phone's figures depend on: temperatures, clocks, power mode; and the wait until it is cool."""

import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from bitship.device.base import Conditions
from bitship.device.transfer import Transfer
from bitship.errors import DeviceError

READ_SECONDS = 30.0
_POLL_SECONDS = 2.0

# Prints "KEY VALUE" lines; runs under any POSIX shell, Android's included. What is absent prints nothing.
_SCRIPT = r"""
for z in /sys/class/thermal/thermal_zone*; do
    [ -r $z/temp ] && echo "temp $(cat $z/type 2>/dev/null || basename $z) $(cat $z/temp 2>/dev/null)"
done
for p in /sys/devices/system/cpu/cpufreq/policy*; do
    [ -r $p/scaling_cur_freq ] && echo "khz $(basename $p) $(cat $p/scaling_cur_freq)"
    [ -r $p/scaling_governor ] && echo "mode governor.$(basename $p) $(cat $p/scaling_governor)"
done
command -v vcgencmd >/dev/null 2>&1 && echo "mode throttled $(vcgencmd get_throttled | cut -d= -f2)"
command -v nvpmodel >/dev/null 2>&1 && echo "mode nvpmodel $(nvpmodel -q 2>/dev/null | sed -n 's/^NV Power Mode: *//p')"
if command -v dumpsys >/dev/null 2>&1; then
    dumpsys battery 2>/dev/null | sed -n 's/^ *\([A-Za-z ]*\): *\(.*\)$/battery \1=\2/p'
    dumpsys thermalservice 2>/dev/null | sed -n 's/^ *Thermal Status: */mode thermal /p'
fi
true
"""

_THROTTLED = {  # bits of vcgencmd get_throttled
    0: "undervoltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
    16: "undervoltage has occurred",
    17: "frequency capping has occurred",
    18: "throttling has occurred",
    19: "soft temperature limit has occurred",
}
_CHARGING = ("AC powered", "USB powered", "Wireless powered", "Dock powered")


def read(transfer: Transfer) -> Conditions:
    """Read them now; what the system does not tell is left out. DeviceError when the connection fails."""
    done = transfer.run(["sh", "-c", _SCRIPT], READ_SECONDS)
    if done.code != 0:
        raise DeviceError(f"conditions: the shell over there ended with code {done.code}: {done.stderr.strip()[:200]}")
    return parse(done.stdout, datetime.now(UTC).isoformat(timespec="seconds"))


def parse(text: str, when: str) -> Conditions:
    """Return the conditions in what the script printed; lines that make no sense are left out."""
    celsius: dict[str, float] = {}
    hz: dict[str, float] = {}
    modes: dict[str, str] = {}
    for line in text.splitlines():
        kind, _, rest = line.strip().partition(" ")
        name, _, value = rest.rpartition(" ") if kind in ("temp", "khz") else rest.partition(" ")
        value = value.strip()
        if kind == "temp" and re.fullmatch(r"-?\d+", value):
            celsius[_free(name, celsius)] = _celsius(int(value))
        elif kind == "khz" and value.isdigit():
            hz[name] = int(value) * 1000.0
        elif kind == "mode" and value:
            modes[name] = throttling(value) if name == "throttled" else value
        elif kind == "battery":
            _battery(rest, celsius, modes)
    return Conditions(when, celsius, hz, modes)


def _free(name: str, taken: Mapping[str, float]) -> str:
    """Return a name nothing has yet: two zones may be of one type."""
    number = 1
    while (f"{name} {number}" if number > 1 else name) in taken:
        number += 1
    return f"{name} {number}" if number > 1 else name


def _celsius(value: int) -> float:
    """Return degrees: the kernel gives thousandths, some vendors whole degrees."""
    return value / 1000 if abs(value) >= 1000 else float(value)


def _battery(rest: str, celsius: dict[str, float], modes: dict[str, str]) -> None:
    key, _, value = rest.partition("=")
    if key == "temperature" and re.fullmatch(r"-?\d+", value):
        celsius["battery"] = int(value) / 10
    elif key == "level":
        modes["battery"] = f"{value} %"
    elif key in _CHARGING and value == "true":
        modes["power"] = key


def throttling(value: str) -> str:
    """Return a Raspberry Pi's flags in words: ``0x50000`` is an undervoltage and throttling that are over."""
    try:
        flags = int(value, 16)
    except ValueError:
        return value
    return ", ".join(text for bit, text in _THROTTLED.items() if flags >> bit & 1) or "no"


def hottest(conditions: Conditions) -> float | None:
    """Return the highest temperature in degrees Celsius; None where no sensor tells any."""
    return max(conditions.celsius.values(), default=None)


def cool_down(
    read_now: Callable[[], Conditions],
    below_celsius: float,
    deadline_s: float,
    progress: Callable[[float], None] | None = None,
    poll_s: float = _POLL_SECONDS,
) -> Conditions:
    """Wait until every sensor is below a temperature; return the conditions then.

    progress  is told the highest temperature at every reading
    Returns at once where there is no sensor. DeviceError past the deadline names the sensor that is too warm.
    """
    end = time.monotonic() + deadline_s
    while True:
        now = read_now()
        warmest = hottest(now)
        if progress is not None and warmest is not None:
            progress(warmest)
        if warmest is None or warmest < below_celsius:
            return now
        if time.monotonic() >= end:
            sensor = max(now.celsius, key=lambda name: now.celsius[name])
            raise DeviceError(
                f"cool-down: {sensor} is at {warmest:g} degrees Celsius after {deadline_s:g} s, below "
                f"{below_celsius:g} is asked for; wait, cool it, or allow more"
            )
        time.sleep(min(poll_s, max(0.0, end - time.monotonic())))
