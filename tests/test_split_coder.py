"""rANS and its tables: round trips, damage, and the C kernels against the specification."""

from collections.abc import Callable

import numpy as np
import pytest
from benchmarks.split_coder import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import kernels_built

from bitship import kernels
from bitship.errors import FormatError
from bitship.graph.base import Array
from bitship.split import package, rans, tables
from bitship.split.frame import Codec, Frame, RefusedError, unpack
from bitship.split.rans import Fault, StreamError
from bitship.split.tables import Tables

with_kernels = pytest.mark.skipif(not kernels_built(), reason="the C kernels are not built")


@st.composite
def any_tables(draw: st.DrawFn) -> Tables:
    """Tables that no counts lead to, too: any offsets, any 31 cuts of 1..4095."""
    channels = draw(st.integers(1, 4))
    cuts = st.lists(st.integers(1, 4095), min_size=31, max_size=31, unique=True)
    rows = [[0, *sorted(draw(cuts)), 4096] for _ in range(channels)]
    offsets = draw(st.lists(st.integers(-128, 127), min_size=channels, max_size=channels))
    return Tables(np.array(offsets, np.int8), np.array(rows, np.uint16))


@st.composite
def coded(draw: st.DrawFn) -> tuple[Tables, Array]:
    t = draw(any_tables())
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    near = st.integers(-3, 40)
    size = t.channels * height * width
    values = draw(st.lists(st.one_of(near, st.integers(-128, 127)), min_size=size, max_size=size))
    wide = np.array(values).reshape(t.channels, height, width) + t.offsets[:, None, None] * draw(st.booleans())
    return t, np.clip(wide, -128, 127).astype(np.int8)


def spec(t: Tables, symbols: Array) -> bytes:
    return rans.encode_spec(t, symbols.reshape(t.channels, -1))


@settings(deadline=None)
@given(coded())
def test_what_is_encoded_is_decoded(case: tuple[Tables, Array]) -> None:
    t, symbols = case
    stream = spec(t, symbols)
    found = rans.decode_spec(t, stream, symbols[0].size)
    np.testing.assert_array_equal(found.reshape(symbols.shape), symbols)
    assert rans.encode(t, symbols) == stream
    np.testing.assert_array_equal(rans.decode(t, stream, symbols.shape), symbols)


@settings(deadline=None, max_examples=40)
@given(coded(), st.binary(min_size=1, max_size=4))
def test_every_truncation_and_every_addition_is_refused(case: tuple[Tables, Array], more: bytes) -> None:
    t, symbols = case
    stream = spec(t, symbols)
    for end in range(len(stream)):
        with pytest.raises(StreamError) as refused:
            rans.decode(t, stream[:end], symbols.shape)
        assert refused.value.fault is (Fault.SHORT if end < 4 else Fault.END)
        with pytest.raises(StreamError):
            rans.decode_spec(t, stream[:end], symbols[0].size)
    with pytest.raises(StreamError):
        rans.decode(t, stream + more, symbols.shape)


@settings(deadline=None, max_examples=40)
@given(coded())
def test_every_flipped_bit_is_refused_or_caught_by_the_frame(case: tuple[Tables, Array]) -> None:
    t, symbols = case
    sent = Frame(1, spec(t, symbols), Codec.RANS, model=b"abcd", table=t.hash()[:4]).pack()
    for bit in range(8 * len(sent)):
        flipped = bytearray(sent)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RefusedError):
            unpack(bytes(flipped))


@settings(deadline=None, max_examples=200)
@given(any_tables(), st.binary(max_size=60), st.integers(1, 6))
def test_any_bytes_give_the_same_result_in_python_and_c(t: Tables, stream: bytes, pixels: int) -> None:
    def outcome(decode: Callable[[], Array]) -> object:
        try:
            return decode().tobytes()
        except StreamError as e:
            return e.fault

    in_c = outcome(lambda: rans.decode(t, stream, (t.channels, 1, pixels)))
    assert in_c == outcome(lambda: rans.decode_spec(t, stream, pixels))


@with_kernels
def test_a_thousand_tensors_have_the_same_streams_in_python_and_c() -> None:
    for case in cases(1000, seed=7, most=256):
        assert rans.encode(case.tables, case.symbols) == spec(case.tables, case.symbols)


def test_a_stream_costs_what_its_tables_say() -> None:
    r = np.random.default_rng(3)
    symbols = np.clip(np.rint(r.laplace(0, 2, (6, 40, 40))), -128, 127).astype(np.int8)
    counts = tables.count(symbols[None])
    t = tables.build(counts)
    assert abs(len(rans.encode(t, symbols)) - t.bits(counts) / 8 - 4) <= 3
    p = counts / counts.sum(1, keepdims=True)
    entropy = -(counts * np.log2(p, where=p > 0, out=np.zeros_like(p))).sum()
    assert entropy < t.bits(counts) < 1.01 * entropy


def test_tables_are_those_of_the_reference_in_python_integers() -> None:
    counts = np.zeros((3, 256), np.int64)
    counts[0, 128 + 5] = 10  # one symbol
    counts[1, 0], counts[1, 255] = 7, 7  # the ends: one of them is always an escape
    t = tables.build(counts)
    assert t.offsets.tolist() == [-10, 112, -15]
    f = np.diff(t.cumulative.astype(int), axis=1)
    rest = 4096 // 52  # weights 2 * 10 + 1 and 31 times 1
    assert f[0].tolist() == [4096 - 31 * rest if i == 15 else rest for i in range(32)]
    assert f[1, 15] > 4096 // 32
    assert f[1, 31] > 4096 // 32  # -128 is far from the offset
    assert f[2].tolist() == [128] * 32  # no counts
    assert tables.parse(t.block(), 3).block() == t.block()
    assert t.hash() == package.table_hash(t.block())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 1 << 40), min_size=256, max_size=256), st.integers(0, 12))
def test_tables_of_any_counts_are_valid(row: list[int], thin: int) -> None:
    counts = np.array([row], np.int64) >> (3 * thin)
    f = np.diff(tables.build(counts).cumulative.astype(int), axis=1)
    assert f.sum() == 4096
    assert f.min() >= 1


@pytest.mark.parametrize(
    ("at", "value"), [(0, 1), (32, 4095), (5, 4096), (7, 0)], ids=["start", "end", "too high", "falls"]
)
def test_tables_that_are_no_tables_are_refused(at: int, value: int) -> None:
    t = tables.build(np.zeros((2, 256), np.int64))
    rows = t.cumulative.copy()
    rows[1, at] = value
    with pytest.raises(FormatError, match="channel 1"):
        Tables(t.offsets, rows)
    with pytest.raises(FormatError, match="channel 1"):
        tables.parse(t.offsets.tobytes() + rows.astype("<u2").tobytes(), 2)
    with pytest.raises(FormatError, match="are needed"):
        tables.parse(t.block()[:-1], 2)


def test_symbols_of_another_shape_or_dtype_are_refused() -> None:
    t = tables.build(np.zeros((2, 256), np.int64))
    for bad in (np.zeros((3, 4, 4), np.int8), np.zeros((2, 4, 4), np.int16), np.zeros((2, 0, 4), np.int8)):
        with pytest.raises(FormatError, match="are needed"):
            rans.encode(t, bad)
    with pytest.raises(FormatError, match="channels"):
        rans.decode(t, b"", (3, 1, 1))


@with_kernels
def test_symbols_of_codes_are_the_same_in_python_and_c() -> None:
    k = kernels.load()
    codes = np.arange(-128, 128, dtype=np.int8).reshape(1, 8, 8, 4)
    for shift in range(8):
        for zero_point in (-128, -5, 0, 127):
            wanted = package.symbols_of(codes, zero_point, shift)[0].transpose(2, 0, 1)
            out = np.empty((4, 8, 8), np.int8)
            error = k.lib.bitship_rans_symbols(
                k.ffi.cast("int8_t *", codes.ctypes.data), 64, 4, zero_point, shift, k.ffi.from_buffer("int8_t[]", out)
            )
            assert error == 0
            np.testing.assert_array_equal(out, wanted)


@with_kernels
def test_the_encoder_refuses_a_buffer_that_is_too_small() -> None:
    k = kernels.load()
    case = cases(4, most=200)[3]
    stream = spec(case.tables, case.symbols)
    flat = np.ascontiguousarray(case.symbols)
    for capacity in range(len(stream) + 8):
        out = np.full(capacity + 1, 0x5A, np.uint8)
        found = k.lib.bitship_rans_encode(
            rans._tables_c(k, case.tables),
            k.ffi.cast("int8_t *", flat.ctypes.data),
            flat[0].size,
            k.ffi.cast("uint8_t *", out.ctypes.data),
            capacity,
        )
        assert found == (len(stream) if capacity >= len(stream) + 3 else -2) or (
            found == len(stream) and capacity >= len(stream)
        )
        assert out[capacity] == 0x5A


def test_without_the_c_kernels_the_specification_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases(3, most=100)[2]
    wanted = rans.encode(case.tables, case.symbols)
    monkeypatch.setattr(rans, "_kernels", lambda: None)
    assert rans.encode(case.tables, case.symbols) == wanted
    np.testing.assert_array_equal(rans.decode(case.tables, wanted, case.symbols.shape), case.symbols)
