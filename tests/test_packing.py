"""INT4: constants in four bits have the values, the digest and the results of the same constants in eight."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from op_cases import CASES

from bitship.errors import FormatError, GraphError
from bitship.graph import DType, Graph, GraphBuilder, load, save, spec, store, verify
from bitship.graph.base import Array
from bitship.graph.ops import FullyConnected
from bitship.graph.packing import Packing, fits, nibbles, pack, packed_bytes, split, unpack
from bitship.passes.int4 import packed, unpacked
from bitship.quantization.narrowing import input_means, narrowed
from bitship.quantization.planned import quantize_weights


def layer(w: Array, packing: Packing | None) -> Graph:
    b = GraphBuilder("layer")
    x = b.input("x", (3, w.shape[1]), DType.INT8)
    y = b.node("y", FullyConnected(), x, b.constant("w", w, packing), b.constant("bias", np.zeros(len(w), np.int32)))
    return b.finish([(y, None)])


def grouped(rows: int, depth: int, group: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    m = np.repeat(rng.integers(1, 17, (rows, -(-depth // group))), group, 1)[:, :depth]
    return (rng.integers(-8, 8, (rows, depth)) * m).astype(np.int8)


def test_nibbles_hold_the_first_code_low() -> None:
    assert nibbles(np.array([-8, 7, 1], np.int8)).tolist() == [0x78, 0x01]


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (4, 3, 3, 2), (2, 64), (3, 70)])
@pytest.mark.parametrize("group", [0, 32, 64])
def test_packing_and_unpacking_gives_the_values(shape: tuple[int, ...], group: int) -> None:
    depth = int(np.prod(shape[1:]))
    w = grouped(shape[0], depth, group).reshape(shape) if group else grouped(shape[0], depth, 1).reshape(shape) % 16 - 8
    w = w.astype(np.int8)
    how = Packing(group)
    data = pack(w, how, "w")
    assert data.size == packed_bytes(shape, how)
    np.testing.assert_array_equal(unpack(data, shape, how, "w"), w)


def test_a_multiplier_of_128_is_possible_and_more_is_not() -> None:
    w = np.full((1, 32), -128, np.int8)
    np.testing.assert_array_equal(unpack(pack(w, Packing(32), "w"), (1, 32), Packing(32), "w"), w)
    bad = np.concatenate([nibbles(np.full(32, 7, np.int8)), np.array([19], np.uint8)])
    with pytest.raises(GraphError, match="outside int8"):
        unpack(bad, (1, 32), Packing(32), "w")


def test_what_needs_more_than_four_bits_is_refused_by_verify() -> None:
    w = grouped(4, 64, 32)
    verify(layer(w, Packing(32)))
    w = w.copy()
    w[0, :2] = 125, 124
    with pytest.raises(GraphError, match="groups of 32"):
        verify(layer(w, Packing(32)))
    with pytest.raises(GraphError, match=r"constant 'w'.*\[-8, 7\]"):
        verify(layer(w, Packing()))
    assert not fits(w, Packing())
    assert not fits(w.astype(np.int16), Packing())


@pytest.mark.parametrize("group", [0, 32])
def test_a_file_holds_half_the_bytes_and_the_same_graph(group: int, tmp_path: Path) -> None:
    w = grouped(64, 512, group) if group else grouped(64, 512, 1) % 8
    plain, small = layer(w, None), layer(w, Packing(group))
    assert small.digest == plain.digest
    assert small.constant_bytes == 64 * 256 + (64 * 16 if group else 0) + 256
    save(plain, tmp_path / "plain")
    save(small, tmp_path / "small")
    assert (tmp_path / "small").stat().st_size < 0.6 * (tmp_path / "plain").stat().st_size
    again = load(tmp_path / "small")
    assert again.packing == {"w": Packing(group)}
    assert again.digest == plain.digest
    x = np.random.default_rng(1).integers(-128, 128, (3, 512)).astype(np.int8)
    np.testing.assert_array_equal(spec.run(again, x)[0], spec.run(plain, x)[0])
    np.testing.assert_array_equal(again.run(x)[0], plain.run(x)[0])


def test_a_damaged_packed_constant_is_refused(tmp_path: Path) -> None:
    graph = layer(grouped(4, 64, 32), Packing(32))
    save(graph, tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    with pytest.raises(FormatError, match="are needed"):
        store.loads(data.replace(b'\\"shape\\":[4,64]', b'\\"shape\\":[9,64]'), "a")
    with pytest.raises(FormatError, match="is missing"):
        store.loads(data.replace(b'{\\"w\\":{\\"shape', b'{\\"v\\":{\\"shape'), "a")


def test_packed_finds_weights_of_four_bits_and_unpacked_forgets_them() -> None:
    plain = layer(grouped(4, 64, 1) % 8, None)
    assert packed(plain).packing == {"w": Packing()}
    assert packed(plain).digest == plain.digest
    assert unpacked(packed(plain)).packing == {}
    wide = layer(np.full((4, 64), 99, np.int8), None)
    assert packed(wide) is wide
    graph, _ = CASES["conv_3x3"]()
    assert packed(graph) is graph


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group", [0, 32, 64])
def test_weights_of_few_bits_are_packed(bits: int, group: int) -> None:
    values = np.random.default_rng(0).standard_normal((6, 200)) * np.linspace(0.1, 3, 200)
    found = quantize_weights(values, bits, group)
    assert found.packing == Packing(group)
    assert fits(found.values, found.packing)
    codes, _ = split(found.values, found.packing, "w")
    assert np.abs(codes).max() < 1 << (bits - 1)


def test_groups_lose_less() -> None:
    values = np.random.default_rng(0).standard_normal((16, 256)) * np.exp(np.linspace(-2, 2, 256))

    def error(group: int) -> float:
        w = quantize_weights(values, 4, group)
        return float(((w.values * np.array(w.scales)[:, None] - values) ** 2).mean())

    assert error(32) < error(64) < error(0)


def test_dropping_a_constant_drops_its_packing() -> None:
    graph = layer(grouped(4, 64, 32), Packing(32))
    assert dataclasses.replace(graph, constants={"bias": graph.constants["bias"]}).packing == {}


@pytest.mark.parametrize("group", [0, 32])
def test_int8_weights_round_to_four_bits(group: int) -> None:
    graph, feeds = CASES["conv_1x1_wide"]()
    found = narrowed(graph, group)
    assert found.packing == {graph.nodes[0].inputs[1]: Packing(group)}
    assert found.constant_bytes < 0.65 * graph.constant_bytes
    (mine,), (wanted,) = spec.run(found, *feeds[0]), spec.run(graph, *feeds[0])
    error = np.abs(mine.astype(int) - wanted).mean()
    assert 0 < error < 12
    assert narrowed(found, group).digest == found.digest
    depthwise, rows = CASES["dw_3x3"]()
    assert narrowed(depthwise, depthwise=False) == depthwise
    small = narrowed(depthwise)
    assert len(small.packing) == 1
    assert np.abs(spec.run(small, *rows[0])[0].astype(int) - spec.run(depthwise, *rows[0])[0]).mean() < 20


@pytest.mark.parametrize("name", ["conv_1x1_wide", "conv_3x3", "conv_grouped", "dw_3x3", "dw_multiplier", "fc"])
def test_bias_correction_brings_the_mean_back(name: str) -> None:
    graph, _ = CASES[name]()
    r = np.random.default_rng(0)
    (node,) = graph.nodes
    op: Any = node.op
    requant = msgspec.structs.replace(op.requant, multiplier=(1 << 30,), shift=(-6,), output_zero_point=0)
    node = msgspec.structs.replace(node, op=msgspec.structs.replace(op, requant=requant))
    graph = dataclasses.replace(graph, nodes=(node,))
    rows = [(r.integers(0, 100, graph.inputs[0].type.shape).astype(np.int8),) for _ in range(20)]

    def drift(means: dict[str, Array] | None) -> float:
        found = narrowed(graph, means=means)
        off = [spec.run(found, *row)[0].astype(float) - spec.run(graph, *row)[0] for row in rows]
        return float(np.abs(np.mean(off, axis=(0, 1, *range(2, off[0].ndim)))).mean())

    padded = any(getattr(op, "padding", ()))  # a tap in the padding reads something else than the mean
    assert drift(input_means(graph, rows)) < (0.9 if padded else 0.5) * drift(None)
