"""The client when its link is slow, cut, comes back, or leads to a gateway; certificates; the policy's arithmetic."""

import os
import pty
import socket
import stat
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from benchmarks.split_parts import ALWAYS, SMALL, images, make

from bitship.errors import DeviceError, PackageError
from bitship.split import certs
from bitship.split.client import Result, SplitClient, graph_head
from bitship.split.frame import Answer, Frame, Kind, Reader, Refusal, RefusedError, Source, refused
from bitship.split.gateway import Gateway
from bitship.split.link import Link, Shape
from bitship.split.package import SplitPackage
from bitship.split.policy import LinkEstimate, Policy
from bitship.split.remote import FramedRemote, GrpcRemote, SerialLine, SocketLine
from bitship.split.security import Security, read_token
from bitship.split.server import ServerOptions
from bitship.split.serving import serving, start
from bitship.split.wire import Wire

pytest.importorskip("grpc", reason="bitship[split] is not installed")
pytest.importorskip("prometheus_client", reason="bitship[split] is not installed")
pytest.importorskip("cryptography", reason="bitship[split] is not installed")

IMAGE = images(SMALL, 1, seed=3)[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SplitPackage:
    return make(tmp_path_factory.mktemp("split") / "parts", shifts=(0, 2, 3))


@contextmanager
def client_of(made: SplitPackage, address: str) -> Iterator[SplitClient]:
    wire = Wire(made)
    client = SplitClient(wire, graph_head(made.head), GrpcRemote(wire, address))
    try:
        yield client
    finally:
        client.close()


@contextmanager
def linked(made: SplitPackage, shape: Shape) -> Iterator[tuple[Link, SplitClient]]:
    with (
        serving(made) as server,
        Link("127.0.0.1", server.port, shape) as link,
        client_of(made, link.address) as client,
    ):
        assert client.wait_up(10)
        yield link, client


def in_time(found: Result, deadline: float) -> None:
    assert found.latency.total < deadline


def test_a_confident_local_exit_sends_nothing(made: SplitPackage) -> None:
    m = made.manifest
    always = msgspec.structs.replace(m, exit=msgspec.structs.replace(m.exit, threshold=ALWAYS))
    sure = SplitPackage(made.path, always)
    with serving(made) as server, client_of(sure, server.address) as client:
        found = client.infer(IMAGE, 1.0)
        assert (found.source, found.frame_bytes, found.why) == (Source.LOCAL_EXIT, 0, "confident")


def test_without_a_server_every_answer_is_local_and_quick(made: SplitPackage) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        with client_of(made, f"127.0.0.1:{s.getsockname()[1]}") as client:
            for _ in range(5):
                found = client.infer(IMAGE, 0.2)
                assert (found.source, found.why) == (Source.LOCAL_EXIT, "no link")
                in_time(found, 0.2)


@pytest.mark.parametrize("drop", [False, True], ids=["held", "dropped"])
def test_a_cut_link_is_answered_locally_in_time_and_used_again_within_two_seconds(
    made: SplitPackage, drop: bool
) -> None:
    deadline = 0.4
    with linked(made, Shape(1e6, 0.02)) as (link, client):
        assert client.infer(IMAGE, 2.0).source is Source.TAIL
        link.cut(drop)
        found = [client.infer(IMAGE, deadline) for _ in range(6)]
        assert {f.source for f in found} == {Source.LOCAL_EXIT}
        for f in found:
            in_time(f, deadline)
        assert found[-1].why in ("no link", "too slow")
        assert sum(f.attempts > 0 for f in found) <= 2  # nothing more is sent into it
        link.restore()
        restored = time.monotonic()
        while client.infer(IMAGE, deadline).source is not Source.TAIL:
            assert time.monotonic() - restored < 2.0
            time.sleep(0.05)


def test_a_server_that_restarts_is_used_again_within_two_seconds(made: SplitPackage) -> None:
    server = start(made)
    port = server.port
    try:
        with client_of(made, server.address) as client:
            assert client.wait_up(5)
            assert client.infer(IMAGE, 1.0).source is Source.TAIL
            server.stop()
            found = client.infer(IMAGE, 0.5)
            assert (found.source, found.attempts) == (Source.LOCAL_EXIT, 2)  # one retry, then locally
            in_time(found, 0.5)
            server = start(made, options=ServerOptions(port=port))
            restarted = time.monotonic()
            while client.infer(IMAGE, 0.5).source is not Source.TAIL:
                assert time.monotonic() - restarted < 2.0
                time.sleep(0.05)
    finally:
        server.stop()


def test_a_link_that_becomes_slower_or_faster_changes_the_rung_within_three_requests(made: SplitPackage) -> None:
    with linked(made, Shape(1e6, 0.02)) as (link, client):
        rungs = [client.infer(IMAGE, 1.0).rung for _ in range(4)]
        assert rungs[-1] == 0
        link.shape.rate_bps = 7_500  # rung 0 no longer fits with its margin, a later one does
        slow = [client.infer(IMAGE, 1.0) for _ in range(4)]
        assert all(f.rung in (1, 2) for f in slow[2:])
        assert all(f.source is Source.TAIL for f in slow[2:])
        link.shape.rate_bps = 1e6
        fast = [client.infer(IMAGE, 1.0).rung for _ in range(4)]
        assert fast[3] == 0


def test_a_link_too_slow_for_any_rung_is_answered_locally_and_looked_at_again(made: SplitPackage) -> None:
    with linked(made, Shape(9600, 0.02)) as (link, client):
        found = client.infer(IMAGE, 0.2)
        assert (found.source, found.why) == (Source.LOCAL_EXIT, "too slow")
        link.shape.rate_bps = 1e6
        changed = time.monotonic()
        while client.infer(IMAGE, 0.2).source is not Source.TAIL:
            assert time.monotonic() - changed < 5.0
            time.sleep(0.1)


def test_the_link_takes_the_time_that_it_says() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo() -> None:
            c, _ = listener.accept()
            with c:
                while data := c.recv(4096):
                    c.sendall(data)

        threading.Thread(target=echo, daemon=True).start()
        with Link("127.0.0.1", listener.getsockname()[1], Shape(100_000, 0.03)) as link:
            line = SocketLine.connect("127.0.0.1", link.listen)
            for nbytes in (10, 1000, 2500):
                began = time.monotonic()
                line.write(bytes(nbytes))
                left = nbytes
                while left:
                    left -= len(line.read(5.0))
                took = time.monotonic() - began
                # There and back at the rate, of which segments overlap, and twice the delay.
                least = 0.06 + 8 * nbytes / 100_000
                assert least * 0.98 < took < least + 8 * min(nbytes, 1448) / 100_000 + 0.05
            assert (link.up.nbytes, link.down.nbytes) == (3510, 3510)
            line.close()


def test_a_lossy_link_delays_and_loses_nothing(made: SplitPackage) -> None:
    with linked(made, Shape(1e6, 0.005, loss=0.2)) as (_, client):
        found = [client.infer(IMAGE, 5.0) for _ in range(10)]
        assert {f.source for f in found} == {Source.TAIL}
        assert max(f.latency.network for f in found) > 0.2


@contextmanager
def gateway_of(made: SplitPackage, address: str) -> Iterator[tuple[Gateway, int]]:
    wire = Wire(made)
    gateway = Gateway(wire, GrpcRemote(wire, address))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=gateway.serve_tcp, args=(listener,), daemon=True)
        thread.start()
        yield gateway, listener.getsockname()[1]
        gateway.stop()
        thread.join(5)
    gateway.remote.close()


def test_frames_over_tcp_give_the_answers_of_grpc(made: SplitPackage) -> None:
    wire = Wire(made)
    with (
        serving(made) as server,
        gateway_of(made, server.address) as (gateway, port),
        client_of(made, server.address) as direct,
    ):
        framed = SplitClient(
            wire, graph_head(made.head), FramedRemote(wire, lambda: SocketLine.connect("127.0.0.1", port))
        )
        assert framed.wait_up(5)
        assert direct.wait_up(5)
        for image in images(SMALL, 6, seed=8):
            a, b = framed.infer(image, 2.0), direct.infer(image, 2.0)
            assert (a.label, a.confidence, a.source, a.rung) == (b.label, b.confidence, Source.TAIL, b.rung)
        assert gateway.frames == 6
        framed.close()


def test_frames_over_a_serial_line_are_answered_and_noise_is_survived(made: SplitPackage) -> None:
    wire = Wire(made)
    device, line_end = pty.openpty()
    tty.setraw(device)
    with serving(made) as server:
        gateway = Gateway(wire, GrpcRemote(wire, server.address))
        line = SerialLine(os.ttyname(line_end))
        thread = threading.Thread(target=gateway.serve, args=(line,), daemon=True)
        thread.start()
        frame = wire.pack(made.head.run(IMAGE)[0], 1, 99)
        os.write(device, b"\xb5\x11\x10noise" + wire.hello().pack() + b"\xb5" + frame.pack() + b"\xb5\x11")
        reader = Reader()
        found: list[Frame] = []
        until = time.monotonic() + 5
        while len(found) < 2 and time.monotonic() < until:
            found += reader.feed(os.read(device, 100))
        gateway.stop()
        thread.join(5)
        line.close()
        gateway.remote.close()
    os.close(device)
    os.close(line_end)
    assert [(f.kind, f.sequence) for f in found] == [(Kind.HELLO, 0), (Kind.ANSWER, 99)]


def test_a_gateway_refuses_by_name(made: SplitPackage, tmp_path: Path) -> None:
    wire, other = Wire(made), Wire(make(tmp_path / "other", seed=4, shifts=(0, 2, 3)))
    frame = wire.pack(made.head.run(IMAGE)[0], 0, 5)
    with serving(made) as server, gateway_of(made, server.address) as (gateway, port):
        line = SocketLine.connect("127.0.0.1", port)
        reader = Reader()

        def ask(data: bytes) -> Frame:
            line.write(data)
            while not (found := reader.feed(line.read(5.0))):
                pass
            return found[0]

        cases = (
            (other.hello(), Refusal.WRONG_MODEL),
            (replace(frame, model=b"xxxx"), Refusal.WRONG_MODEL),
            (replace(frame, table=b"xxxx"), Refusal.STALE_TABLE),
            (replace(frame, rung=7), Refusal.UNKNOWN_RUNG),
            (replace(frame, codec=7), Refusal.UNKNOWN_CODEC),
            (replace(frame, payload=frame.payload[:-2]), Refusal.DAMAGED),
            (replace(frame, kind=Kind.ANSWER), Refusal.WRONG_KIND),
        )
        for bad, code in cases:
            reply = ask(bad.pack())
            assert (reply.kind, reply.sequence) == (Kind.REFUSAL, bad.sequence)
            assert refused(reply.payload).code is code
        # A frame above any that this package could send is skipped; the one behind it is answered.
        assert ask(replace(frame, payload=bytes(5000)).pack() + frame.pack()).kind == Kind.ANSWER
        assert (gateway.frames, gateway.refusals) == (1, len(cases))
        server.stop()
        assert refused(ask(frame.pack()).payload).code in (Refusal.UNAVAILABLE, Refusal.LATE)
        line.close()


def test_certificates_and_a_token_let_the_right_client_in_and_no_other(made: SplitPackage, tmp_path: Path) -> None:
    certs.make(tmp_path / "ours", ["127.0.0.1"])
    certs.make(tmp_path / "theirs", ["127.0.0.1"])
    for path in (tmp_path / "ours").iterdir():
        if path.suffix == ".key" or path.name == certs.TOKEN:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ours, wire = certs.security(tmp_path / "ours", certs.CLIENT), Wire(made)
    options = ServerOptions(security=certs.security(tmp_path / "ours", certs.SERVER))
    frame = wire.pack(made.head.run(IMAGE)[0], 0, 5)
    strangers = {
        "no certificate": (None, Refusal.UNAVAILABLE),
        "another authority": (certs.security(tmp_path / "theirs", certs.CLIENT), Refusal.UNAVAILABLE),
        "another token": (replace(ours, token="x" * 43), Refusal.NOT_ALLOWED),
    }
    with serving(made, options=options) as server:
        remote = GrpcRemote(wire, server.address, ours)
        assert remote.send(frame, 5.0).answer.source is Source.TAIL
        for name, (stranger, code) in strangers.items():
            other = GrpcRemote(wire, server.address, stranger)
            with pytest.raises(RefusedError) as found:
                other.send(frame, 3.0)
            assert found.value.code is code, name
            other.close()
        assert remote.send(frame, 5.0).answer.source is Source.TAIL
        remote.close()


@pytest.mark.parametrize("who", [certs.SERVER, certs.CLIENT])
def test_an_expired_certificate_is_refused_and_the_local_exit_answers(
    made: SplitPackage, tmp_path: Path, who: str
) -> None:
    certs.make(tmp_path / "old", ["127.0.0.1"], days=-1)
    certs.make(tmp_path / "new", ["127.0.0.1"])
    sides = {side: certs.security(tmp_path / "new", side) for side in (certs.SERVER, certs.CLIENT)}
    both = tmp_path / "both.pem"  # each side trusts both authorities; only the date is wrong
    both.write_bytes(b"".join((tmp_path / f / certs.AUTHORITY).read_bytes() for f in ("old", "new")))
    sides = {side: replace(s, authority=both) for side, s in sides.items()}
    old = certs.security(tmp_path / "old", who)
    sides[who] = replace(sides[who], certificate=old.certificate, key=old.key)
    wire = Wire(made)
    with serving(made, options=ServerOptions(security=sides[certs.SERVER])) as server:
        client = SplitClient(wire, graph_head(made.head), GrpcRemote(wire, server.address, sides[certs.CLIENT]))
        assert not client.wait_up(1.5)
        found = client.infer(IMAGE, 0.3)
        assert (found.source, found.why) == (Source.LOCAL_EXIT, "no link")
        client.close()


def test_certificates_are_valid_for_clocks_that_lag(tmp_path: Path) -> None:
    import datetime

    x509 = pytest.importorskip("cryptography.x509")
    certs.make(tmp_path / "c", ["10.0.0.1", "tail.example"])
    now = datetime.datetime.now(datetime.UTC)
    for name in (certs.AUTHORITY, "server.pem", "client.pem"):
        c = x509.load_pem_x509_certificate((tmp_path / "c" / name).read_bytes())
        assert c.not_valid_before_utc < now - datetime.timedelta(minutes=9)
        assert c.not_valid_after_utc > now + datetime.timedelta(days=89)
    names = x509.load_pem_x509_certificate((tmp_path / "c" / "server.pem").read_bytes()).extensions
    found = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(n.value) for n in found] == ["10.0.0.1", "tail.example"]


def test_keys_that_others_may_read_and_short_tokens_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    certs.make(folder, ["localhost"])
    with pytest.raises(PackageError, match="not empty"):
        certs.make(folder, ["localhost"])
    (folder / certs.TOKEN).write_text("short")
    with pytest.raises(DeviceError, match="at least 16"):
        read_token(folder / certs.TOKEN)
    side = replace(certs_side(folder), token="x" * 20)
    (folder / "client.key").chmod(0o644)
    with pytest.raises(DeviceError, match="chmod 600"):
        side.client()


def certs_side(folder: Path) -> Security:
    return Security(folder / "client.pem", folder / "client.key", folder / certs.AUTHORITY, "")


def test_the_estimate_follows_a_fall_at_once_and_a_rise_after_two() -> None:
    link = LinkEstimate()
    link.start(0.1, 0.1 + 8 * 600 / 50_000, 600)
    assert link.rate_bps == pytest.approx(50_000)
    link.transferred(400, 0.1 + 3200 / 10_000, 0.0)
    assert link.rate_bps == pytest.approx(10_000)
    link.transferred(400, 0.1 + 3200 / 80_000, 0.0)
    assert link.rate_bps == pytest.approx(10_000)
    link.transferred(400, 0.1 + 3200 / 80_000, 0.0)
    assert link.rate_bps == pytest.approx(80_000)
    link.gave_up(400, 0.5)
    assert link.rate_bps < 3200 / 0.4


@pytest.mark.parametrize(
    ("left", "rung", "why"), [(1.0, 0, "offload"), (0.15, 1, "offload"), (0.11, 2, "offload"), (0.05, None, "too slow")]
)
def test_the_best_rung_that_meets_the_deadline_is_taken(left: float, rung: int | None, why: str) -> None:
    link = LinkEstimate(round_trip_s=0.04, rate_bps=50_000, server_s=0.0)
    policy = Policy(threshold=60_000, accuracy=(0.95, 0.93, 0.9), margin=1.0)
    unsure = Answer(3, 30_000, Source.LOCAL_EXIT)
    choice = policy.choose(unsure, [800, 600, 400], left, link)
    assert (choice.rung, choice.why) == (rung, why)
    assert policy.choose(Answer(3, 60_000, Source.LOCAL_EXIT), [800, 600, 400], left, link).rung is None
    # Among equally good rungs the one of least energy; unmeasured rungs count in their order.
    assert Policy(60_000, (0.95, 0.949, 0.9), margin=1.0).choose(unsure, [800, 600, 400], 1.0, link).rung == 1
    assert Policy(60_000, (0.0, 0.0, 0.0), margin=1.0).choose(unsure, [800, 600, 400], 1.0, link).rung == 0
