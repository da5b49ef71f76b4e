"""How close a kernel's output may come to the operand it reads: diagonal memory optimisation, computed exactly.

A kernel that walks its output in raster order has read, by the time it writes pixel q, everything that only pixels
before q need. If the output starts early enough, its writes never reach what is still to be read. ``lag`` says how
late a kernel reads: 0 when all operands of a pixel are read before any of its bytes is written (a gathered patch);
n when the operands of up to n pixels, ending with the one being written, may still be read (a row kernel: the row).

Blacker et al. 2020, "Diagonal Memory Optimisation for Machine Learning on Micro-controllers" (arXiv 2010.01668).
"""

from dataclasses import dataclass

import numpy as np

from bitship.graph.base import Ints


@dataclass(frozen=True)
class Walk:
    """One axis of a window op: input extent, output extent, stride, padding before."""

    extent: int
    out: int
    stride: int = 1
    before: int = 0


def distance(needed: Ints, pixel_bytes: int, lag: int) -> int:
    """Return the least ``operand offset - output offset`` at which the two may share memory, in bytes; may be negative.

    needed       [pixels] for every output pixel in raster order, the first byte of the operand it reads
    pixel_bytes  bytes of one output pixel
    """
    count = len(needed)
    later = np.minimum.accumulate(needed[::-1])[::-1]
    q = np.arange(count)
    first = np.maximum(q + 1 - lag, 0)
    alive = first < count
    if not alive.any():
        return -int(later[0])
    return int(((q[alive] + 1) * pixel_bytes - later[first[alive]]).max())


def window_distance(batch: int, rows: Walk, columns: Walk, in_bytes: int, out_bytes: int, lag: int) -> int:
    """Return the distance of a convolution or pool; ``in_bytes`` and ``out_bytes`` are those of one pixel."""
    y = np.maximum(np.arange(rows.out) * rows.stride - rows.before, 0)
    x = np.maximum(np.arange(columns.out) * columns.stride - columns.before, 0)
    image = np.arange(batch) * rows.extent * columns.extent
    first = image[:, None, None] + y[:, None] * columns.extent + x
    return distance(first.reshape(-1) * in_bytes, out_bytes, lag)


def elementwise_distance(count: int, in_bytes: int, out_bytes: int, lag: int) -> int:
    """Return the distance of an op whose output element i reads element i alone."""
    return distance(np.arange(count) * in_bytes, out_bytes, lag)
