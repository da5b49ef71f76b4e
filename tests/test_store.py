"""One file per graph: the same bytes each time, and a clear refusal of anything else."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from op_cases import CASES

from bitship import kernels
from bitship.errors import FormatError, GraphError
from bitship.graph import DType, GraphBuilder, Quant, load, save, spec, store
from bitship.graph.ops import Clamp, Concat, Conv2D


@pytest.mark.parametrize("name", CASES)
def test_a_saved_graph_comes_back_the_same(name: str, tmp_path: Path) -> None:
    graph, feeds = CASES[name]()
    save(graph, tmp_path / "a.bitship")
    save(graph, tmp_path / "b.bitship")
    assert (tmp_path / "a.bitship").read_bytes() == (tmp_path / "b.bitship").read_bytes()
    again = load(tmp_path / "a.bitship")
    assert again.digest == graph.digest
    assert again.nodes == graph.nodes
    for a, b in zip(spec.run(again, *feeds[0]), spec.run(graph, *feeds[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_digest_follows_constants_and_quantization_but_not_the_name() -> None:
    graph, _ = CASES["conv_3x3"]()
    assert dataclasses.replace(graph, name="other").digest == graph.digest
    changed = {k: (v + 1).astype(v.dtype) if v.dtype == np.int32 else v for k, v in graph.constants.items()}
    assert dataclasses.replace(graph, constants=changed).digest != graph.digest
    port = graph.inputs[0]
    scaled = type(port)(port.name, port.type, Quant(0.5))
    assert dataclasses.replace(graph, inputs=(scaled,)).digest != graph.digest


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bitship"
    path.write_bytes(b"PK\x03\x04 not a graph at all")
    with pytest.raises(FormatError, match="not a bitship graph"):
        load(path)
    with pytest.raises(FormatError, match="cannot be read"):
        load(tmp_path / "absent.bitship")


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    with pytest.raises(FormatError, match="cannot be written"):
        save(graph, tmp_path / "no" / "such" / "folder.bitship")
    (tmp_path / "taken.bitship").mkdir()
    with pytest.raises(FormatError, match="cannot be written"):
        save(graph, tmp_path / "taken.bitship")
    assert [p.name for p in tmp_path.iterdir()] == ["taken.bitship"]


def test_constants_are_read_only_and_copied() -> None:
    value = np.ones(4, np.int32)
    b = GraphBuilder("g")
    x = b.input("x", (1, 2, 2, 1), DType.INT8)
    w = b.constant("w", np.ones((4, 1, 1, 1), np.int8))
    graph = b.finish([(b.node("y", Conv2D(), x, w, b.constant("b", value)), None)])
    value[0] = 9
    assert graph.constants["b"][0] == 1
    with pytest.raises(ValueError, match="read-only"):
        graph.constants["b"][0] = 3


def test_inputs_of_another_shape_dtype_or_number_are_refused() -> None:
    graph, feeds = CASES["clamp"]()
    with pytest.raises(GraphError, match=r"int16\[4,33\], int8\[4,33\] is needed"):
        spec.run(graph, feeds[0][0].astype(np.int16))
    with pytest.raises(GraphError, match="0 inputs given, 1 needed"):
        spec.run(graph)
    with pytest.raises(GraphError, match="a NumPy array is needed"):
        spec.run(graph, [1, 2])  # type: ignore[arg-type]


def test_without_the_kernels_the_specification_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graph, feeds = CASES["conv_3x3"]()
    monkeypatch.setenv("BITSHIP_KERNELS", str(tmp_path / "absent.so"))
    kernels.load.cache_clear()
    try:
        with pytest.warns(UserWarning, match="through the specification"):
            (found,) = graph.run(*feeds[0])
    finally:
        monkeypatch.undo()
        kernels.load.cache_clear()
    np.testing.assert_array_equal(found, spec.run(graph, *feeds[0])[0])


def test_a_missing_operand_and_a_cycle_cannot_be_expressed() -> None:
    graph, _ = CASES["clamp"]()
    node = graph.nodes[0]
    loop = type(node)(Clamp(0, 1), (node.output,), node.output)
    with pytest.raises(GraphError, match="nothing before it defines"):
        dataclasses.replace(graph, nodes=(loop,)).types  # noqa: B018


def test_a_bool_constant_with_other_bytes_is_refused(tmp_path: Path) -> None:
    b = GraphBuilder("g")
    y = b.node("y", Concat(0), b.input("x", (2,), DType.BOOL), b.constant("c", np.array([True, True])))
    save(b.finish([(y, None)]), tmp_path / "g.bitship")
    data = (tmp_path / "g.bitship").read_bytes()
    with pytest.raises(FormatError, match="constant 'c' is bool and holds a byte"):
        store.loads(data[:-8] + data[-8:].replace(b"\x01\x01", b"\x02\x01"), "g")
