"""The Power Profiler Kit's decoder, calibration and driver, against a stand-in on a pseudo terminal."""

import time

import numpy as np
import pytest
from benchmarks.ppk2_decoder import rate
from hypothesis import given, settings
from hypothesis import strategies as st
from standins import ports
from standins.bench_load import Board
from standins.ppk2 import encode, metadata, ppk2

from bitship.device.energy import Windows, measure_energy
from bitship.device.meters.ppk2 import Ppk2Meter
from bitship.device.meters.ppk2_decoder import RATE_HZ, Calibration, Decoder
from bitship.device.power import Ppk2Power
from bitship.errors import DeviceError

SHORT = Windows(window_s=0.3, baseline_s=0.1, settle_s=0.05, least=2, most=2)


def decoder() -> Decoder:
    return Decoder(Calibration.of(metadata().decode()).amps(3.3))


def words(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    amps = np.random.default_rng(count).uniform(1e-6, 0.2, count)
    return encode(amps, np.arange(count).astype(np.uint8), 0, 3.3)


def test_currents_of_every_range_come_back_within_a_step_of_the_adc() -> None:
    amps = np.geomspace(1e-6, 0.5, 5000)
    made = decoder()
    made.feed(encode(amps, np.zeros(5000, np.uint8), 0, 3.3).astype("<u4").tobytes())
    found = made.amps()
    step = 4 * 1.8 / 163840 / np.array([1003.3506, 101.5865, 10.3027, 0.9636, 0.0564])
    k = np.searchsorted((40e-6, 400e-6, 4e-3, 40e-3), amps, side="right")
    assert np.all(np.abs(found - amps) <= 0.75 * step[k])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_bytes_may_be_cut_anywhere_and_every_lost_sample_is_counted(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 3000))
    stream = words(count)
    runs = data.draw(st.lists(st.tuples(st.integers(1, count - 1), st.integers(1, 63)), max_size=8))
    dropped = np.zeros(count, np.bool_)
    for at, length in runs:
        dropped[at : min(at + length, count - 1)] = True  # the ends stay: a gap has two sides
    kept = stream[~dropped]
    gaps = np.diff(np.flatnonzero(~dropped)) - 1
    raw = kept.astype("<u4").tobytes()
    made, at = decoder(), 0
    while at < len(raw):
        size = data.draw(st.integers(1, 4000))
        made.feed(raw[at : at + size])
        at += size
    assert made.count == len(kept)
    assert made.lost == int((gaps % 64).sum())
    assert (made.lost > 0) == bool(np.any(gaps % 64))
    np.testing.assert_array_equal(made.logic(), np.arange(count).astype(np.uint8)[~dropped])


@settings(max_examples=50, deadline=None)
@given(st.integers(100, 2000), st.integers(1, 3))
def test_a_lost_byte_is_never_taken_for_whole_samples(at: int, length: int) -> None:
    raw = words(2000).astype("<u4").tobytes()
    made = decoder()
    made.feed(raw[:at] + raw[at + length :])
    assert made.lost > 0


def test_the_decoder_keeps_up_with_the_kit_many_times_over() -> None:
    found, lost = rate(2.0)
    assert found >= 3 * RATE_HZ
    assert lost == 0


def test_energy_between_the_markers_edges_is_within_one_per_cent_of_the_integral() -> None:
    board = Board()
    with ppk2(board.amps, board.marker, 5) as kit:
        found = measure_energy(board, Ppk2Meter(kit.port, marker=5), (), SHORT)
    energy = found.samples[0]
    for i, value in enumerate(energy.values):
        assert value == pytest.approx(board.joules(i - len(energy.values)) / found.runs * 1e6, rel=0.01)
    assert found.edges == "marker"
    assert len(found.trace.seconds) == len(found.trace.high) <= 1000
    (start, end) = found.trace.windows[0]
    assert end - start == pytest.approx(0.3, rel=0.01)
    assert found.samples[3].name == "idle power"
    assert np.mean(found.samples[3].values) == pytest.approx(0.002 * 3.3 * 1e3, rel=0.05)


def test_energy_by_the_hosts_clock_states_how_wrong_it_may_be() -> None:
    board = Board(slack_s=0.01)
    with ppk2(board.amps, board.marker) as kit:
        found = measure_energy(board, Ppk2Meter(kit.port), (), SHORT)
    energy = found.samples[0]
    assert found.edges == "host clock"
    assert energy.resolution > 0
    for i, value in enumerate(energy.values):
        assert abs(value - board.joules(i - len(energy.values)) / found.runs * 1e6) <= energy.resolution


@pytest.mark.parametrize("drop", [[12_000], [12_000, 12_001, 20_000]])
def test_one_lost_sample_is_an_error_and_no_figure(drop: list[int]) -> None:
    board = Board()
    with ppk2(board.amps, board.marker, 0) as kit:
        kit.drop = drop
        with pytest.raises(DeviceError, match=rf"lost {len(drop)} samples; nothing was computed"):
            measure_energy(board, Ppk2Meter(kit.port, marker=0), (), SHORT)


def test_a_missing_edge_is_an_error_and_no_figure() -> None:
    board = Board(pulses=1)
    with (
        ppk2(board.amps, board.marker, 0) as kit,
        pytest.raises(DeviceError, match="1 edges of the marker in a burst, 2 are expected"),
    ):
        measure_energy(board, Ppk2Meter(kit.port, marker=0), (), SHORT)


def modem(read: ports.Read, write: ports.Write) -> None:
    write(b"hello from a modem")
    read(10_000)


def test_another_device_on_the_port_is_said() -> None:
    with (
        ports.serve(modem) as port,
        pytest.raises(DeviceError, match=r"no calibration after 3 s.*is it a PPK2"),
        Ppk2Meter(port).record(),
    ):
        pass
    with pytest.raises(DeviceError, match="cannot be opened"), Ppk2Meter("/dev/no-such-port").record():
        pass


def test_a_calibration_without_a_number_is_refused() -> None:
    with pytest.raises(DeviceError, match="no GS3"):
        Calibration.of(metadata().decode().replace("GS3", "XX3"))


def test_the_kit_switches_a_boards_supply() -> None:
    board = Board()
    with ppk2(board.amps, board.marker) as kit:
        Ppk2Power(kit.port, 1800).set(True)
        end = time.monotonic() + 2
        while not kit.on and time.monotonic() < end:
            time.sleep(0.01)
        assert kit.on
        assert (round(kit.volts, 3), kit.mode) == (1.8, 2)
        Ppk2Power(kit.port, 1800).set(False)
        end = time.monotonic() + 2
        while kit.on and time.monotonic() < end:
            time.sleep(0.01)
        assert not kit.on


@pytest.mark.parametrize("wrong", [{"supply_mv": 5001}, {"supply_mv": 100}, {"marker": 8}])
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"allowed|needed"):
        Ppk2Meter("/dev/ttyACM0", **wrong)  # type: ignore[arg-type]
