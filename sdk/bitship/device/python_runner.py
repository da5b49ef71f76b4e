"""Runs a .pte, .tflite or .onnx on files: python_runner.py MODEL INPUTS [OPTION N]... IN... OUT...

INPUTS are dtype and shape of every input: ``int8:1x32x32x3,int32:4``. Options and output: as of converters/runner.c.

Stands alone: it is copied to the device and started by a Python that has numpy and the file's runtime: executorch and
torch, LiteRT (whose reference kernels are used), or onnxruntime. It knows ``-r``, ``--burst``, ``--load`` (the
program's load time), ``--threads``, ``--arena`` (nothing to tell), and ``--clock``.
"""

import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[list[Any]], list[Any]]


def executorch(model: str, threads: int) -> Run:
    """Return what runs a .pte."""
    import torch
    from executorch.extension.pybindings import _portable_lib
    from executorch.runtime import Runtime

    _portable_lib._unsafe_reset_threadpool(threads)
    data = Path(model).read_bytes()
    program = Runtime.get().load_program(data)
    method = program.load_method("forward")
    alive = [data, program]  # both must live as long as the method

    def run(sample: list[Any]) -> list[Any]:
        assert alive
        return [r.contiguous().numpy() for r in method.execute([torch.from_numpy(x) for x in sample])]

    return run


def litert(model: str, threads: int) -> Run:
    """Return what runs a .tflite."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(model, experimental_op_resolver_type=resolver, num_threads=threads)
    interpreter.allocate_tensors()
    ins = [d["index"] for d in interpreter.get_input_details()]
    outs = [d["index"] for d in interpreter.get_output_details()]

    def run(sample: list[Any]) -> list[Any]:
        for index, value in zip(ins, sample, strict=True):
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outs]

    return run


def onnxruntime(model: str, threads: int) -> Run:
    """Return what runs a .onnx."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(sample: list[Any]) -> list[Any]:
        return list(session.run(None, dict(zip(names, sample, strict=True))))

    return run


RUNTIMES: dict[str, Callable[[str, int], Run]] = {".pte": executorch, ".tflite": litert, ".onnx": onnxruntime}


def main(words: list[str]) -> int:
    """Do what the command line says; 0, or 2 with one line on stderr."""
    if words[2:] == ["--clock"]:
        print("clock_ns", time.monotonic_ns())
        return 0
    model, inputs, rest = words[0], words[1].split(","), words[2:]
    options = {"-r": 0, "--burst": 0, "--load": 0, "--arena": 0, "--threads": 1}
    while rest and rest[0].startswith("-"):
        if rest[0] not in options:
            print(f"python_runner: {rest[0]}: no such option", file=sys.stderr)
            return 2
        options[rest[0]] = int(rest[1])
        rest = rest[2:]
    start = time.monotonic_ns()
    run = RUNTIMES[Path(model).suffix](model, options["--threads"])
    if options["--load"]:
        print("load_ns", time.monotonic_ns() - start)
    samples = _read(rest[: len(inputs)], inputs)
    outs: list[list[bytes]] = []
    for k, sample in enumerate(samples):
        start = time.monotonic_ns()
        results = run(sample)
        if k == 0:
            print("first_ns", time.monotonic_ns() - start)
        outs.append([r.tobytes() for r in results])
    _repeat(run, samples[0], options)
    _print_peak()
    for i, path in enumerate(rest[len(inputs) :]):
        data = b"".join(row[i] for row in outs)
        Path(path).write_bytes(data)
        print("output", i, f"{zlib.crc32(data):08x}", len(data))
    return 0


def _read(paths: list[str], inputs: list[str]) -> list[list[Any]]:
    """Return one list of arrays per sample."""
    import numpy as np

    columns = []
    for path, said in zip(paths, inputs, strict=True):
        dtype, _, shape = said.partition(":")
        sizes = [int(n) for n in shape.split("x") if n]
        columns.append(np.fromfile(path, np.dtype(dtype)).reshape(-1, *sizes))
    return [[np.ascontiguousarray(x) for x in row] for row in zip(*columns, strict=True)]


def _repeat(run: Run, sample: list[Any], options: dict[str, int]) -> None:
    for _ in range(options["-r"]):
        start = time.monotonic_ns()
        run(sample)
        print("run_ns", time.monotonic_ns() - start)
    if options["--burst"]:
        sys.stdout.flush()
        start = time.monotonic_ns()
        for _ in range(options["--burst"]):
            run(sample)
        print("burst_ns", start, time.monotonic_ns())


def _print_peak() -> None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            print("peak_kib", line.split()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
