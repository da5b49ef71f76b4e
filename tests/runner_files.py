"""What came out of a package, against what should have; and the runner of a package, fed through files."""

import subprocess
import zlib
from pathlib import Path

import numpy as np

from bitship.graph import Graph
from bitship.graph.base import Array


def differing(graph: Graph, found: list[tuple[Array, ...]], wanted: list[tuple[Array, ...]]) -> dict[str, int]:
    """Number of wrong elements of every output that has any."""
    wrong: dict[str, int] = {}
    for mine, reference in zip(found, wanted, strict=True):
        for port, a, b in zip(graph.outputs, mine, reference, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            if not np.array_equal(a, b):
                wrong[port.name] = wrong.get(port.name, 0) + int(np.count_nonzero(a != b))
    return wrong


def run_files(
    command: list[str], graph: Graph, feeds: list[tuple[Array, ...]], folder: Path
) -> list[tuple[Array, ...]]:
    """Run the runner on files that hold all feeds, and return what it wrote; its CRCs must fit."""
    folder.mkdir(exist_ok=True)
    names = []
    for i in range(len(graph.inputs)):
        (folder / f"in{i}").write_bytes(b"".join(f[i].tobytes() for f in feeds))
        names.append(f"in{i}")
    names += [f"out{i}" for i in range(len(graph.outputs))]
    done = subprocess.run([*command, *names], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    columns = []
    for i, port in enumerate(graph.outputs):
        data = (folder / f"out{i}").read_bytes()
        assert f"output {i} {zlib.crc32(data):08x} {len(data)}\n" in done.stdout
        columns.append(np.frombuffer(data, port.type.dtype.numpy).reshape(len(feeds), *port.type.shape))
    return list(zip(*columns, strict=True))
