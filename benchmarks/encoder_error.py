"""Quantization error of the visual tokens: the depthwise encoder beside a ViT of equal size.

python -m benchmarks.encoder_error --data FOLDER [--weights DIR] [--images 200] [--json FILE]

Both were trained by `benchmarks.encoder_train` with the same data, seed, steps and schedule (1,600 steps of 64, so
neither is at its best), are calibrated on the same images and judged on the same others. The error is that of every
element of the tokens against the float model's: relative RMS, and the same in dB (`-20 log10`).
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.encoder_train import KINDS
from benchmarks.models import data_folder
from benchmarks.qat_cifar10 import calibration_of
from benchmarks.train_cifar10 import load_images
from bitship import models
from bitship.errors import BitshipError
from bitship.graph import Graph
from bitship.quantization import prepare
from bitship.quantization.recipe import Recipe, recipe_named

WEIGHTS = Path(__file__).parent / "checkpoints"
RECIPES: dict[str, Recipe] = {
    "int8": recipe_named("int8"),
    "int8, residuals too": Recipe(residual_bits=8),
    "w8a16": recipe_named("w8a16"),
    "w4a8": recipe_named("w4a8"),
    "w4a8_g32": recipe_named("w4a8_g32"),
    "w4a16": Recipe(weight_bits=4, activation_bits=16),
    "w4a16_g32": Recipe(weight_bits=4, weight_group=32, activation_bits=16),
}


class Row(msgspec.Struct, frozen=True):
    """One network by one recipe: relative RMS error of its tokens, in per cent and in dB."""

    model: str
    parameters: int
    accuracy: float
    recipe: str
    percent: float
    decibel: float
    constants: int


def tokens_of(name: str, module: Any) -> Any:
    """Return the module up to its visual tokens: [N, C, H, W] or [N, tokens, C]."""
    import torch

    class Tokens(torch.nn.Module):  # type: ignore[misc]
        """A vision transformer without its head."""

        def __init__(self) -> None:
            super().__init__()
            self.vit = module

        def forward(self, x: Any) -> Any:
            v = self.vit
            patches = v.patch_embed(x).flatten(2).transpose(1, 2)
            joined = torch.cat((v.cls_token.expand(x.shape[0], -1, -1), patches), 1) + v.pos_embed
            return v.norm(v.blocks(joined))

    return module.encoder if name == "encoder" else Tokens()


def error(graph: Graph, wanted: Any, images: Any) -> float:
    """Return the relative RMS error of the graph's output, images quantized by its own input's parameters."""
    given, out = graph.inputs[0].quant, graph.outputs[0].quant
    assert given is not None
    assert out is not None
    off = total = 0.0
    for image, real in zip(images.numpy(), wanted.numpy(), strict=True):
        codes = np.clip(np.rint(image.transpose(1, 2, 0) / given.scale) + given.zero_point, -32768, 32767)
        dtype = graph.inputs[0].type.dtype
        x = np.clip(codes, dtype.qmin, dtype.qmax).astype(dtype.numpy)[None]
        found = (graph.run(x)[0][0].astype(np.float64) - out.zero_point) * out.scale
        target = real.transpose(1, 2, 0) if real.ndim == 3 else real
        off += float(((found - target) ** 2).sum())
        total += float((target**2).sum())
    return float(np.sqrt(off / total))


def rows(folder: Path, weights: Path, count: int) -> list[Row]:
    """Measure both networks by every recipe."""
    import torch

    torch.set_num_threads(1)
    train, _ = load_images(folder / "cifar10" / "train.npz")
    test, labels = load_images(folder / "cifar10" / "test.npz")
    entry, found = models.shipped("vit_micro"), []
    calibration = [calibration_of("vit_micro", train)]
    images = entry.normalise(test[:count].float())
    for name, make in KINDS.items():
        module = make()
        models.load_weights(module, weights / f"{name}.safetensors")
        module.eval()
        encoder = tokens_of(name, module).eval()
        with torch.no_grad():
            wanted = encoder(images)
            scores = torch.cat([module(entry.normalise(part.float())) for part in test.split(500)])
        right = float((scores.argmax(1) == labels).float().mean())
        size = sum(p.numel() for p in module.parameters())
        paths = [path for path, m in encoder.named_modules() if getattr(m, "groups", 1) > 1]
        eight = dataclasses.replace(RECIPES["w4a8_g32"], layer_bits=dict.fromkeys(paths, 8))
        for recipe, what in {**RECIPES, "w4a8_g32, depthwise int8": eight}.items():
            graph = prepare(encoder, calibration, what, name).graph()
            part = error(graph, wanted, images)
            row = Row(name, size, right, recipe, 100 * part, -20 * float(np.log10(part)), graph.constant_bytes)
            found.append(row)
            print(f"{name} {recipe}: {row.percent:.3f} %  {row.decibel:.1f} dB", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Print the table."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description="Quantization error of the visual tokens of two encoders.")
    parser.add_argument("--data", type=Path, help="the folder with cifar10/; BITSHIP_DATA when not given")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="what benchmarks.encoder_train wrote")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    found = rows(data_folder(args.data), args.weights, args.images)
    by_recipe = {r.recipe: r for r in found if r.model == "vit"}
    lines = [
        (
            r.model,
            f"{r.parameters:,}",
            f"{r.accuracy:.4f}",
            r.recipe,
            f"{r.percent:.3f}",
            f"{r.decibel:.1f}",
            f"{by_recipe[r.recipe].percent / r.percent:.2f}",
            f"{r.constants:,}",
        )
        for r in found
    ]
    head = ["encoder", "parameters", "float top-1", "recipe", "error %", "dB", "times less than the ViT", "constants B"]
    table(f"relative RMS error of the visual tokens, {args.images} test images (measured)", head, lines)
    if args.json:
        args.json.write_bytes(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.encoder_error: {e}")
