"""Numbers beyond 32 bits, in limbs of 15 bits: what TOSA's int32 operators can carry exactly.

A number is ``sum of limbs[i] * 2^(15 i)``; all limbs but the last lie in [0, 2^15), the last has the sign. A product
of two limbs has 30 bits, so a column of a product of three-limb numbers fits int32 with its carry.
"""

from collections.abc import Sequence

import numpy as np

from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import Value
from bitship.graph.base import Ints

BITS = 15
BASE = 1 << BITS
_HIGH = (1 << 31) - 1
Limbs = list[Value]


def carry(e: Emitter, columns: Sequence[Value]) -> Limbs:
    """Return limbs of columns; the last one keeps what is left."""
    limbs: Limbs = []
    over: Value | None = None
    for i, column in enumerate(columns):
        total = column if over is None else e.add(column, over)
        if i == len(columns) - 1:
            limbs.append(total)
        else:
            limbs.append(e.low_bits(total, BITS))
            over = e.shift_right(total, BITS) if total.lo < 0 or total.hi >= BASE else None
    return limbs


def split(e: Emitter, x: Value) -> Limbs:
    """Return the limbs of an int32, as many as its range needs."""
    limbs: Limbs = []
    while x.lo < -BASE or x.hi >= BASE:
        limbs.append(e.low_bits(x, BITS))
        x = e.shift_right(x, BITS)
    return [*limbs, x]


def constant(e: Emitter, array: Ints) -> Limbs:
    """Return the limbs of a constant, as many as its largest element needs; unsigned where nothing is negative."""
    limbs: Limbs = []
    while (array < -BASE).any() or (array >= BASE).any():
        limbs.append(e.const(array & (BASE - 1)))
        array = array >> BITS
    return [*limbs, e.const(array)]


def multiply(e: Emitter, a: Limbs, b: Limbs) -> list[Value | None]:
    """Return the columns of a product; None where a column is empty."""
    columns: list[Value | None] = [None] * (len(a) + len(b) - 1)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            if (p.lo, p.hi) == (0, 0) or (q.lo, q.hi) == (0, 0):
                continue
            term, had = e.mul(p, q), columns[i + j]
            columns[i + j] = term if had is None else e.add(had, term)
    return columns


def dense(e: Emitter, columns: Sequence[Value | None], like: Value) -> list[Value]:
    """Return columns with zeros where there were none."""
    zero = e.const(np.zeros((1,) * like.rank, np.int64))
    return [zero if c is None else c for c in columns]


def product(e: Emitter, a: Limbs, b: Limbs) -> Limbs:
    """Return the limbs of a product."""
    return carry(e, dense(e, multiply(e, a, b), a[0]))


def subtract(e: Emitter, a: Limbs, b: Limbs) -> Limbs:
    """Return ``a - b``."""
    columns = []
    for i in range(max(len(a), len(b))):
        if i >= len(b):
            columns.append(a[i])
        elif i >= len(a):
            columns.append(e.sub(0, b[i]))
        else:
            columns.append(e.sub(a[i], b[i]))
    return carry(e, columns)


def add_constant(e: Emitter, a: Limbs, value: int) -> Limbs:
    """Return ``a + value`` for a constant that is not negative."""
    if value == 0:
        return a
    parts = [value >> (BITS * i) & (BASE - 1) for i in range((value.bit_length() + BITS - 1) // BITS)]
    columns: list[Value] = []
    for i in range(max(len(a), len(parts))):
        if i >= len(a):
            columns.append(e.term(parts[i], a[0]))
        else:
            columns.append(e.add(a[i], parts[i]) if i < len(parts) and parts[i] else a[i])
    return carry(e, columns)


def proper(e: Emitter, a: Limbs, bits: int) -> Limbs:
    """Return a number in [0, 2^bits) with every limb in [0, 2^15), and exactly the limbs that it can need."""
    count = (bits + BITS - 1) // BITS
    limbs = list(a)
    while limbs[-1].hi >= BASE:
        top = limbs.pop()
        limbs += [e.low_bits(top, BITS), e.shift_right(top, BITS)]
    while len(limbs) < count:
        limbs.append(e.const(np.zeros((1,) * a[0].rank, np.int64)))
    return [limb.within(0, BASE - 1) for limb in limbs[:count]]


def bit_length(e: Emitter, a: Limbs) -> Value:
    """Return the number of bits of a proper number."""
    found: Value | None = None
    for i, limb in enumerate(a):
        bits = e.sub(32, e.leading_zeros(limb))
        here = bits if i == 0 else e.select(e.greater(limb, 0), e.add(bits, BITS * i), 0)
        found = here if found is None else e.maximum(found, here)
    assert found is not None
    return found


def shift_left(e: Emitter, a: Limbs, amount: Value, count: int) -> Limbs:
    """Return a proper number times ``2^amount`` in ``count`` limbs, of which the result must need no more."""
    zero = e.const(np.zeros((1,) * a[0].rank, np.int64))
    limbs = [*a, *[zero] * (count - len(a))][:count]
    places = e.intdiv(amount, e.term(BITS, amount))
    rest = e.sub(amount, e.mul(places, BITS), (0, BITS - 1))
    limbs = carry(e, [e.shift_left(x, rest) for x in limbs])
    limbs = [x.within(0, BASE - 1) for x in limbs]
    for step in (4, 2, 1):
        if places.hi < step:
            continue
        moved = e.greater_equal(places, step)
        limbs = [e.select(moved, limbs[i - step] if i >= step else 0, limbs[i]) for i in range(count)]
        places = e.select(moved, e.sub(places, step), places).within(0, step - 1)
    return limbs


def divide(e: Emitter, high: Value, digits: Sequence[Value | int], divisor: Value) -> Value:
    """Return ``floor((high * 2^(15 n) + digits) / divisor)`` for a divisor in [2^30, 2^31) and high at most that.

    digits  n proper limbs, the highest first; the quotient has 15 bits for each, and must fit int32

    Schoolbook division by the divisor's upper 16 bits: with such a divisor a guess is one too large at most.
    """
    upper = e.shift_right(divisor, BITS)
    lower = e.low_bits(divisor, BITS)
    quotient: Value | None = None
    rest = high
    for digit in digits:
        guess = e.intdiv(rest, upper, (0, BASE))
        over = e.sub(rest, e.mul(guess, upper, reach=(0, _HIGH)), (0, 2 * BASE - 2))
        raised = e.add(e.mul(over, BASE, reach=(0, _HIGH - BASE + 1)), digit, (0, _HIGH))
        left = e.sub(raised, e.mul(guess, lower), (-(1 << 30), _HIGH))
        negative = e.greater(e.term(0, left), left)
        guess = e.sub(guess, e.wide(negative), (0, BASE))
        rest = e.add(left, e.select(negative, divisor, 0), (0, _HIGH))
        quotient = guess if quotient is None else e.add(e.mul(quotient, BASE, reach=(0, 1 << 30)), guess, (0, _HIGH))
    assert quotient is not None
    return quotient


def reciprocal(e: Emitter, divisor: Value) -> Value:
    """Return ``floor(2^60 / divisor)``, in (2^29, 2^30], for a divisor in [2^30, 2^31)."""
    return divide(e, e.term(1 << 30, divisor), (0, 0), divisor).within(1 << 29, 1 << 30)
