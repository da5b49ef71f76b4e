"""Roots and reciprocals of the primitives, on a machine of NumPy: exact at every corner of their ranges."""

import math
from typing import Any

import numpy as np
import pytest

from bitship.converters.primitives import LOWERINGS, Machine, Value
from bitship.converters.primitives.arithmetic import half_away
from bitship.converters.primitives.roots import reciprocal, root
from bitship.graph import DType
from bitship.graph.base import Array
from bitship.graph.ops import OPS


class NumpyMachine(Machine):
    """The primitives the functions under test use; every value is a constant."""

    def new_constant(self, array: Array) -> Value:
        return self.value(array)

    @staticmethod
    def value(array: Array) -> Value:
        return Value("", array.shape, DType.of(array), array)

    def _of(self, array: Any, like: Value) -> Value:
        wide = np.asarray(array)
        made = wide.astype(like.dtype.numpy)
        assert (made == wide).all(), "a value left its dtype"
        return self.value(made)

    def cast(self, x: Value, dtype: DType) -> Value:
        assert x.array is not None
        return self.value(x.array.astype(dtype.numpy))

    def add(self, a: Value, b: Value) -> Value:
        return self._of(self._wide(a) + self._wide(b), a)

    def sub(self, a: Value, b: Value) -> Value:
        return self._of(self._wide(a) - self._wide(b), a)

    def mul(self, a: Value, b: Value) -> Value:
        return self._of(self._wide(a) * self._wide(b), a)

    def at_least(self, a: Value, b: Value) -> Value:
        return self._of(self._wide(a) >= self._wide(b), a)

    def affine(self, x: Value, factor: Any, addend: Any, down: Any) -> Value:
        bracket = self._wide(x) * factor + np.asarray(addend, object)
        assert all(abs(int(v)) < 1 << 63 for v in bracket.flat)
        return self._of(bracket // 2 ** np.asarray(down, object), Value("", (), DType.INT32))

    def shift32(self, x: Value, amount: Any) -> Value:
        return self._of(self._wide(x) // 2 ** np.asarray(amount, object), x)

    def look_up(self, table: Array, index: Value) -> Value:
        assert index.array is not None
        assert int(index.array.min()) >= 0
        return self.value(table[index.array])

    @staticmethod
    def _wide(x: Value) -> Any:
        assert x.array is not None
        return x.array.astype(object)

    def _absent(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("not used here")

    maximum = minimum = affine64 = shift_rows = quotient = ratio = total = largest = smallest = _absent
    argmax = reshape = transpose = concat = pad = slice = take = product = convolve = depthwise = max_pool = _absent


@pytest.fixture
def machine() -> NumpyMachine:
    NumpyMachine.__abstractmethods__ = frozenset()
    return NumpyMachine()


def near(edges: list[int], low: int, high: int, seed: int) -> Array:
    r = np.random.default_rng(seed)
    drawn = [int(v) for v in r.integers(low, high, 4000)]
    return np.array([v + d for v in [*edges, *drawn] for d in (-1, 0, 1) if low <= v + d < high], np.int64)


def test_reciprocals_are_exact(machine: NumpyMachine) -> None:
    steps = [(1 << 30) + (i << 20) for i in range(1025)]
    d = near(steps, 1 << 30, 1 << 31, 0)
    found = reciprocal(machine, machine.value(d)).array
    assert found is not None
    assert [int(v) for v in found] == [(1 << 60) // int(v) for v in d]


def test_roots_are_exact(machine: NumpyMachine) -> None:
    r = np.random.default_rng(1)
    squares = [int(v) ** 2 for v in r.integers(1 << 30, 1 << 31, 4000)]
    x = near([*squares, *(i << 52 for i in range(256, 1025))], 1 << 60, 1 << 62, 2)
    found = root(machine, machine.value(x)).array
    assert found is not None
    assert [int(v) for v in found] == [math.isqrt(int(v)) for v in x]


@pytest.mark.parametrize("amount", [1, 2, 7, 30])
def test_half_away_rounds_ties_from_zero_over_all_of_int32(machine: NumpyMachine, amount: int) -> None:
    half = 1 << (amount - 1)
    x = np.array([-(2**31) + 1, 2**31 - 1, -half, half, -3 * half, 3 * half, -half - 1, half - 1, 0, -1, 1], np.int64)
    x = x[(x > -(2**31)) & (x < 2**31)].astype(np.int32)
    found = half_away(machine, machine.value(x), amount).array
    assert found is not None
    wanted = [int(math.copysign((abs(int(v)) + half) >> amount, int(v))) for v in x]
    assert [int(v) for v in found] == wanted


def test_every_op_of_the_graph_has_a_lowering() -> None:
    assert set(LOWERINGS) == set(OPS)
