"""ST's PowerShield: both formats, lost samples, errors of its own, energy; against a stand-in on a pseudo terminal."""

import numpy as np
import pytest
from standins import ports
from standins.bench_load import Board
from standins.lpm01a import Shield, decimal, hexa, stamp

from bitship.device.energy import Windows, measure_energy
from bitship.device.meters.lpm01a import Lpm01aFormat, Lpm01aMeter, Lpm01aOutput
from bitship.device.meters.lpm01a_parser import Parsed, parse_ascii, parse_binary
from bitship.errors import DeviceError

SHORT = Windows(window_s=0.4, baseline_s=0.1, settle_s=0.05, least=2, most=2)
BOTH = pytest.mark.parametrize("binary", [False, True], ids=["ascii_dec", "bin_hexa"])


def parse(data: bytes, binary: bool) -> Parsed:
    return parse_binary(data, "here") if binary else parse_ascii(data, "here")


def stream(binary: bool, values: list[float], rate: int) -> bytes:
    parts = []
    for i, v in enumerate(values):
        parts += [stamp(i // rate, binary)] if i % rate == 0 else []
        parts.append(hexa(v) if binary else decimal(v))
    return b"".join(parts)


def test_the_manuals_examples() -> None:
    assert parse_ascii(b"6409-07\r\n", "here").values[0] == pytest.approx(640.9e-6)
    assert parse_binary(bytes.fromhex("52A0"), "here").values[0] == pytest.approx(0x2A0 * 16**-5)


@BOTH
def test_values_stamps_and_events_come_back(binary: bool) -> None:
    values = np.geomspace(2e-8, 4e-2, 500).tolist()
    data = stream(binary, values, 100)
    event = b"\xf0\xf2event 00 ris\xff\xff" if binary else b"event 00 ris\r\n"
    end = b"\xf0\xf4\xff\xff" if binary else b"PowerShield > Acquisition completed\r\n"
    found = parse(event + data + event + end, binary)
    np.testing.assert_allclose(found.values, values, rtol=2e-3)
    assert found.events == (0, 500)
    assert found.stamps == tuple((100 * i, float(i)) for i in range(5))
    assert found.lost(100) == 0


@BOTH
def test_samples_missing_between_stamps_are_counted(binary: bool) -> None:
    sample = hexa(1e-3) if binary else decimal(1e-3)
    whole = sample * 100
    seconds = [stamp(i, binary) + whole for i in range(3)]
    assert parse(b"".join(seconds), binary).lost(100) == 0
    seconds[1] = stamp(1, binary) + sample * 80
    assert parse(b"".join(seconds), binary).lost(100) == 20


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xf0\xf1overrun\xff\xff", "the shield says: overrun"),
        (b"\xf0\xf5\xff\xff", "too much current"),
        (b"\xf0\xf6\xff\xff", "lost its power"),
        (b"\xf0\xf3\x00\x00\x00\x01\x00\xff\x00", "neither a sample nor a note"),
    ],
)
def test_the_shields_own_errors_end_a_binary_trace(data: bytes, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        parse_binary(hexa(1e-3) + data, "here")


def test_a_damaged_line_ends_a_text_trace() -> None:
    with pytest.raises(DeviceError, match=r"'64x9-07' came between samples"):
        parse_ascii(b"6409-07\r\n64x9-07\r\n", "here")


@pytest.mark.parametrize(
    ("form", "output", "rate"),
    [
        (Lpm01aFormat.ASCII, Lpm01aOutput.ENERGY, 5_000),
        (Lpm01aFormat.BINARY, Lpm01aOutput.ENERGY, 10_000),
        (Lpm01aFormat.BINARY, Lpm01aOutput.CURRENT, 20_000),
    ],
)
def test_energy_is_within_one_per_cent_of_the_integral(form: Lpm01aFormat, output: Lpm01aOutput, rate: int) -> None:
    board = Board()
    with ports.serve(Shield(board.amps, board.marker).serve) as port:
        meter = Lpm01aMeter(port, rate_hz=rate, format=form, output=output)
        found = measure_energy(board, meter, (), SHORT)
    energy = found.samples[0]
    assert found.edges == "marker"
    for i, value in enumerate(energy.values):
        assert value == pytest.approx(board.joules(i - len(energy.values)) / found.runs * 1e6, rel=0.01)


def test_lost_samples_are_an_error_and_no_figure() -> None:
    board = Board()
    shield = Shield(board.amps, board.marker, drop=list(range(2000, 2200)))
    with ports.serve(shield.serve) as port, pytest.raises(DeviceError, match=r"lost 200 samples; nothing was computed"):
        measure_energy(board, Lpm01aMeter(port), (), Windows(window_s=1.5, least=1, most=1))


def test_a_refused_command_and_a_silent_port_are_said() -> None:
    def refuse(read: ports.Read, write: ports.Write) -> None:
        word = b""
        while not word.endswith(b"\n"):
            word += read(1)
        write(b"PowerShield > error htc\r\nError detail: busy\r\n")
        read(100_000)

    with (
        ports.serve(refuse) as port,
        pytest.raises(DeviceError, match=r"'htc' was refused"),
        Lpm01aMeter(port).record(),
    ):
        pass


@pytest.mark.parametrize(
    "wrong", [{"supply_mv": 5000}, {"rate_hz": 3000}, {"rate_hz": 10_000}, {"rate_hz": 20_000, "format": "bin"}]
)
def test_settings_the_shield_does_not_have_are_refused(wrong: dict[str, object]) -> None:
    if wrong.get("format"):
        wrong["format"] = Lpm01aFormat.BINARY
    with pytest.raises(ValueError, match=r"allowed|with"):
        Lpm01aMeter("/dev/ttyACM0", **wrong)  # type: ignore[arg-type]
