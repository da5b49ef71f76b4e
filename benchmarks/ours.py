"""bitship's own rows of a latency table: the TVM packages of this machine and the C kernels of this host."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import rivals
from benchmarks.latency import Run, Runtime
from bitship import kernels
from bitship.converters.tvm import TvmConverter, open_session
from bitship.converters.tvm.isa import host_levels
from bitship.errors import BitshipError, MissingDependencyError
from bitship.graph import Graph, host
from bitship.graph.base import Array
from bitship.targets import ConverterName, Target, TargetKind

C_LEVELS = ("plain", "avx2", "avx512vnni")
Arrays = tuple[Array, ...]


def sample(graph: Graph) -> Arrays:
    """Return one random input."""
    rng = np.random.default_rng(0)
    return tuple(
        rng.integers(p.type.dtype.qmin, p.type.dtype.qmax, p.type.shape, np.int64, endpoint=True).astype(
            p.type.dtype.numpy
        )
        for p in graph.inputs
    )


def _same(found: Arrays, wanted: Arrays) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def tvm_package(graph: Graph, level: str, x: Arrays, wanted: Arrays, folder: Path, threads: int = 1) -> Run:
    """Convert for one instruction set level and refuse to time other bits than the specification's."""
    out = folder / level
    if not out.is_dir():
        target = Target("bench", "this machine", TargetKind.HOST, level, (ConverterName.TVM,), (level,))
        TvmConverter().convert(graph, target, out)
    known = set(os.listdir("/proc/self/task"))
    session = open_session(out, graph, threads)
    for thread in set(os.listdir("/proc/self/task")) - known:
        rivals.leave_the_core(int(thread))
    if not _same(session.run(*x), wanted):
        raise BitshipError(f"{level}, {threads} threads: the bits differ from the specification's")
    return lambda: session.run(*x)


def host_kernels(graph: Graph, level: int, x: Arrays, wanted: Arrays) -> Run:
    """The C kernels of this host at one level of instructions; ``graph.run`` uses the highest."""
    program = host.prepare(graph, level)
    if not _same(host.execute(program, *x), wanted):
        raise BitshipError(f"C kernels, level {level}: the bits differ from the specification's")
    return lambda: host.execute(program, *x)


def c_level() -> int:
    """Return the highest level of the C kernels here; 0 also without the library, which its row then says."""
    try:
        return int(kernels.load().lib.bitship_host_level())
    except MissingDependencyError:
        return 0


def tvm_rows(graph: Graph, x: Arrays, wanted: Arrays, folder: Path, threads: tuple[int, ...] = (1,)) -> list[Runtime]:
    """One row for every level with fast kernels, best first; the best also on more threads."""
    levels = [i.name for i in host_levels() if i.k_step]
    rows = [
        Runtime(f"bitship TVM, {name}", "int8 exact", partial(tvm_package, graph, name, x, wanted, folder))
        for name in levels
    ]
    more = [
        Runtime(
            f"bitship TVM, {levels[0]}, {n} threads",
            "int8 exact",
            partial(tvm_package, graph, levels[0], x, wanted, folder, n),
        )
        for n in threads
        if n > 1
    ]
    return [*rows[:1], *more, *rows[1:]]


def c_rows(graph: Graph, x: Arrays, wanted: Arrays) -> Iterator[Runtime]:
    """One row for every level of the C kernels, best first."""
    for level in reversed(range(c_level() + 1)):
        opener = partial(host_kernels, graph, level, x, wanted)
        yield Runtime(f"bitship C kernels, {C_LEVELS[level]}", "int8 exact", opener, slow=level == 0)
