"""The split service under stress: a cut link, bandwidth steps, overload, batching, slow links.

python -m benchmarks.split_service --all [--package FOLDER] [--json FILE]
python -m benchmarks.split_service --only links --only cut

A package of random weights (benchmarks/split_parts.py): its answers mean nothing, its bytes and times are real. The
server is a process of its own on loopback; links are shaped by the proxy of bitship.split.link. With --package the
steps of bandwidth take a trained package and what was measured of its rungs; else those accuracies are assumed.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.split_ask import Figure, client_of, late_of, listening
from benchmarks.split_load import closed, open_loop, serving
from benchmarks.split_parts import NEVER, SMALL, Size, images, make
from benchmarks.split_steps import assumed, steps, trained
from bitship.errors import BitshipError
from bitship.extras import require
from bitship.split.client import Result
from bitship.split.frame import Source
from bitship.split.gateway import Gateway
from bitship.split.link import Link, Shape
from bitship.split.package import SplitPackage
from bitship.split.policy import Policy
from bitship.split.remote import FramedRemote, GrpcRemote, Remote, SocketLine, infer_request
from bitship.split.wire import Wire

LINKS = ((9_600, 0.02), (37_500, 0.1), (1_000_000, 0.02))
HEAVY = Size(width=160, depth=6)


def cut(folder: Path) -> list[Figure]:
    """A link that is cut and restored five times: every answer in time, remote service back soon."""
    made, deadline = make(folder / "cut"), 0.3
    inputs = images(SMALL, 8)
    found: list[Result] = []
    back: list[float] = []
    with ExitStack() as stack:
        server = stack.enter_context(serving(made, "host"))
        link = stack.enter_context(Link("127.0.0.1", server.port, Shape(1e6, 0.02)))
        client = client_of(made, GrpcRemote(Wire(made), link.address))
        stack.callback(client.close)
        for i in range(5):
            found += [client.infer(x, deadline) for x in inputs]
            link.cut(drop=bool(i % 2))
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                found.append(client.infer(inputs[len(found) % 8], deadline))
                time.sleep(0.02)
            link.restore()
            restored = time.monotonic()
            while True:
                found.append(client.infer(inputs[0], deadline))
                if found[-1].source is Source.TAIL or time.monotonic() - restored > 10:
                    break
                time.sleep(0.02)
            back.append(time.monotonic() - restored)
    late = late_of(found, deadline)
    by = {s: sum(r.source is s for r in found) for s in Source}
    counts = f"{by[Source.TAIL]} by the tail, {by[Source.LOCAL_EXIT]} by the local exit"
    return [
        Figure(
            "link cut: answered before the deadline", f"{len(found) - late} of {len(found)} ({counts})", "all", not late
        ),
        Figure(
            "link restored: remote service resumes after", f"{max(back):.2f} s at most of 5", "2 s", max(back) <= 2.0
        ),
    ]


def overload(folder: Path) -> list[Figure]:
    """Four times the requests that the server can answer, in turn with as many as it can.

    The tail takes 0.1 s a batch of 8 and no processor: where it competes with the load generator for cores, nothing can
    be said about the service.
    """
    made = make(folder / "paced")
    wire = Wire(made)
    request = infer_request(wire, wire.pack(made.head.run(images(SMALL, 1)[0])[0], 0, 1)).SerializeToString()
    with serving(made, "paced", batch=8, queue=16) as server:
        asyncio.run(closed(server.address, request, 24, 1.0))  # warms up
        peaks, loads = [], []
        for _ in range(4):  # in turn, so that a busy moment of the machine hits both
            peaks.append(asyncio.run(closed(server.address, request, 24, 2.0)))
            rate = 4 * max(p.goodput for p in peaks)
            loads.append(asyncio.run(open_loop(server.address, request, rate, 2.5)))
    peak = statistics.median(p.goodput for p in peaks)
    goodput = statistics.median(one.goodput for one in loads)
    rejects = sorted(s for one in loads for s in one.rejected_s) or [0.0]
    other = sum((one.other for one in loads), Counter())
    sent = sum(one.sent for one in loads)
    share, p99 = goodput / peak, rejects[int(0.99 * (len(rejects) - 1))]
    return [
        Figure("peak of the server", f"{peak:.0f} answers/s", ""),
        Figure(
            "overload x4: refused within",
            f"p50 {statistics.median(rejects) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, {len(rejects)} of {sent}"
            + "".join(f", {count} {name}" for name, count in other.items()),
            "10 ms (p50)",
            statistics.median(rejects) < 0.010,
        ),
        Figure("overload x4: goodput", f"{goodput:.0f}/s, {share:.0%} of the peak", "80 %", share >= 0.8),
    ]


def batching(folder: Path) -> list[Figure]:
    """Answers a second with batches of up to 16 against one at a time.

    What a batch saves is what a call of the tail costs beside its arithmetic: much where a call reads
    19 million weights, little with small convolutions in torch, nothing with a graph's kernels. Where the tail is that
    small, the service's own work (about half a millisecond a request) is the limit either way.
    """
    figures = []
    for kind, size in (("torch, dense", SMALL), ("torch", SMALL), ("host", SMALL), ("host", HEAVY)):
        if kind.startswith("torch"):
            require("torch", "torch", "the torch tail")
        made = make(folder / f"{kind[:5]}{size.width}", size)
        wire = Wire(made)
        request = infer_request(wire, wire.pack(made.head.run(images(size, 1)[0])[0], 0, 1)).SerializeToString()
        turns: dict[int, list[float]] = {1: [], 16: []}
        with serving(made, kind, batch=1, queue=256) as one, serving(made, kind, batch=16, queue=256) as many:
            for _ in range(4):  # in turn, so that a busy moment of the machine hits both; the first warms up
                for batch, server in ((1, one), (16, many)):
                    turns[batch].append(asyncio.run(closed(server.address, request, 48, 1.5)).goodput)
        singly, together = (statistics.median(turns[b][1:]) for b in (1, 16))
        gain = together / singly
        text = f"{singly:.0f}/s in turn, {together:.0f}/s in batches of up to 16: {gain:.2f} x"
        name = f"batching, {kind} tail of width {size.width}"
        wanted = "2 x" if kind == "torch, dense" else ""
        figures.append(Figure(name, text, wanted, gain >= 2.0 if wanted else None))
    return figures


def links(folder: Path) -> list[Figure]:
    """Three links: p50 against round trip, bytes at the rate, and the server's time."""
    made = make(folder / "links", shifts=(2,))
    wire, inputs = Wire(made), images(SMALL, 8)
    figures = []
    with ExitStack() as stack:
        server = stack.enter_context(serving(made, "host"))
        gateway = Gateway(wire, GrpcRemote(wire, server.address))
        device_port = stack.enter_context(listening(gateway))
        for rate, delay in LINKS:
            for name, port in (("gRPC", server.port), ("frames", device_port)):
                with Link("127.0.0.1", port, Shape(rate, delay)) as link:
                    figures.append(_on_link(made, link, gateway if name == "frames" else None, inputs))
        gateway.remote.close()
    return figures


def _on_link(made: SplitPackage, link: Link, gateway: Gateway | None, inputs: list[Any]) -> Figure:
    wire, name = Wire(made), "frames" if gateway else "gRPC"
    remote: Remote = GrpcRemote(wire, link.address)
    if gateway:
        remote = FramedRemote(wire, lambda: SocketLine.connect("127.0.0.1", link.listen))
    client = client_of(made, remote, Policy(NEVER, (0.0,)))
    try:
        client.infer(inputs[0], 10.0)
        up, down, behind = link.up.nbytes, link.down.nbytes, gateway.remote_s if gateway else 0.0
        found = [client.infer(inputs[i % len(inputs)], 10.0) for i in range(15)]
        up, down = (link.up.nbytes - up) // len(found), (link.down.nbytes - down) // len(found)
    finally:
        client.close()
    if not all(r.source is Source.TAIL for r in found):
        return Figure(f"{link.shape.rate_bps / 1e3:g} kbit/s {name}", "not every request was answered", "1.15", False)
    p50 = statistics.median(r.latency.total for r in found)
    server_s = statistics.median(r.latency.server for r in found)
    if gateway:  # a frame does not carry it: what the gateway saw, server and all
        server_s = (gateway.remote_s - behind) / len(found)
    shape = link.shape
    least = 2 * shape.delay_s + 8 * (up + down) / shape.rate_bps + server_s
    ratio = p50 / least
    return Figure(
        f"{shape.rate_bps / 1e3:g} kbit/s + {shape.delay_s * 1e3:g} ms each way, {name}",
        f"p50 {p50 * 1e3:.0f} ms, {ratio:.2f} of RTT + bytes/rate + server ({up} B up, {down} B down)",
        "1.15",
        ratio <= 1.15,
    )


PARTS: dict[str, Callable[[Path], list[Figure]]] = {
    "cut": cut,
    "steps": lambda folder: steps(assumed(folder)),
    "overload": overload,
    "batching": batching,
    "links": links,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The split service under stress.")
    parser.add_argument("--all", action="store_true", help="every part")
    parser.add_argument("--only", action="append", default=[], choices=sorted(PARTS), help="a part; may be repeated")
    parser.add_argument("--package", type=Path, help="a trained package of DigitScenes-64, for the steps of bandwidth")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(arguments)
    figures: list[Figure] = []
    for name in PARTS if args.all or not args.only else args.only:
        with tempfile.TemporaryDirectory(prefix="bitship-") as folder:
            real = name == "steps" and args.package
            for f in steps(trained(args.package)) if real else PARTS[name](Path(folder)):
                mark = {True: "yes", False: "NO", None: ""}[f.ok]
                print(
                    f"{f.name:56} {f.value}  [{f.wanted}: {mark}]" if f.wanted else f"{f.name:56} {f.value}", flush=True
                )
                figures.append(f)
    if args.json:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.split_service: {e}")
