"""The third use end to end, without downloads: train a split model, run its head on emulated devices, cut the link.

Everything on loopback: DigitScenes-64 is trained, the head runs on an emulated Cortex-M7 behind its serial port, on
emulated aarch64 and here, the tail behind a server, and between them a proxy shapes the link. What came of every image
is shown as it happens, and again in report.html.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bitship.cli.output import console
from bitship.errors import MissingDependencyError, PackageError
from bitship.graph.base import Array
from bitship.split import device
from bitship.split.client import Result, SplitClient, graph_head
from bitship.split.frame import EXTRA_BYTES, Answer, Frame, Kind, Source, refused
from bitship.split.gateway import Gateway
from bitship.split.link import Link, Shape
from bitship.split.package import SplitPackage
from bitship.split.remote import GrpcRemote
from bitship.split.serving import serving
from bitship.split.wire import Wire

M7, AARCH64 = "mps2-an500", "linux-aarch64"
SLOW = "37.5 kbit/s, 100 ms"
LINKS = (
    ("9.6 kbit/s, 20 ms", Shape(9_600, 0.010)),
    (SLOW, Shape(37_500, 0.050)),
    ("1 Mbit/s, 20 ms", Shape(1_000_000, 0.010)),
)
DEADLINE_S = 2.0
LINK_IMAGES, CUT_IMAGES, BOARD_IMAGES, AARCH64_IMAGES = 40, 6, 8, 16
UP_S = 20.0


class Seen(msgspec.Struct, frozen=True):
    """What became of one image. ``nbytes`` of the frames; ``seconds`` until the answer, 0 where it was emulated."""

    device: str
    link: str
    label: int
    answer: int
    source: str
    confidence: float
    rung: int | None
    nbytes: int
    seconds: float
    why: str
    joules: float = 0.0

    @property
    def right(self) -> bool:
        """Whether the answer is the image's label."""
        return self.answer == self.label


@dataclass
class Story:
    """The demo as it unfolds: every image that was answered, and lines of what was proven."""

    seen: list[Seen] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    tell: Callable[["Story"], None] = lambda _: None

    def add(self, one: Seen) -> None:
        """Take an image in, and show it."""
        self.seen.append(one)
        self.tell(self)

    def fact(self, name: str, text: str) -> None:
        """Take in a line of what was found."""
        self.facts.append((name, text))
        self.tell(self)


@dataclass(frozen=True)
class Images:
    """Quantized inputs of the head, and what they show."""

    inputs: list[Array]
    labels: Array


def run(out: Path, overwrite: bool, quick: bool) -> None:
    """Train, prove, run over every link, cut it, and write report.html into a folder.

    quick  a few epochs: minutes less, some points of accuracy less
    """
    from bitship.split import build, demo_report, digits, evaluate

    _prepare(out, overwrite)
    c = console()
    trained = _train(out, quick)
    test = trained.data.test
    images = Images(build.inputs_of(trained.package.head, test.images), test.labels)
    result = evaluate.evaluate(trained.package, images.inputs, images.labels)
    package = build.save_measured(trained.package, evaluate.measured(trained.package, result), result.exit_accuracy)
    full = digits.accuracy(trained.full, test)
    c.print(
        f"full model {100 * full:.1f} %, on {len(images.labels)} held-out images; the exit alone "
        f"{100 * result.exit_accuracy:.1f} %"
    )
    for r in result.rungs:
        c.print(
            f"  rung {r.rung}: {100 * r.accuracy:.1f} %, {r.mean_bytes:.1f} B a frame (99 % below "
            f"{r.p99_bytes:.0f} B); with the exit {100 * r.mixed_accuracy:.1f} % at {r.mixed_bytes:.1f} B"
        )
    files = digits.on_files(trained.full, trained.data.test_images, test.labels, demo_report.CODECS)
    story = Story()
    with _live(story):
        _devices(package, images, out, story)
        with serving(package) as server:
            for name, shape in LINKS:
                _over_link(package, images, name, shape, server.port, story)
            _cut(package, images, server.port, story)
            _board(package, images, out, server.port, story)
    page = out / "report.html"
    demo_report.write(page, demo_report.Found(package.manifest.name, full, result, files, story.seen, story.facts))
    for name, text in story.facts:
        c.print(f"{name}: {text}")
    c.print(f"wrote {page}")


def _prepare(out: Path, overwrite: bool) -> None:
    if out.exists():
        if not (overwrite or (out / "package").is_dir()):
            raise PackageError(f"{out}: already exists and is not a split demo; give another folder with -o")
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _train(out: Path, quick: bool) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from bitship.extras import require

    require("torch", "split-train", "the split demo")
    from bitship.split import digits
    from bitship.split.train import Recipe

    recipe, epochs = (Recipe(distil=2, joint=8, fit=2, ramp=(1, 3)), 8) if quick else (Recipe(), digits.EPOCHS)
    columns = (TextColumn("{task.description:24}"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, epoch: int, of: int, loss: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=of, loss="")
            progress.update(tasks[stage], completed=epoch, loss=f"loss {loss:.3f}")

        return digits.train(out / "package", 0, epochs, recipe, report)


def _devices(package: SplitPackage, images: Images, out: Path, story: Story) -> None:
    """Prove the head's bits on aarch64, emulated where this is another processor."""
    from bitship.benchmarking import default_device
    from bitship.exporting import export

    rows = [(x,) for x in images.inputs[:AARCH64_IMAGES]]
    try:
        made = export(package.head, AARCH64, out / AARCH64, inputs=rows[:2])
        with default_device(made).open(made, None) as session:
            found = session.run(rows)
    except MissingDependencyError as e:
        story.fact(AARCH64, f"left out: {e}")
        return
    wanted = [package.head.run(*row) for row in rows]
    pairs = [(a, b) for mine, theirs in zip(found, wanted, strict=True) for a, b in zip(mine, theirs, strict=True)]
    differing = sum(int(np.count_nonzero(a != b)) for a, b in pairs)
    total = sum(a.size for a, _ in pairs)
    story.fact(AARCH64, f"{len(rows)} images, {total:,} elements of the head's outputs compared, {differing} differ")


def _over_link(package: SplitPackage, images: Images, name: str, shape: Shape, port: int, story: Story) -> None:
    wire = Wire(package)
    with Link("127.0.0.1", port, shape) as link, _client(wire, package, link) as client:
        client.wait_up(UP_S)
        for i in range(LINK_IMAGES):
            story.add(_one(client, images, i, name))
        taken = [s for s in story.seen if s.link == name and s.source == Source.TAIL.name]
        if taken:
            middle = statistics.median(s.seconds for s in taken)
            story.fact(name, f"{len(taken)} of {LINK_IMAGES} sent, {1e3 * middle:.0f} ms in the median (measured)")


def _cut(package: SplitPackage, images: Images, port: int, story: Story) -> None:
    """Cut the link under way, and restore it: every image is answered, and the server is back within two seconds."""
    name = "1 Mbit/s, cut and restored"
    wire = Wire(package)
    with Link("127.0.0.1", port, Shape(1_000_000, 0.010)) as link, _client(wire, package, link) as client:
        client.wait_up(UP_S)
        story.add(_one(client, images, 0, name))
        link.cut(drop=True)
        cut = [_one(client, images, 1 + i, name) for i in range(CUT_IMAGES)]
        for one in cut:
            story.add(one)
        link.restore()
        start = time.monotonic()
        back = client.wait_up(UP_S)
        seconds = time.monotonic() - start
        story.add(_one(client, images, 1 + CUT_IMAGES, name))
    late = sum(s.seconds > DEADLINE_S for s in cut)
    again = f"the server was back after {seconds:.2f} s" if back else "the server did not come back"
    story.fact("link cut", f"{len(cut)} of {len(cut)} answered, {late} of them late; {again} (measured)")


@contextmanager
def _client(wire: Wire, package: SplitPackage, link: Link) -> Iterator[SplitClient]:
    client = SplitClient(wire, graph_head(package.head), GrpcRemote(wire, link.address))
    try:
        yield client
    finally:
        client.close()


def _one(client: SplitClient, images: Images, i: int, link: str) -> Seen:
    found: Result = client.infer(images.inputs[i], DEADLINE_S)
    energy = client.policy.energy.request_j(client.link, found.frame_bytes) if found.frame_bytes else 0.0
    return Seen(
        device="this machine",
        link=link,
        label=int(images.labels[i]),
        answer=found.label,
        source=found.source.name,
        confidence=found.confidence,
        rung=found.rung,
        nbytes=found.frame_bytes,
        seconds=found.latency.total,
        why=found.why,
        joules=energy,
    )


def _board(package: SplitPackage, images: Images, out: Path, port: int, story: Story) -> None:
    """Run the head on an emulated Cortex-M7; its frames go over a slow link, and are the host's, byte by byte."""
    wire, same, rung = Wire(package), 0, len(package.manifest.rungs) - 2
    try:
        image = device.export_head(package, M7, out / M7)
        with (
            device.open_board(package, image) as board,
            Link("127.0.0.1", port, dict(LINKS)[SLOW]) as link,
        ):
            remote = GrpcRemote(wire, link.address)
            gateway = Gateway(wire, remote)
            remote.reconnect(UP_S)
            for i in range(BOARD_IMAGES):
                frame = board.run(images.inputs[i], rung)
                here = _here(package, wire, images.inputs[i], rung, frame)
                same += frame.payload == here.payload and frame.kind == here.kind
                story.add(_board_answer(frame, gateway, int(images.labels[i])))
            remote.close()
    except MissingDependencyError as e:
        story.fact("Cortex-M7", f"left out: {e}")
        return
    story.fact("Cortex-M7", f"{same} of {BOARD_IMAGES} frames are this machine's, byte by byte (emulated, over serial)")


def _here(package: SplitPackage, wire: Wire, x: Array, rung: int, like: Frame) -> Frame:
    """Return the frame this machine makes of an image: features, or the exit's answer where it is sure."""
    from bitship.split.answers import local_answer

    features, logits = package.head.run(x)
    local = local_answer(logits, package.manifest.exit)
    if local.confidence >= package.manifest.exit.threshold:
        return Frame(Kind.ANSWER, local.pack(), sequence=like.sequence, model=like.model)
    return wire.pack(features, rung, like.sequence)


def _board_answer(frame: Frame, gateway: Gateway, label: int) -> Seen:
    name, start = "Cortex-M7, emulated", time.monotonic()
    if frame.kind == Kind.ANSWER:
        nbytes, why, answered = 0, "confident", frame
    else:
        nbytes, why, answered = EXTRA_BYTES + len(frame.payload), "offload", gateway.answer(frame)
    if answered.kind != Kind.ANSWER:
        raise refused(answered.payload)
    answer = Answer.unpack(answered.payload)
    return Seen(
        device=name,
        link=SLOW if nbytes else "none",
        label=label,
        answer=answer.label,
        source=answer.source.name,
        confidence=answer.confidence / 65535,
        rung=frame.rung if nbytes else None,
        nbytes=nbytes,
        seconds=time.monotonic() - start if nbytes else 0.0,
        why=why,
    )


@contextmanager
def _live(story: Story) -> Iterator[None]:
    """Show the last images and every fact as they come, on a terminal; nothing elsewhere."""
    from rich.live import Live

    from bitship.split import demo_report

    c = console()
    if not c.is_terminal:
        yield
        return
    with Live(demo_report.screen(story.seen, story.facts), console=c, refresh_per_second=8) as live:
        story.tell = lambda s: live.update(demo_report.screen(s.seen, s.facts))
        yield
