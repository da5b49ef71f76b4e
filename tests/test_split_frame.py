"""Frames: packed, found again in a damaged stream, the same in Python and in C."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import kernels_built

from bitship import kernels
from bitship.errors import FormatError
from bitship.split import frame
from bitship.split.frame import Answer, Codec, Frame, Kind, Reader, Refusal, RefusedError, Source, unpack

HASH = st.binary(min_size=4, max_size=4)
FRAMES = st.builds(
    Frame,
    kind=st.integers(1, 4),
    payload=st.binary(max_size=60),
    codec=st.integers(0, 2),
    rung=st.integers(0, 15),
    sequence=st.integers(0, 65535),
    model=HASH,
    table=HASH,
)


def test_a_frame_has_the_bytes_of_the_contract() -> None:
    f = Frame(Kind.FEATURES, b"xyz", Codec.RANS, 2, 0x0201, b"mode", b"tabl")
    data = f.pack()
    assert data[:-4] == bytes([0xB5, 0x11, 0x12, 0x01, 0x02, 3, 0]) + b"modetablxyz"
    assert unpack(data) == f


@settings(deadline=None)
@given(st.lists(FRAMES, max_size=6), st.lists(st.binary(max_size=20), min_size=7, max_size=7), st.randoms())
def test_frames_between_noise_are_found(frames: list[Frame], noise: list[bytes], r: random.Random) -> None:
    clean = [bytes(b for b in n if b != frame.START) for n in noise]
    data = b"".join(n + f.pack() for n, f in zip(clean, frames, strict=False)) + clean[-1]
    reader, found, at = Reader(), [], 0
    while at < len(data):
        step = r.randint(1, 40)
        found += reader.feed(data[at : at + step])
        at += step
    assert found == frames
    assert reader.dropped == sum(len(n) for n in clean[: len(frames)]) + len(clean[-1])


def damaged(r: random.Random, frames: list[Frame]) -> bytes:
    data = bytearray(b"".join(f.pack() for f in frames))
    for _ in range(r.randint(0, 6)):
        at = r.randrange(len(data))
        match r.randrange(4):
            case 0:
                data[at] ^= 1 << r.randrange(8)
            case 1:
                del data[at : at + r.randint(1, 9)]
            case 2:
                data[at:at] = bytes([frame.START]) + r.randbytes(r.randint(0, 9))
            case _:
                data[at:at] = data[r.randrange(len(data)) :][: r.randint(1, 30)]
        if not data:
            break
    return bytes(data)


@pytest.mark.skipif(not kernels_built(), reason="the C kernels are not built")
@settings(deadline=None, max_examples=300)
@given(st.lists(FRAMES, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_a_damaged_stream_gives_the_same_frames_in_python_and_c(frames: list[Frame], r: random.Random) -> None:
    k, capacity = kernels.load(), 90
    data = damaged(r, frames)
    reader = Reader(capacity)
    buffer = np.zeros(capacity, np.uint8)
    c = k.ffi.new("struct bitship_frame_reader *")
    c.buffer, c.capacity = k.ffi.cast("uint8_t *", buffer.ctypes.data), capacity
    one = k.ffi.new("struct bitship_frame *")
    in_python: list[Frame] = []
    in_c: list[Frame] = []

    def take(function: Callable[..., int]) -> None:
        while function(c, one):
            payload = bytes(k.ffi.buffer(one.payload, one.payload_bytes))
            hashes = bytes(one.model), bytes(one.table)
            in_c.append(Frame(one.kind, payload, one.codec, one.rung, one.sequence, *hashes))

    at = 0
    while at < len(data):
        piece = data[at : at + r.randint(1, 50)]
        in_python += reader.feed(piece)
        while piece:
            taken = k.lib.bitship_frame_feed(c, piece, len(piece))
            at, piece = at + taken, piece[taken:]
            take(k.lib.bitship_frame_next)
    in_python += reader.idle()
    take(k.lib.bitship_frame_idle)
    assert in_c == in_python
    assert c.dropped == reader.dropped
    assert all(f in frames for f in in_python)


@pytest.mark.skipif(not kernels_built(), reason="the C kernels are not built")
@given(FRAMES)
def test_a_frame_packed_in_c_is_that_of_python(f: Frame) -> None:
    k = kernels.load()
    payload = k.ffi.from_buffer(f.payload)
    fields = {"kind": f.kind, "codec": f.codec, "rung": f.rung, "sequence": f.sequence}
    made = k.ffi.new(
        "struct bitship_frame *",
        fields | {"payload_bytes": len(f.payload), "model": f.model, "table": f.table, "payload": payload},
    )
    out = k.ffi.new("uint8_t[200]")
    wanted = f.pack()
    assert k.lib.bitship_frame_pack(made, out, 200) == len(wanted)
    assert bytes(k.ffi.buffer(out, len(wanted))) == wanted
    assert k.lib.bitship_frame_pack(made, out, len(wanted) - 1) == -1


def test_a_frame_that_stays_unfinished_hides_none_behind_it() -> None:
    whole = Frame(Kind.HELLO, b"hello").pack()
    reader = Reader()
    assert reader.feed(bytes([0xB5, 0x11, 0, 0, 0, 0xFF, 0xFF]) + whole) == []  # a header that promises 65,535 B
    assert reader.waiting
    assert [f.payload for f in reader.idle()] == [b"hello"]
    assert not reader.waiting


def test_a_frame_above_the_readers_capacity_is_skipped_at_once() -> None:
    reader = Reader(capacity=40)
    data = Frame(Kind.FEATURES, bytes(100)).pack() + Frame(Kind.HELLO).pack()
    assert [f.kind for f in reader.feed(data)] == [Kind.HELLO]


@pytest.mark.parametrize(
    "bad",
    [Frame(16), Frame(1, rung=16), Frame(1, sequence=65536), Frame(1, model=b"abc"), Frame(1, bytes(65536))],
)
def test_fields_out_of_range_are_refused(bad: Frame) -> None:
    with pytest.raises(FormatError, match="frame:"):
        bad.pack()


@given(st.integers(0, 65535), st.integers(0, 65535), st.sampled_from(Source))
def test_answers_come_back(label: int, confidence: int, source: Source) -> None:
    a = Answer(label, confidence, source)
    assert len(a.pack()) == 6
    assert Answer.unpack(a.pack()) == a
    for bad in (a.pack()[:-1], a.pack() + b"x", a.pack()[:4] + b"\x09\x00"):
        with pytest.raises(FormatError, match="answer:"):
            Answer.unpack(bad)


def test_refusals_come_back_by_name() -> None:
    e = frame.refused(frame.refusal(Refusal.STALE_TABLE, "table 01: 02 is needed"))
    assert isinstance(e, RefusedError)
    assert (e.code, str(e)) == (Refusal.STALE_TABLE, "STALE_TABLE: table 01: 02 is needed")
    assert frame.refused(b"").code is frame.refused(b"\xff?").code is Refusal.INTERNAL
    assert len(frame.refusal(Refusal.BUSY, "é" * 500)) <= 201
