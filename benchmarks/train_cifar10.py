"""Train a shipped model on CIFAR-10 and write its float weights as safetensors.

python -m benchmarks.train_cifar10 --data FOLDER --model vit_micro --epochs 40 --out DIR [--minutes 60]

The same seed, epochs and threads give the same weights on one machine. After every epoch DIR/MODEL.training.safetensors
holds all state, and the same command goes on from there; with fewer epochs it goes down that shorter cosine to its
end. DIR/MODEL.safetensors holds a running average of the weights.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import data_folder, jpegs
from bitship import models
from bitship.errors import BitshipError, FormatError
from bitship.graph.store import write_atomic

AVERAGE = 0.998  # of the running average of the weights, per step
PAD = 4  # pixels of reflection around an image before the random crop


@dataclass(frozen=True)
class Schedule:
    """How one model is trained: linear warm-up over ``warmup`` of all steps, then a cosine to zero.

    rate   peak learning rate of AdamW
    muon   peak learning rate of Muon, which then takes the matrices inside the blocks; 0: AdamW takes them too
    """

    rate: float
    decay: float
    muon: float = 0.0
    batch: int = 128
    warmup: float = 0.1
    smoothing: float = 0.1
    clip: float = 1.0


SCHEDULES = {"vit_micro": Schedule(2e-3, 0.05, muon=0.02), "mobilenet_micro": Schedule(4e-3, 0.02)}


def load_images(path: Path) -> tuple[Any, Any]:
    """Return (images [N, 3, 32, 32] uint8, labels [N] int64) of one of the .npz files as torch tensors."""
    import torch

    rows = list(jpegs(path))
    images = np.stack([image for image, _ in rows]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images)), torch.tensor([label for _, label in rows])


def augment(images: Any, order: np.random.Generator) -> Any:
    """Return float pixels in [0, 255], cropped at random from a padded copy and mirrored at random."""
    import torch

    n, _, side, _ = images.shape
    x = torch.nn.functional.pad(images.float(), (PAD,) * 4, mode="reflect")
    dy, dx = (torch.from_numpy(order.integers(0, 2 * PAD + 1, n)) for _ in range(2))
    rows, columns = dy[:, None] + torch.arange(side), dx[:, None] + torch.arange(side)
    mirrored = torch.from_numpy(order.random(n) < 0.5)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    of, channel = torch.arange(n)[:, None, None, None], torch.arange(3)[None, :, None, None]
    return x[of, channel, rows[:, None, :, None], columns[:, None, None, :]]


class Training:
    """All state of one training: the module, its running average, the optimizers, and how many epochs are done."""

    def __init__(self, name: str, epochs: int, seed: int, images: int) -> None:
        import torch

        self.name, self.epochs, self.seed = name, epochs, seed
        self.shipped, self.schedule = models.shipped(name), SCHEDULES[name]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(seed)
        self.module = models.fresh(name).to(self.device, memory_format=torch.channels_last)
        self.average = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.optimizers = self._optimizers()
        self.steps = -(-images // self.schedule.batch)
        self.done = 0

    def _optimizers(self) -> list[Any]:
        import torch

        s = self.schedule
        named = list(self.module.named_parameters())
        inner = [p for n, p in named if s.muon and p.dim() == 2 and n.startswith("blocks.")]
        matrices = [p for n, p in named if p.dim() > 1 and not any(p is q for q in inner)]
        vectors = [p for n, p in named if p.dim() <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        made: list[Any] = [torch.optim.AdamW(groups, s.rate, weight_decay=s.decay)]
        if inner:
            made.append(torch.optim.Muon(inner, s.muon, weight_decay=s.decay, momentum=0.95))
        for optimizer in made:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]
        return made

    def factor(self, step: int) -> float:
        """Return the learning rate of one step as a part of its peak."""
        total = self.epochs * self.steps
        warm = max(1, round(self.schedule.warmup * total))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def epoch(self, images: Any, labels: Any) -> Iterator[float]:
        """Train one epoch, yielding the loss of every step."""
        import torch

        order = np.random.default_rng((self.seed, self.done))
        self.module.train()
        for i, batch in enumerate(np.array_split(order.permutation(len(images)), self.steps)):
            step = self.done * self.steps + i
            for group in (g for o in self.optimizers for g in o.param_groups):
                group["lr"] = group["peak"] * self.factor(step)
            x = self.shipped.normalise(augment(images[batch], order))
            x = x.to(self.device, memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(
                self.module(x), labels[batch].to(self.device), label_smoothing=self.schedule.smoothing
            )
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.schedule.clip)
            for optimizer in self.optimizers:
                optimizer.step()
            self._follow(min(AVERAGE, (step + 1) / (step + 10)))
            yield float(loss.detach())
        self.done += 1

    def _follow(self, keep: float) -> None:
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name].copy_(value)

    # -- state on disk: tensors alone, never pickled objects

    def _description(self) -> dict[str, Any]:
        return {"model": self.name, "epochs": self.epochs, "seed": self.seed, "images_per_step": self.schedule.batch}

    def save(self, path: Path) -> None:
        """Write everything needed to go on."""
        from safetensors import torch as st

        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors.update((f"average.{k}", v) for k, v in self.average.items())
        for i, optimizer in enumerate(self.optimizers):
            for number, values in optimizer.state_dict()["state"].items():
                tensors.update((f"optimizer.{i}.{number}.{k}", v) for k, v in values.items())
        described = json.dumps({**self._description(), "done": self.done})
        contiguous = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        write_atomic(path, st.save(contiguous, metadata={"training": described}))

    def resume(self, path: Path) -> None:
        """Take up the state of a file; FormatError when it is damaged or of another training."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt", device=str(self.device)) as file:
                described = json.loads((file.metadata() or {}).get("training", "{}"))
                done = int(described.pop("done", 0))
                own = self._description()
                if done > self.epochs or {**described, "epochs": self.epochs} != own:
                    raise FormatError(f"{path}: of another training ({described}); remove it or choose another --out")
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - the file is no mapping
        except (OSError, SafetensorError, ValueError) as e:
            raise FormatError(f"{path}: not a readable training state: {e}") from None
        self._restore(tensors)
        self.done = done

    def _restore(self, tensors: dict[str, Any]) -> None:
        self.module.load_state_dict(_under(tensors, "module."))
        self.average = _under(tensors, "average.")
        for i, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()
            for name, value in _under(tensors, f"optimizer.{i}.").items():
                number, key = name.split(".", 1)
                state["state"].setdefault(int(number), {})[key] = value
            optimizer.load_state_dict(state)

    def averaged(self) -> Any:
        """Return the module in eval mode with the running average as its weights."""
        module = models.fresh(self.name)
        module.load_state_dict({k: v.cpu() for k, v in self.average.items()})
        return module.eval()


def _under(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def accuracy(name: str, module: Any, images: Any, labels: Any) -> float:
    """Return the part of images whose largest logit is their label's."""
    import torch

    normalise = models.shipped(name).normalise
    with torch.no_grad():
        scores = torch.cat([module(normalise(part.float())) for part in images.split(500)])
    return float((scores.argmax(1) == labels).float().mean())


def train(training: Training, out: Path, train_set: tuple[Any, Any], test_set: tuple[Any, Any], minutes: float) -> bool:
    """Train to the last epoch or until the next one would overrun; whether the last epoch is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bitship.cli.output import console

    start, longest = time.monotonic(), 0.0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True)) as progress:
        task = progress.add_task(training.name, total=training.epochs * training.steps)
        progress.update(task, completed=training.done * training.steps)
        while training.done < training.epochs:
            begun = time.monotonic()
            if begun - start + longest > minutes * 60:
                return False
            losses = []
            for loss in training.epoch(*train_set):
                losses.append(loss)
                progress.advance(task)
            longest = max(longest, time.monotonic() - begun)
            training.save(out / f"{training.name}.training.safetensors")
            module = training.averaged()
            models.save_weights(module.state_dict(), out / f"{training.name}.safetensors")
            right = accuracy(training.name, module, *test_set)
            progress.console.print(
                f"epoch {training.done}/{training.epochs}  loss {np.mean(losses):.4f}  test accuracy {right:.4f}  "
                f"{time.monotonic() - begun:.0f} s"
            )
    return True


def main() -> int:
    """Train one model; exit status 3 when the time ran out before the last epoch."""
    import torch

    parser = argparse.ArgumentParser(description="Train a shipped model on CIFAR-10.")
    parser.add_argument("--data", type=Path, help="the folder with cifar10/; BITSHIP_DATA when not given")
    parser.add_argument("--model", choices=list(SCHEDULES), default="vit_micro")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop before an epoch that would overrun this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.epochs < 1 or args.threads < 1:
        parser.error("--epochs and --threads must be 1 or more")
    torch.set_num_threads(args.threads)
    folder = data_folder(args.data) / "cifar10"
    train_set, test_set = load_images(folder / "train.npz"), load_images(folder / "test.npz")
    args.out.mkdir(parents=True, exist_ok=True)
    training = Training(args.model, args.epochs, args.seed, len(train_set[0]))
    state = args.out / f"{args.model}.training.safetensors"
    if state.exists():
        training.resume(state)
    finished = train(training, args.out, train_set, test_set, args.minutes)
    if not finished:
        print(f"{state}: {training.done} of {args.epochs} epochs are done; the same command goes on", file=sys.stderr)
    return 0 if finished else 3


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.train_cifar10: {e}")
