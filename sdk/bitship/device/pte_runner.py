"""Runs a .pte on files, like converters/runner.c: pte_runner.py MODEL [OPTION N]... IN... OUT...

Stands alone: it is copied to the device and started by a Python that has executorch, torch and numpy. It knows ``-r``,
``--burst``, ``--load`` (the program's load time), ``--threads``, ``--arena`` (nothing to tell), and ``--clock``.
"""

import sys
import time
import zlib
from pathlib import Path
from typing import Any


def main(words: list[str]) -> int:
    """Do what the command line says; 0, or 2 with one line on stderr."""
    if words[1:] == ["--clock"]:
        print("clock_ns", time.monotonic_ns())
        return 0
    model, rest = words[0], words[1:]
    options = {"-r": 0, "--burst": 0, "--load": 0, "--arena": 0, "--threads": 1}
    while rest and rest[0].startswith("-"):
        if rest[0] not in options:
            print(f"pte_runner: {rest[0]}: no such option", file=sys.stderr)
            return 2
        options[rest[0]] = int(rest[1])
        rest = rest[2:]
    import torch
    from executorch.extension.pybindings import _portable_lib
    from executorch.runtime import Runtime

    _portable_lib._unsafe_reset_threadpool(options["--threads"])
    start = time.monotonic_ns()
    method = Runtime.get().load_program(Path(model).read_bytes()).load_method("forward")
    if options["--load"]:
        print("load_ns", time.monotonic_ns() - start)
    metas = [method.metadata.input_tensor_meta(i) for i in range(method.metadata.num_inputs())]
    dtypes = [getattr(m, "dtype")() for m in metas]  # noqa: B009
    samples, count = _read(torch, rest[: len(metas)], metas, dtypes), len(metas)
    outs: list[list[bytes]] = []
    for k, sample in enumerate(samples):
        start = time.monotonic_ns()
        results = method.execute(sample)
        if k == 0:
            print("first_ns", time.monotonic_ns() - start)
        outs.append([r.contiguous().numpy().tobytes() for r in results])
    _repeat(method, samples[0], options)
    _print_peak()
    for i, path in enumerate(rest[count:]):
        data = b"".join(row[i] for row in outs)
        Path(path).write_bytes(data)
        print("output", i, f"{zlib.crc32(data):08x}", len(data))
    return 0


_SCALARS = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 6: "float32"}  # torch's numbers of dtypes


def _read(torch: Any, paths: list[str], metas: list[Any], dtypes: list[Any]) -> list[list[Any]]:
    """Return one list of tensors per sample."""
    columns = []
    for path, meta, number in zip(paths, metas, dtypes, strict=True):
        kind = getattr(torch, _SCALARS[int(number)])
        whole = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=kind)
        columns.append(whole.reshape(-1, *meta.sizes()))
    return [list(row) for row in zip(*columns, strict=True)] if columns else [[]]


def _repeat(method: Any, sample: list[Any], options: dict[str, int]) -> None:
    for _ in range(options["-r"]):
        start = time.monotonic_ns()
        method.execute(sample)
        print("run_ns", time.monotonic_ns() - start)
    if options["--burst"]:
        sys.stdout.flush()
        start = time.monotonic_ns()
        for _ in range(options["--burst"]):
            method.execute(sample)
        print("burst_ns", start, time.monotonic_ns())


def _print_peak() -> None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            print("peak_kib", line.split()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
