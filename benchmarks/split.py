"""A split model against the full one and against sending files: accuracy and wire bytes, on images nobody trained on.

python -m benchmarks.split --all --data FOLDER [--seeds 3] [--out FOLDER] [--json FILE]
python -m benchmarks.split --scenes --seeds 1 --epochs 30

--all is every benchmark of split computing, one after the other: this one, split_cifar, split_several,
split_coder and split_service.

--out keeps every seed's package and figures, and a seed whose figures are there is not trained again. Wire bytes are
whole frames, header and CRC included; a file is the whole file, without any header.
"""

import argparse
import statistics
import sys
from pathlib import Path

import msgspec
import numpy as np

from bitship.errors import BitshipError
from bitship.graph.base import Array
from bitship.graph.store import write_atomic
from bitship.split import rans, scenes, tables
from bitship.split.evaluate import Result, RungResult, evaluate, measured
from bitship.split.package import SplitPackage, symbols_of

EPOCHS = 30
SEEDS = 3
FILES = (
    (scenes.Codec.PNG, 0),
    *((scenes.Codec.JPEG, q) for q in (75, 50, 30, 20, 15, 10, 5, 1)),
    *((scenes.Codec.WEBP, q) for q in (75, 50, 30, 20, 10, 5, 0)),
)


HEAD = [
    *("seed", "rung", "full %", "split %", "points", "mean B", "p99 B", "JPEG (full %)", "WebP (full %)"),
    *("zstd-19, streams", "with exit % at B", "local %"),
]


class SeedResult(msgspec.Struct, frozen=True):
    """One seed: the full model, the split one at every rung, files, and zstd at level 19 on the same symbols."""

    seed: int
    full_accuracy: float
    full_parameters: int
    head_parameters: int
    head_macs: int
    split: Result
    files: tuple[scenes.FilePoint, ...]
    rans_bytes: tuple[float, ...]
    zstd_bytes: tuple[float, ...]


def one_seed(seed: int, epochs: int, out: Path) -> SeedResult:
    """Train a seed and measure it; the package lies in ``out``."""
    from bitship.extras import require
    from bitship.split import build, digits
    from bitship.split.train import Recipe

    require("zstandard", "split", "the comparison with zstd")

    def report(stage: str, epoch: int, of: int, loss: float) -> None:
        print(f"seed {seed}: {stage} {epoch}/{of}, loss {loss:.4f}", file=sys.stderr, flush=True)

    trained = digits.train(out / f"seed{seed}", seed, epochs, Recipe(), report)
    test, package = trained.data.test, trained.package
    inputs = build.inputs_of(package.head, test.images)
    result = evaluate(package, inputs, test.labels)
    rungs = measured(package, result)
    package = build.save_measured(package, rungs, result.exit_accuracy)
    ours, zstd = _coders(package, inputs)
    return SeedResult(
        seed=seed,
        full_accuracy=digits.accuracy(trained.full, test),
        full_parameters=sum(p.numel() for p in trained.full.parameters()),
        head_parameters=sum(a.size for a in package.head.constants.values()),
        head_macs=package.head.macs,
        split=result,
        files=tuple(digits.on_files(trained.full, trained.data.test_images, test.labels, FILES)),
        rans_bytes=ours,
        zstd_bytes=zstd,
    )


def _coders(package: SplitPackage, inputs: list[Array]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean streams of rANS and of zstd at level 19 for the same symbols, rung by rung, without headers."""
    import zstandard

    press = zstandard.ZstdCompressor(level=19, write_checksum=False, write_content_size=False)
    codes = np.concatenate([package.head.run(row)[0] for row in inputs])
    ours, others = [], []
    for r, rung in enumerate(package.manifest.rungs):
        table = tables.parse(package.tables(r), package.manifest.features[2])
        symbols = symbols_of(codes, package.manifest.zero_point, rung.shift).transpose(0, 3, 1, 2)
        planes = [np.ascontiguousarray(s) for s in symbols]
        ours.append(statistics.fmean(len(rans.encode(table, s)) for s in planes))
        others.append(statistics.fmean(len(press.compress(s.tobytes())) for s in planes))
    return tuple(ours), tuple(others)


def equal(files: tuple[scenes.FilePoint, ...], codec: str, accuracy: float) -> scenes.FilePoint:
    """Return a codec's smallest files that the full model reads as well; where none does, those it reads best."""
    own = [f for f in files if f.codec == codec]
    reached = [f for f in own if f.accuracy >= accuracy]
    return min(reached, key=lambda f: f.mean_bytes) if reached else max(own, key=lambda f: (f.accuracy, -f.mean_bytes))


def _against(rung: RungResult, files: scenes.FilePoint) -> str:
    return f"{100 * rung.mean_bytes / files.mean_bytes:.0f} % of {files.mean_bytes:.0f} ({100 * files.accuracy:.1f})"


def show(results: list[SeedResult]) -> None:
    """Print the tables."""
    from bitship.cli.output import table

    rows = []
    for s in results:
        for r, ours, zstd in zip(s.split.rungs, s.rans_bytes, s.zstd_bytes, strict=True):
            against = [_against(r, equal(s.files, codec, r.accuracy)) for codec in ("JPEG", "WEBP")]
            rows.append(
                (
                    s.seed,
                    r.rung,
                    f"{100 * s.full_accuracy:.1f}",
                    f"{100 * r.accuracy:.1f}",
                    f"{100 * (r.accuracy - s.full_accuracy):+.1f}",
                    f"{r.mean_bytes:.1f}",
                    f"{r.p99_bytes:.0f}",
                    *against,
                    f"{100 * ours / zstd:.0f} % of {zstd:.0f}",
                    f"{100 * r.mixed_accuracy:.1f} at {r.mixed_bytes:.1f}",
                    f"{100 * r.local_share:.0f}",
                )
            )
    images = results[0].split.images
    table(
        f"DigitScenes-64, {images} held-out images, integer head and tail, whole frames (measured)",
        HEAD,
        rows,
        left=2,
    )
    table(
        "What the device runs, and the full model on files (measured)",
        ["seed", "codec", "quality", "mean B", "full model %"],
        [
            (s.seed, f.codec, f.quality, f"{f.mean_bytes:.1f}", f"{100 * f.accuracy:.1f}")
            for s in results
            for f in s.files
        ],
        left=2,
    )
    for s in results:
        print(
            f"seed {s.seed}: full model {s.full_parameters:,} parameters, head with exit {s.head_parameters:,} "
            f"({s.head_macs:,} MACs); the exit alone {100 * s.split.exit_accuracy:.1f} %"
        )


def main() -> int:
    """Train what is not there yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="everything there is; hours of training")
    parser.add_argument("--data", type=Path, help="the folder of real data, for --all; BITSHIP_DATA when not given")
    parser.add_argument("--scenes", action="store_true", help="DigitScenes-64")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the full model's training")
    parser.add_argument("--out", type=Path, default=Path("build/split"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (arguments.all or arguments.scenes):
        parser.error("give --all or --scenes")
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in range(arguments.seeds):
        kept = arguments.out / f"seed{seed}.json"
        if not kept.exists():
            found = one_seed(seed, arguments.epochs, arguments.out)
            write_atomic(kept, msgspec.json.encode(found))
        results.append(msgspec.json.decode(kept.read_bytes(), type=SeedResult))
    show(results)
    if arguments.json:
        write_atomic(arguments.json, msgspec.json.format(msgspec.json.encode(results), indent=1))
    return others(arguments) if arguments.all else 0


def others(arguments: argparse.Namespace) -> int:
    """Run the other benchmarks of split computing; the first status that is not 0, or 0."""
    from benchmarks import split_cifar, split_coder, split_service, split_several

    data = ["--data", str(arguments.data)] if arguments.data else []
    common = ["--seeds", str(arguments.seeds), "--out", str(arguments.out)]
    status = split_cifar.main([*data, *common])
    status = status or split_several.main(common)
    status = status or split_coder.main([])
    return status or split_service.main(["--all", "--package", str(arguments.out / "seed0")])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.split: {e}")
