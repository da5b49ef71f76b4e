"""Small .tflite models of the operators that move elements; merged into tflite_cases.CASES."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tflite_cases import Model, Q, X, i8, i32, multi, simple
from tflite_models import T

D: dict[str, Any] = {"scale": 0.071, "zero_point": 9}


def pairs(*values: tuple[int, int]) -> T:
    return T((len(values), 2), "int32", data=np.array(values, np.int32))


def scalar(value: int) -> T:
    return T((), "int32", data=np.array(value, np.int32))


def strided(out: tuple[int, ...], begin: T, end: T, step: T, **fields: Any) -> Model:
    return simple("STRIDED_SLICE", [T(X, **Q)], T(out, **Q), "StridedSliceOptions", [begin, end, step], **fields)


def resize_uint8(size: tuple[int, int], to: tuple[int, int], **fields: Any) -> Model:
    x, y = T((1, *size, 16), "uint8", 0.05, 7), T((1, *to, 16), "uint8", 0.05, 7)
    return simple("RESIZE_BILINEAR", [x], y, "ResizeBilinearOptions", [i32(*to)], **fields)


def pool(name: str, dtype: str, scale: float, zero_point: int) -> Model:
    x, y = T(X, dtype, 0.05, 3), T((1, 4, 4, 6), dtype, scale, zero_point)
    window: dict[str, Any] = {"filterHeight": 2, "filterWidth": 2, "strideH": 2, "strideW": 2, "padding": 1}
    return simple(name, [x], y, "Pool2DOptions", **window, fusedActivationFunction=1)


def blocks(name: str, shape: tuple[int, ...], out: tuple[int, ...], block: T, around: T, dtype: str = "int8") -> Model:
    z = 3 if dtype == "int8" else 131
    options = {"SPACE_TO_BATCH_ND": "SpaceToBatchNDOptions", "BATCH_TO_SPACE_ND": "BatchToSpaceNDOptions"}[name]
    return simple(name, [T(shape, dtype, 0.05, z)], T(out, dtype, 0.05, z), options, [block, around])


CASES: dict[str, Callable[[], Model]] = {
    "depth_to_space": lambda: simple(
        "DEPTH_TO_SPACE", [T((2, 3, 5, 12), **Q)], T((2, 6, 10, 3), **Q), "DepthToSpaceOptions", blockSize=2
    ),
    "depth_to_space_3": lambda: simple(
        "DEPTH_TO_SPACE",
        [T((1, 2, 3, 9), "uint8", 0.1, 4)],
        T((1, 6, 9, 1), "uint8", 0.1, 4),
        "DepthToSpaceOptions",
        blockSize=3,
    ),
    "space_to_depth": lambda: simple(
        "SPACE_TO_DEPTH", [T((2, 6, 4, 3), **Q)], T((2, 3, 2, 12), **Q), "SpaceToDepthOptions", blockSize=2
    ),
    "space_to_batch": lambda: blocks("SPACE_TO_BATCH_ND", (1, 9, 8, 6), (6, 4, 4, 6), i32(3, 2), pairs((1, 2), (0, 0))),
    "space_to_batch_uint8": lambda: blocks(
        "SPACE_TO_BATCH_ND", (2, 5, 4, 3), (8, 3, 3, 3), i32(2, 2), pairs((0, 1), (1, 1)), "uint8"
    ),
    "space_to_batch_1d": lambda: blocks("SPACE_TO_BATCH_ND", (2, 9, 5), (6, 4, 5), i32(3), pairs((1, 2))),
    "batch_to_space": lambda: blocks(
        "BATCH_TO_SPACE_ND", (12, 4, 4, 5), (2, 11, 6, 5), i32(3, 2), pairs((1, 0), (0, 2))
    ),
    "batch_to_space_1d": lambda: blocks("BATCH_TO_SPACE_ND", (6, 4, 5), (2, 10, 5), i32(3), pairs((1, 1))),
    "mirror_pad_reflect": lambda: simple(
        "MIRROR_PAD",
        [T(X, **Q)],
        T((1, 12, 13, 6), **Q),
        "MirrorPadOptions",
        [pairs((0, 0), (1, 2), (5, 0), (0, 0))],
        mode=0,
    ),
    "mirror_pad_symmetric": lambda: simple(
        "MIRROR_PAD",
        [T(X, **Q)],
        T((1, 18, 8, 7), **Q),
        "MirrorPadOptions",
        [pairs((0, 0), (9, 0), (0, 0), (0, 1))],
        mode=1,
    ),
    "padv2": lambda: simple(
        "PADV2",
        [T((1, 3, 4, 2), **Q)],
        T((1, 5, 4, 3), **Q),
        "PadV2Options",
        [pairs((0, 0), (1, 1), (0, 0), (0, 1)), T((1,), data=np.array([-77], np.int8), **Q)],
    ),
    "tile": lambda: simple("TILE", [T((2, 3, 4), **Q)], T((4, 3, 12), **Q), "TileOptions", [i32(2, 1, 3)]),
    "broadcast_to": lambda: simple(
        "BROADCAST_TO", [T((3, 1, 4), **Q)], T((2, 3, 5, 4), **Q), "BroadcastToOptions", [i32(2, 3, 5, 4)]
    ),
    "reverse": lambda: simple("REVERSE_V2", [T(X, **Q)], T(X, **Q), "ReverseV2Options", [i32(2)]),
    "expand_dims": lambda: simple("EXPAND_DIMS", [T((3, 4), **Q)], T((3, 1, 4), **Q), "ExpandDimsOptions", [i32(-2)]),
    "squeeze": lambda: simple("SQUEEZE", [T((1, 3, 1, 4), **Q)], T((1, 3, 4), **Q), "SqueezeOptions", squeezeDims=[-2]),
    "squeeze_all": lambda: simple("SQUEEZE", [T((1, 3, 1, 4), **Q)], T((3, 4), **Q), "SqueezeOptions", squeezeDims=[]),
    "split_last": lambda: multi(
        "SPLIT", T((4, 6), **Q), [T((4, 2), **Q)] * 3, "SplitOptions", [scalar(-1)], True, numSplits=3
    ),
    "split_v": lambda: multi(
        "SPLIT_V",
        T((4, 6), **Q),
        [T((4, 1), **Q), T((4, 3), **Q), T((4, 2), **Q)],
        "SplitVOptions",
        [i32(1, -1, 2), scalar(1)],
        False,
        numSplits=3,
    ),
    "gather_last": lambda: simple("GATHER", [T((5, 4), **Q)], T((5, 3), **Q), "GatherOptions", [i32(3, 0, 3)], axis=-1),
    "gather_table": lambda: simple(
        "GATHER",
        [T((5, 4), **Q)],
        T((2, 3, 4), **Q),
        "GatherOptions",
        [T((2, 3), "int32", data=np.array([[4, 0, 1], [2, 2, 3]], np.int32))],
        axis=0,
    ),
    "gather_scalar": lambda: simple("GATHER", [T((5, 4), **Q)], T((5,), **Q), "GatherOptions", [scalar(2)], axis=1),
    "gather_nd": lambda: simple(
        "GATHER_ND",
        [T((3, 4, 5), **Q)],
        T((3, 5), **Q),
        "GatherNdOptions",
        [T((3, 2), "int32", data=np.array([[2, 3], [0, 1], [1, 0]], np.int32))],
    ),
    "pack_last": lambda: simple("PACK", [T((4, 5), **Q)] * 3, T((4, 5, 3), **Q), "PackOptions", axis=-1, valuesCount=3),
    "unpack_first": lambda: multi(
        "UNPACK", T((2, 5), **Q), [T((5,), **Q)] * 2, "UnpackOptions", [], False, axis=-2, num=2
    ),
    "strided_negative": lambda: strided((1, 4, 3, 6), i32(0, -6, -2, 0), i32(1, -2, -5, 6), i32(1, 1, -1, 1)),
    "strided_reverse_all": lambda: strided(
        (1, 9, 4, 6), i32(0, 0, 0, 0), i32(0, 0, 0, 0), i32(1, -1, -2, 1), beginMask=15, endMask=15
    ),
    "strided_ellipsis": lambda: strided((1, 9, 8, 2), i32(0, 1), i32(0, -1), i32(1, 2), ellipsisMask=1),
    "strided_new_axis": lambda: strided(
        (1, 1, 3, 8, 6), i32(0, 0, 2), i32(1, 0, 5), i32(1, 1, 1), newAxisMask=2, beginMask=1, endMask=1
    ),
    "strided_shrink": lambda: strided((1, 9, 8), i32(0, 0, 0, -1), i32(1, 9, 8, 0), i32(1, 1, 1, 1), shrinkAxisMask=8),
    "concat_scales_uint8": lambda: simple(
        "CONCATENATION",
        [T((4, 64), "uint8", 0.05, 3), T((2, 64), "uint8", 0.0113, 250), T((4, 64), "uint8", 0.07, 128)],
        T((10, 64), "uint8", 0.07, 128),
        "ConcatenationOptions",
        axis=0,
    ),
    "avg_pool_scales": lambda: pool("AVERAGE_POOL_2D", "int8", 0.07, -9),
    "avg_pool_scales_uint8": lambda: pool("AVERAGE_POOL_2D", "uint8", 0.07, 20),
    "max_pool_scales": lambda: pool("MAX_POOL_2D", "int8", 0.04, -9),
    "max_pool_scales_uint8": lambda: pool("MAX_POOL_2D", "uint8", 0.04, 20),
    "concat_constant": lambda: simple(
        "CONCATENATION", [T((4, 3), **Q), T((4, 2), data=i8(4, 2), **Q)], T((4, 5), **Q), "ConcatenationOptions", axis=1
    ),
    "reshape_scales": lambda: simple(
        "RESHAPE", [T((4, 6), **Q)], T((3, 8), **D), "ReshapeOptions", [i32(-1, 8)], newShape=[-1, 8]
    ),
    "resize_bilinear_one": lambda: simple(
        "RESIZE_BILINEAR", [T((1, 5, 4, 3), **Q)], T((1, 1, 1, 3), **Q), "ResizeBilinearOptions", [i32(1, 1)]
    ),
    "resize_bilinear_one_align": lambda: simple(
        "RESIZE_BILINEAR",
        [T((1, 5, 4, 3), **Q)],
        T((1, 1, 7, 3), **Q),
        "ResizeBilinearOptions",
        [i32(1, 7)],
        alignCorners=True,
    ),
    "resize_bilinear_one_half": lambda: simple(
        "RESIZE_BILINEAR",
        [T((1, 5, 4, 3), **Q)],
        T((1, 1, 7, 3), **Q),
        "ResizeBilinearOptions",
        [i32(1, 7)],
        halfPixelCenters=True,
    ),
    "resize_bilinear_uint8": lambda: resize_uint8((5, 4), (10, 16)),
    "resize_bilinear_uint8_half": lambda: resize_uint8((6, 4), (3, 16), halfPixelCenters=True),
    "resize_bilinear_uint8_align": lambda: resize_uint8((5, 9), (33, 65), alignCorners=True),
    "resize_bilinear_uint8_from_one": lambda: resize_uint8((1, 1), (33, 7), alignCorners=True),
    "resize_from_one": lambda: simple(
        "RESIZE_BILINEAR", [T((1, 1, 1, 3), **Q)], T((1, 4, 7, 3), **Q), "ResizeBilinearOptions", [i32(4, 7)]
    ),
    "resize_nearest_one_align": lambda: simple(
        "RESIZE_NEAREST_NEIGHBOR",
        [T((1, 5, 4, 3), **Q)],
        T((1, 1, 7, 3), **Q),
        "ResizeNearestNeighborOptions",
        [i32(1, 7)],
        alignCorners=True,
    ),
}
