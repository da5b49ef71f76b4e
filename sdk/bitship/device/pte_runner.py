"""Runs a .pte on files, like converters/runner.c: pte_runner.py MODEL INPUTS [OPTION N]... IN... OUT...

INPUTS are dtype and shape of every input: ``int8:1x32x32x3,int32:4``.

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
    if words[2:] == ["--clock"]:
        print("clock_ns", time.monotonic_ns())
        return 0
    model, inputs, rest = words[0], words[1].split(","), words[2:]
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
    data = Path(model).read_bytes()
    program = Runtime.get().load_program(data)  # both must live as long as the method
    method = program.load_method("forward")
    if options["--load"]:
        print("load_ns", time.monotonic_ns() - start)
    samples = _read(torch, rest[: len(inputs)], inputs)
    outs: list[list[bytes]] = []
    for k, sample in enumerate(samples):
        start = time.monotonic_ns()
        results = method.execute(sample)
        if k == 0:
            print("first_ns", time.monotonic_ns() - start)
        outs.append([r.contiguous().numpy().tobytes() for r in results])
    _repeat(method, samples[0], options)
    _print_peak()
    for i, path in enumerate(rest[len(inputs) :]):
        data = b"".join(row[i] for row in outs)
        Path(path).write_bytes(data)
        print("output", i, f"{zlib.crc32(data):08x}", len(data))
    return 0


def _read(torch: Any, paths: list[str], inputs: list[str]) -> list[list[Any]]:
    """Return one list of tensors per sample."""
    columns = []
    for path, said in zip(paths, inputs, strict=True):
        dtype, _, shape = said.partition(":")
        sizes = [int(n) for n in shape.split("x") if n]
        whole = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=getattr(torch, dtype))
        columns.append(whole.reshape(-1, *sizes))
    return [list(row) for row in zip(*columns, strict=True)]


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
