"""Rescales of accumulators in the forms that a DSP core computes in four to six instructions, proven exact here.

FLOOR   ``clamp8((offset + (acc * multiplier >> 32)) >> shift)``
DOUBLE  ``clamp8((offset - (acc < 0) + ((2 * acc * multiplier + 2^31) >> 32)) >> shift)``
WIDE    ``clamp16((offset + ((acc << left) * multiplier >> 32)) >> right)``, shift being ``left * 256 + right``

A rescale to int8 is a monotone step function of its accumulator. One rounding is FLOOR, if half a step is a multiple of
2^32; gemmlowp's two roundings are DOUBLE. Where the zero point is -128 only accumulators above 0 matter: there the two
are one with another constant. FLOOR has any constant, up to what no step notices, once some small number added to the
bias brings it to a multiple of 2^32.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from bitship.graph import DType
from bitship.graph.base import Ints
from bitship.graph.ops import Rescale, Rounding

SIXTEENTH = 4  # bits that sums of four-bit weights can be too far left
_WORD = 1 << 32
_FAR = 22  # a right shift whose thresholds are still computed in int64
_NEAR = np.stack([np.arange(1 << 15), -np.arange(1 << 15)], 1).reshape(-1)  # what may be added to a bias
_TRIED = (_NEAR[:64], _NEAR[64:2048], _NEAR[2048:])
_LIMIT = (1 << 31) - 1


class Form(enum.IntEnum):
    """``enum bitship_dsp_epilogue``: RAW leaves the accumulator to the general rescale."""

    FLOOR = 0
    DOUBLE = 1
    RAW = 2
    WIDE = 3


@dataclass(frozen=True)
class Epilogue:
    """A form and its numbers for every channel; ``added`` goes into the bias."""

    form: Form
    added: Ints
    multiplier: Ints
    offset: Ints
    shift: Ints

    def factors(self) -> Ints:
        """Return [channels, 3] int32: multiplier, offset, shift; [channels, 0] for RAW."""
        if self.form is Form.RAW:
            return np.zeros((len(self.added), 0), np.int32)
        return np.stack([self.multiplier, self.offset, self.shift], 1).astype(np.int32)

    def apply(self, acc: Ints) -> Ints:
        """Return what the kernels compute from [..., channels] accumulators that do not contain ``added`` yet."""
        v = acc + self.added
        if self.form is Form.WIDE:
            y = (self.offset + ((v << (self.shift >> 8)) * self.multiplier >> 32)) >> (self.shift & 255)
            return np.asarray(np.clip(y, -32768, 32767))
        if self.form is Form.FLOOR:
            y = (self.offset + (v * self.multiplier >> 32)) >> self.shift
        else:
            y = (self.offset - (v < 0) + ((2 * v * self.multiplier + (1 << 31)) >> 32)) >> self.shift
        return np.asarray(np.clip(y, -128, 127))


def sixteenth(requant: Rescale | None) -> Rescale | None:
    """Return the rescale of sums sixteen times as large: exact for one rounding, None for anything else."""
    if requant is None or requant.rounding is not Rounding.SINGLE or min(requant.shift) - SIXTEENTH < -31:
        return None
    return msgspec.structs.replace(requant, shift=tuple(s - SIXTEENTH for s in requant.shift))


def raw(channels: int) -> Epilogue:
    """Return the form that any rescale has."""
    zero = np.zeros(channels, np.int64)
    return Epilogue(Form.RAW, zero, zero, zero, zero)


def fit(requant: Rescale | None, lo: Ints, hi: Ints, biased: bool = True, wide: bool = False) -> Epilogue:
    """Return the cheapest exact form for accumulators of every channel in [lo, hi].

    requant  the op's epilogue, with one multiplier or one per channel
    biased   whether something may be added to the accumulators
    wide     whether the kernel stores int16 too
    """
    channels = len(lo)
    if requant is None or (requant.qmin, requant.qmax) != (requant.dtype.qmin, requant.dtype.qmax):
        return raw(channels)
    forms: tuple[_Fit, ...] = ()
    if requant.dtype is DType.INT8:
        forms = ((Form.FLOOR, _floor), (Form.DOUBLE, _double))
    elif requant.dtype is DType.INT16 and wide:
        forms = ((Form.WIDE, _wide),)
    if requant.pre_shift or not -(1 << 16) < requant.output_zero_point < 1 << 16:
        return raw(channels)
    for form, one in forms:
        rows = [one(requant, c, int(lo[c]), int(hi[c])) for c in range(channels)]
        found = [row for row in rows if row is not None]
        if len(found) == channels and (biased or not any(row[0] for row in found)):
            added, multiplier, offset, shift = np.array(found, np.int64).T
            return Epilogue(form, added, multiplier, offset, shift)
    return raw(channels)


_Row = tuple[int, int, int, int]  # added, multiplier, offset, shift
_Fit = tuple[Form, Callable[[Rescale, int, int, int], _Row | None]]


def _entry(r: Rescale, channel: int) -> tuple[int, int]:
    """Return multiplier and right shift of a channel."""
    i = channel if r.per_channel else 0
    return r.multiplier[i], -r.shift[i]


def _constant(r: Rescale, channel: int, lo: int, hi: int) -> int | None:
    """Return the only value a channel's output has, None when it has several."""
    i = channel if r.per_channel else 0
    if r.multiplier[i] == 0:
        return min(max(r.output_zero_point, -128), 127)
    one = Rescale((r.multiplier[i],), (r.shift[i],), 0, r.output_zero_point, r.rounding)
    left = max(r.shift[i], 0)
    if (max(abs(lo), abs(hi)) << left) > _LIMIT:
        return None
    first, last = (int(v) for v in one.apply(np.array([lo, hi], np.int64)))
    return first if first == last else None


def _floor(r: Rescale, channel: int, lo: int, hi: int) -> _Row | None:
    """FLOOR for one channel: one rounding, or two where nothing below 0 leaves -128."""
    m, right = _entry(r, channel)
    value = _constant(r, channel, lo, hi)
    if value is not None:
        return 0, 0, value, 0
    single = r.rounding is Rounding.SINGLE or right == 0  # without a right shift gemmlowp's second rounding is none
    while single and m < 1 << 30:
        m, right = 2 * m, right + 1
    zero_point = r.output_zero_point
    if not 1 <= right <= _FAR or not (single or zero_point <= -128):
        return None
    half = 1 << (30 + right)
    low, high = _slack(m, right, zero_point, single)
    found = _whole(m, half + (zero_point << (31 + right)), low, high)
    if found is None:
        return None
    added, offset = found
    most = max(abs(lo), abs(hi)) + abs(added)
    if most > _LIMIT or (most * m >> 32) + 1 + abs(offset) > _LIMIT:
        return None
    return added, m, offset, right - 1


def _slack(m: int, right: int, zero_point: int, single: bool) -> tuple[int, int]:
    """Return the constants, beside half a step, that give the steps of one rounding, or of two for acc >= 0."""
    least, aim = (-127 - zero_point, 0) if single else (max(-127 - zero_point, 1), 1 << 30)
    room = (np.arange(least, 128 - zero_point, dtype=np.int64) << (31 + right)) - (1 << (30 + right))
    first = -((-(room - aim)) // m)  # the least accumulator that reaches the step
    return int((room - first * m).max()), int((room - (first - 1) * m).min()) - 1


def _whole(m: int, constant: int, low: int, high: int) -> tuple[int, int] | None:
    """Return (added, offset): ``offset * 2^32 + added * m`` lies in constant + [low, high]."""
    for tried in _TRIED:
        above = (tried * m - (constant + low)) % _WORD
        good = np.flatnonzero(above <= high - low)
        if len(good):
            added = int(tried[good[0]])
            return added, (constant + low + int(above[good[0]]) - added * m) // _WORD
    return None


def _double(r: Rescale, channel: int, lo: int, hi: int) -> _Row | None:
    """DOUBLE for one channel: two roundings, any zero point."""
    m, right = _entry(r, channel)
    value = _constant(r, channel, lo, hi)
    if value is not None:
        return 0, 0, (value << 1) + 1, 1
    if r.rounding is Rounding.SINGLE or not 1 <= right <= _FAR:
        return None
    offset = (r.output_zero_point << right) + (1 << (right - 1))
    most = max(abs(lo), abs(hi))
    if 2 * most > _LIMIT or most + 2 + abs(offset) > _LIMIT:
        return None
    return 0, m, offset, right


def _wide(r: Rescale, channel: int, lo: int, hi: int) -> _Row | None:
    """WIDE for one channel: one rounding."""
    m, shift = _entry(r, channel)
    right, left = max(shift - 1, 1), max(2 - shift, 0)
    most = max(abs(lo), abs(hi)) << left
    offset = (r.output_zero_point << right) + (1 << (right - 1))
    if (
        r.rounding is not Rounding.SINGLE
        or shift > _FAR
        or most > _LIMIT
        or (most * m >> 32) + 1 + abs(offset) > _LIMIT
    ):
        return None
    return 0, m, offset, left * 256 + right
