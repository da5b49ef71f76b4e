"""Train the depthwise encoder and a ViT of equal size on CIFAR-10 alike: same data, seed, steps and schedule.

python -m benchmarks.encoder_train --data FOLDER --model encoder --steps 1600 --out DIR

What `benchmarks.encoder_error` then compares. DIR/MODEL.safetensors holds the float weights.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import data_folder
from benchmarks.train_cifar10 import augment, load_images
from bitship import models
from bitship.errors import BitshipError

BATCH = 64
RATE = 2e-3
DECAY = 0.05
WARM = 0.1
REPORT = 100  # steps


def encoder() -> Any:
    """Return the depthwise encoder with a classifier's head, fresh."""
    from bitship.models.npu.config import EncoderConfig
    from bitship.models.npu.encoder import EncoderClassifier

    return EncoderClassifier(EncoderConfig())


def vit() -> Any:
    """Return the vision transformer, fresh."""
    return models.fresh("vit_micro")


KINDS: dict[str, Callable[[], Any]] = {"encoder": encoder, "vit": vit}


def train(module: Any, images: Any, labels: Any, steps: int, seed: int) -> None:
    """Train in place: AdamW, linear warm-up, cosine to zero, label smoothing."""
    import torch

    order = np.random.default_rng(seed)
    entry = models.shipped("vit_micro")
    optimizer = torch.optim.AdamW(module.parameters(), RATE, weight_decay=DECAY)
    warm, begun = max(1, round(WARM * steps)), time.monotonic()
    for step in range(steps):
        factor = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        optimizer.param_groups[0]["lr"] = RATE * factor
        batch = torch.from_numpy(order.integers(0, len(images), BATCH))
        x = entry.normalise(augment(images[batch], order)).to(memory_format=torch.channels_last)
        loss = torch.nn.functional.cross_entropy(module(x), labels[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % REPORT == 0:
            print(f"step {step + 1}/{steps}  loss {float(loss):.4f}  {time.monotonic() - begun:.0f} s", flush=True)


def main() -> int:
    """Train one model and write its weights."""
    import torch

    parser = argparse.ArgumentParser(description="Train the encoder or the ViT for benchmarks.encoder_error.")
    parser.add_argument("--data", type=Path, help="the folder with cifar10/; BITSHIP_DATA when not given")
    parser.add_argument("--model", choices=list(KINDS), default="encoder")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    folder = data_folder(args.data) / "cifar10"
    module = KINDS[args.model]().to(memory_format=torch.channels_last).train()
    train(module, *load_images(folder / "train.npz"), args.steps, args.seed)
    images, labels = load_images(folder / "test.npz")
    args.out.mkdir(parents=True, exist_ok=True)
    models.save_weights(module.state_dict(), args.out / f"{args.model}.safetensors")
    entry = models.shipped("vit_micro")
    with torch.no_grad():
        scores = torch.cat([module.eval()(entry.normalise(part.float())) for part in images.split(500)])
    print(f"{args.model}: test accuracy {float((scores.argmax(1) == labels).float().mean()):.4f}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.encoder_train: {e}")
