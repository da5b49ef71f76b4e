"""Published architectures with random weights: does each become integers alone, and do the host's kernels agree?

python -m benchmarks.zoo [--models a,b] [--limit SECONDS] [--memory GIB] [--jobs 1] [--json FILE]

Every model is built, calibrated, quantized and run in a process of its own. SQNR compares logits of images that
calibration did not see with the float model's, so it says what the arithmetic loses; accuracy needs trained weights.
"""

import argparse
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bitship.errors import BitshipError

CALIBRATION, JUDGED = 16, 2
_PLACE = re.compile(r"op (\S+) \(node '[^']*', module '([^']*)'\)")


@dataclass(frozen=True)
class Entry:
    """How a model of the zoo is built: side of its square input, and options of timm's factory."""

    side: int = 64
    options: dict[str, Any] = field(default_factory=dict)


def _sized(side: int = 64) -> Entry:
    """Return the entry of a model whose input size is fixed when it is built."""
    return Entry(side, {"img_size": side})


# The smallest side of 64 or more that the architecture takes: the specification runs in NumPy, pixel by pixel.
MODELS: dict[str, Entry] = {
    "mobilenetv1_100": Entry(),
    "mobilenetv2_050": Entry(),
    "mobilenetv3_small_050": Entry(),
    "mobilenetv4_conv_small": Entry(),
    "mobilenetv5_micro": Entry(),
    "efficientnet_lite0": Entry(),
    "ghostnetv2_100": Entry(),
    "mobileone_s0": _sized(),
    "repvit_m0_9": _sized(),
    "fastvit_t8": Entry(),
    "fastvit_mci0": Entry(),
    "edgenext_xx_small": Entry(),
    "levit_128s": _sized(),
    "deit_tiny_patch16_224": _sized(),
    "vit_tiny_patch16_224": _sized(),
    "swin_tiny_patch4_window7_224": _sized(),
    "tiny_vit_5m_224": Entry(),
    "efficientvit_m0": _sized(),
    "efficientvit_b0": Entry(),
    "efficientformer_l1": Entry(224),
    "efficientformerv2_s0": _sized(),
    "nextvit_small": Entry(),
    "shvit_s1": Entry(),
    "poolformer_s12": Entry(),
    "poolformerv2_s12": Entry(),
    "caformer_s18": Entry(),
    "convnext_atto": Entry(),
    "inception_next_atto": Entry(),
    "fasternet_t0": Entry(),
    "starnet_s1": Entry(),
    "mobilevit_xxs": _sized(),
    "mobilevitv2_050": _sized(),
    "pvt_v2_b0": Entry(),
    "efficientvim_m1": Entry(),
    "convit_tiny": _sized(),
    "crossvit_tiny_240": Entry(),
    "tnt_s_legacy_patch16_224": _sized(),
    "volo_d1_224": _sized(),
    "coat_lite_tiny": _sized(),
    "resnet18": Entry(),
    "inception_v4": Entry(96),
    "hrnet_w18_small": Entry(),
    "mixnet_s": Entry(),
    "regnetx_002": Entry(),
    "gernet_s": _sized(),
    "dla34": Entry(),
    "res2net50_26w_4s": Entry(),
    "visformer_tiny": _sized(),
}


class Outcome(msgspec.Struct, frozen=True):
    """What became of one model.

    sqnr_db      of the logits against the float model's; None where the model was not converted
    float_nodes  nodes of the integer graph whose result is no integer: 0 by the graph's rules, counted all the same
    differing    logits in which the host's kernels differ from the specification
    op, module   where conversion stopped
    """

    model: str
    side: int
    recipe: str
    converted: bool = False
    differing: int | None = None
    sqnr_db: float | None = None
    nodes: int = 0
    macs: int = 0
    float_nodes: int = 0
    seconds: float = 0.0
    op: str = ""
    module: str = ""
    error: str = ""

    @property
    def exact(self) -> bool:
        """Whether the model was converted and no bit differs."""
        return self.converted and self.differing == 0


def build(name: str) -> Any:
    """Return the torch module of a name of MODELS."""
    from benchmarks import timm_models

    entry = MODELS[name]
    if name == "mobilenetv5_micro":
        return timm_models.micro_mobilenetv5(entry.side)
    return timm_models.create(name, entry.side, **entry.options)


def judge(name: str, side: int, make: Callable[[], Any], recipe: str) -> Outcome:
    """Quantize one module and compare: host kernels with the specification, both with float."""
    from benchmarks import timm_models
    from bitship.quantization import quantize

    start = time.monotonic()
    module = make()
    try:
        graph = quantize(module, timm_models.batches(CALIBRATION, side, seed=11), recipe, name)
    except BitshipError as e:
        return failed(name, side, recipe, str(e), time.monotonic() - start)
    compared = _compare(graph, module, timm_models.batches(JUDGED, side, seed=12))
    floats = sum(not np.issubdtype(t.dtype.numpy, np.integer) for t in graph.types.values() if t.dtype.value != "bool")
    return Outcome(
        name,
        side,
        recipe,
        True,
        *compared,
        nodes=len(graph.nodes),
        macs=graph.macs,
        float_nodes=floats,
        seconds=time.monotonic() - start,
    )


def failed(name: str, side: int, recipe: str, error: str, seconds: float) -> Outcome:
    """Return the outcome of a model that was not converted."""
    place = _PLACE.search(error)
    op, module = (place[1], place[2]) if place else ("", "")
    return Outcome(name, side, recipe, seconds=seconds, op=op, module=module, error=" ".join(error.split())[:400])


def _compare(graph: Any, module: Any, images: Any) -> tuple[int, float]:
    """Return how many elements differ from the specification, and the SQNR in dB of the first output."""
    import torch

    from bitship.graph import spec

    differing, signal, noise = 0, 0.0, 0.0
    inside, outside = graph.inputs[0], graph.outputs[0]
    for image in images:
        codes = np.rint(image.numpy().transpose(0, 2, 3, 1) / inside.quant.scale) + inside.quant.zero_point
        limits = (inside.type.dtype.qmin, inside.type.dtype.qmax)
        fed = np.ascontiguousarray(np.clip(codes, *limits).astype(inside.type.dtype.numpy))
        fast, slow = graph.run(fed), spec.run(graph, fed)
        differing += sum(int(np.count_nonzero(a != b)) for a, b in zip(fast, slow, strict=True))
        with torch.no_grad():
            wanted = module(image).double().numpy()
        found = (slow[0].astype(np.float64) - outside.quant.zero_point) * outside.quant.scale
        signal, noise = signal + float((wanted**2).sum()), noise + float(((wanted - found) ** 2).sum())
    return differing, float(10 * np.log10(signal / max(noise, 1e-30)))


def in_process(name: str, recipe: str, limit: float, memory: float) -> Outcome:
    """Judge one model in a process of its own; what kills the process is the outcome's error."""
    side = MODELS[name].side
    command = [sys.executable, "-m", "benchmarks.zoo", "--one", name, "--recipe", recipe, "--memory", str(memory)]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return failed(name, side, recipe, f"not done after {limit:.0f} s", limit)
    if done.returncode == 0:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Outcome)
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    why = lines[-1] if lines else f"exit status {done.returncode}"
    return failed(name, side, recipe, why, time.monotonic() - start)


def _one(name: str, recipe: str, memory: float) -> int:
    import torch

    allowed = int(memory * 1024**3)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    torch.set_num_threads(1)
    outcome = judge(name, MODELS[name].side, lambda: build(name), recipe)
    sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")
    return 0


def row(o: Outcome) -> tuple[str, ...]:
    """Return one row of the table."""
    where = f"{o.op} in {o.module}" if o.op else ""
    if not o.converted:
        return (o.model, str(o.side), "no", "", "", "", "", "", f"{o.seconds:.0f}", where or o.error)
    relative = 100 * 10 ** (-(o.sqnr_db or 0.0) / 20)
    exact = "yes" if o.exact else f"{o.differing} differ"
    numbers = (f"{o.sqnr_db:.1f}", f"{relative:.2f}", str(o.nodes), str(o.float_nodes), f"{o.seconds:.0f}")
    return (o.model, str(o.side), "yes", exact, *numbers, "")


COLUMNS = ["model", "side", "converted", "exact", "SQNR dB", "error %", "nodes", "float", "s", "stopped by"]


def main() -> int:
    """Judge every model; exit status 1 when one is not converted or not exact."""
    from rich.progress import track

    from bitship.cli.output import console, table

    parser = argparse.ArgumentParser(description="Published architectures: integers alone, and the same bits?")
    parser.add_argument("--models", default="", help="names, separated by commas; all when not given")
    parser.add_argument("--recipe", default="int8", help="how to quantize")
    parser.add_argument("--limit", type=float, default=900, help="seconds a model")
    parser.add_argument("--memory", type=float, default=12, help="GiB of address space a model")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--json", type=Path, help="write the outcomes here")
    parser.add_argument("--one", choices=list(MODELS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return _one(args.one, args.recipe, args.memory)
    names = [n for n in args.models.split(",") if n] or list(MODELS)
    unknown = [n for n in names if n not in MODELS]
    if unknown:
        parser.error(f"--models: {', '.join(unknown)}; {', '.join(MODELS)} are known")
    with ThreadPoolExecutor(max(args.jobs, 1)) as pool:
        running = pool.map(lambda n: in_process(n, args.recipe, args.limit, args.memory), names)
        outcomes = []
        for o in track(running, "zoo", len(names), console=console(stderr=True), transient=True):
            print("  ".join(part for part in row(o) if part), file=sys.stderr, flush=True)
            outcomes.append(o)
    table("models with random weights (measured)", COLUMNS, [row(o) for o in outcomes], left=1)
    converted, exact = sum(o.converted for o in outcomes), sum(o.exact for o in outcomes)
    console().print(f"{converted} of {len(outcomes)} converted, {exact} exact, {100 * exact / len(outcomes):.0f} %")
    if args.json:
        args.json.write_bytes(msgspec.json.encode(outcomes))
    return int(exact != len(outcomes))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.zoo: {e}")
