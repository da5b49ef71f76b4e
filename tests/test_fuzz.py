"""Damaged and hostile files: whatever the bytes, a reader returns a verified graph or raises BitshipError.

pytest tests/test_fuzz.py                    300 mutations a format
pytest tests/test_fuzz.py -m slow            10,000 mutations a format
"""

import contextlib
import json
import random
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import CASES
from tflite_arithmetic_cases import CASES as TFLITE_ARITHMETIC_CASES
from tflite_cases import CASES as TFLITE_BASIC_CASES
from tflite_layout_cases import CASES as TFLITE_LAYOUT_CASES
from tflite_models import encode

from bitship.errors import BitshipError
from bitship.graph import GraphBuilder, store
from bitship.graph.dtypes import DType
from bitship.graph.ops import Conv2D, Reshape, Softmax
from bitship.importers import onnx, tflite

Reader = Callable[[bytes], object]
INTERESTING = (0, 1, -1, 2, 127, 128, 255, 256, 65535, 1 << 20, (1 << 31) - 1, -(1 << 31), 0x7FFFFFF0, 1 << 30, -2, 7)
TFLITE_SEEDS = (
    "conv_same_relu6",
    "softmax",
    "add_relu_constant",
    "mean",
    "strided_slice",
    "concat",
    "resize_bilinear_half",
    "transpose_conv_3x3_s2_odd",
    "batch_to_space",
    "space_to_batch_uint8",
    "mirror_pad_reflect",
    "strided_reverse_all",
    "strided_new_axis",
    "concat_scales_uint8",
    "prelu",
    "batch_matmul_broadcast",
    "tile",
    "broadcast_to",
    "gather_nd",
    "split_v",
)
TFLITE_CASES = {**TFLITE_BASIC_CASES, **TFLITE_LAYOUT_CASES, **TFLITE_ARITHMETIC_CASES}
QUICK, THOROUGH = 300, 10_000
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}


@cache
def bitship_seeds() -> tuple[bytes, ...]:
    import tempfile
    from pathlib import Path

    b = GraphBuilder("seed")
    x = b.input("x", (1, 6, 6, 3), DType.INT8)
    w, bias = b.constant("w", np.ones((4, 3, 3, 3), np.int8)), b.constant("b", np.arange(4, dtype=np.int32))
    table = b.constant("t", np.full(256, 1 << 30, np.int32))
    requant = CASES["conv_3x3"]()[0].nodes[0].op.requant  # type: ignore[union-attr]
    assert requant is not None
    y = b.node(
        "y", Conv2D(padding=(1, 1, 1, 1), requant=type(requant)(requant.multiplier[:4], requant.shift[:4])), x, w, bias
    )
    z = b.node("z", Softmax(), b.node("r", Reshape((36, 4)), y), table)
    graphs = [
        b.finish([(z, None)]),
        *(CASES[n]()[0] for n in ("add_tflite", "resize_bilinear", "concat_last", "slice")),
    ]
    result = []
    with tempfile.TemporaryDirectory() as folder:
        for g in graphs:
            path = Path(folder) / "g.bitship"
            store.save(g, path)
            result.append(path.read_bytes())
    return tuple(result)


@cache
def tflite_seeds() -> tuple[bytes, ...]:
    return tuple(encode(*TFLITE_CASES[name]()) for name in TFLITE_SEEDS)


@cache
def onnx_seeds() -> tuple[bytes, ...]:
    from onnx_models import seeds

    return tuple(seeds())


def mutate_bytes(data: bytes, r: random.Random) -> bytes:
    """Damage a file at up to eight places: bits, words, cuts, copies."""
    b = bytearray(data)
    for _ in range(r.randint(1, 8)):
        at = r.randrange(max(len(b), 1))
        kind = r.randrange(7)
        if kind == 0 and b:
            b[at] ^= 1 << r.randrange(8)
        elif kind == 1 and b:
            b[at] = r.randrange(256)
        elif kind in (2, 3) and len(b) >= 4:
            at = min(at & ~3, len(b) - 4)
            b[at : at + 4] = struct.pack("<i", r.choice(INTERESTING))
        elif kind == 4:
            del b[at : at + r.randint(1, 64)]
        elif kind == 5:
            b[at:at] = b[r.randrange(len(b) + 1) :][: r.randint(1, 64)]
        elif kind == 6 and r.random() < 0.2:
            del b[at:]
    return bytes(b)


def mutate_json(data: bytes, r: random.Random) -> bytes:
    """Change values inside the JSON graph of a .bitship file, keeping the container whole."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = json.loads(header["__metadata__"]["bitship"])
    for _ in range(r.randint(1, 4)):
        _change(body, r)
    header["__metadata__"]["bitship"] = json.dumps(body)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def mutate_onnx(data: bytes, r: random.Random) -> bytes:
    """Change nodes, tensors and shapes of a model, keeping the protobuf whole."""
    from onnx_models import pervert

    return pervert(data, [r.randrange(1 << 32), r.randrange(1 << 32)])


def _change(value: Any, r: random.Random) -> None:
    while isinstance(value, dict | list) and value:
        key = r.choice(list(value)) if isinstance(value, dict) else r.randrange(len(value))
        inner = value[key]
        if isinstance(inner, dict | list) and inner and r.random() < 0.85:
            value = inner
            continue
        choices: list[Any] = [
            *INTERESTING,
            1 << 40,
            -(1 << 70),
            1e300,
            "x",
            "",
            None,
            [],
            {},
            [1],
            True,
            0.5,
            "int8",
            "int32",
        ]
        if r.random() < 0.15:
            del value[key]
        elif isinstance(value, list) and r.random() < 0.2:
            value.insert(r.randrange(len(value) + 1), inner)
        else:
            value[key] = r.choice(choices)
        return


def survives(read: Reader, data: bytes) -> None:
    with contextlib.suppress(BitshipError):  # anything else fails the test
        read(data)


FORMATS: dict[str, tuple[Callable[[], tuple[bytes, ...]], Reader, Callable[[bytes, random.Random], bytes]]] = {
    "tflite": (tflite_seeds, lambda d: tflite.loads(d, "fuzz"), mutate_bytes),
    "onnx": (onnx_seeds, lambda d: onnx.loads(d, "fuzz"), mutate_bytes),
    "onnx-structure": (onnx_seeds, lambda d: onnx.loads(d, "fuzz"), mutate_onnx),
    "bitship": (bitship_seeds, lambda d: store.loads(d, "fuzz"), mutate_bytes),
    "bitship-json": (bitship_seeds, lambda d: store.loads(d, "fuzz"), mutate_json),
}


def fuzz(name: str, count: int) -> None:
    if name == "tflite":
        pytest.importorskip("ai_edge_litert", reason="writes the seed files")
    seeds, read, mutate = FORMATS[name]
    for seed in seeds():
        read(seed)

    @settings(max_examples=count, **COMMON)  # type: ignore[arg-type]
    @given(st.integers(0, len(seeds()) - 1), st.integers(0, 2**64))
    def run(which: int, entropy: int) -> None:
        survives(read, mutate(seeds()[which], random.Random(entropy)))

    run()


@pytest.mark.parametrize("name", FORMATS)
def test_readers_survive_mutations(name: str) -> None:
    fuzz(name, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FORMATS)
def test_readers_survive_ten_thousand_mutations(name: str) -> None:
    fuzz(name, THOROUGH)
