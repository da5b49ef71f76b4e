"""What a split server is sent by mistake or by intent: refused by name, and the next request is answered."""

import re
import socket
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from benchmarks.split_parts import make
from split_requests import refused, sent, still_serves

from bitship.split.frame import Codec, Frame, Kind
from bitship.split.oip import service
from bitship.split.package import SplitPackage
from bitship.split.remote import infer_request
from bitship.split.server import ServerOptions
from bitship.split.serving import Running, serving
from bitship.split.wire import Wire

pytest.importorskip("grpc", reason="bitship[split] is not installed")
pytest.importorskip("prometheus_client", reason="bitship[split] is not installed")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> SplitPackage:
    return make(tmp_path_factory.mktemp("split") / "parts")


BAD_FRAMES: dict[str, tuple[Callable[[Frame], bytes], str, str]] = {
    "truncated": (lambda f: f.pack()[:-1], "INVALID_ARGUMENT", "DAMAGED: .* its header says"),
    "empty": (lambda f: b"", "INVALID_ARGUMENT", "DAMAGED: 0 B"),
    "flipped": (lambda f: bytes([*f.pack()[:-6], f.pack()[-6] ^ 1, *f.pack()[-5:]]), "INVALID_ARGUMENT", "its CRC"),
    "forged stream": (
        lambda f: replace(f, payload=f.payload[:-1], codec=Codec.RANS).pack(),
        "INVALID_ARGUMENT",
        "DAMAGED: rANS",
    ),
    "short raw": (lambda f: replace(f, payload=b"123", codec=Codec.RAW).pack(), "INVALID_ARGUMENT", "3 symbols: 512"),
    "bad zstd": (lambda f: replace(f, payload=b"123", codec=Codec.ZSTD).pack(), "INVALID_ARGUMENT", "DAMAGED: zstd"),
    "zstd bomb": (
        lambda f: replace(f, payload=zstd(bytes(50_000_000)), codec=Codec.ZSTD).pack(),
        "INVALID_ARGUMENT",
        "DAMAGED: ",
    ),
    "unknown codec": (lambda f: replace(f, codec=9).pack(), "INVALID_ARGUMENT", "UNKNOWN_CODEC: codec 9"),
    "unknown rung": (lambda f: replace(f, rung=5).pack(), "INVALID_ARGUMENT", "UNKNOWN_RUNG: rung 5: .* 0 to 1"),
    "hello": (lambda f: replace(f, kind=Kind.HELLO).pack(), "INVALID_ARGUMENT", "WRONG_KIND: kind 3"),
}


def zstd(data: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(data))


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_refused_by_name(made: SplitPackage, name: str) -> None:
    wire = Wire(made)
    spoil, status, text = BAD_FRAMES[name]
    with serving(made) as server:
        frame = sent(wire, made)
        request = infer_request(wire, frame)
        request.raw_input_contents[0] = spoil(frame)
        request.inputs[0].shape[0] = len(request.raw_input_contents[0])
        found = refused(server, request)
        assert found[0] == status
        assert re.search(text, found[1]), found[1]
        still_serves(server, wire, made)
        assert sum(server.server.metrics.outcomes().values()) == 2


def test_requests_that_are_no_requests_are_refused(made: SplitPackage) -> None:
    wire = Wire(made)
    with serving(made) as server:
        request = infer_request(wire, sent(wire, made))
        request.model_name = "another"
        status, text = refused(server, request)
        assert status == "NOT_FOUND"
        assert "'another'" in text
        assert "'parts'" in text
        assert refused(server, b"\xff\xff\xff\xff") == ("INVALID_ARGUMENT", "DAMAGED: 4 B are no ModelInferRequest")
        assert refused(server, bytes(1 << 20))[0] == "RESOURCE_EXHAUSTED"
        request = infer_request(wire, sent(wire, made))
        request.inputs[0].shape[0] += 1
        assert refused(server, request)[0] == "INVALID_ARGUMENT"
        del request.raw_input_contents[:]
        assert refused(server, request)[0] == "INVALID_ARGUMENT"
        still_serves(server, wire, made)


def test_half_open_and_slow_clients_do_not_keep_others_out(made: SplitPackage) -> None:
    wire = Wire(made)
    with serving(made) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        for i, s in enumerate(slow):
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[: i % 25])
        for _ in range(3):
            still_serves(server, wire, made)
        for s in slow:
            s.close()
        still_serves(server, wire, made)


def http2(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def unfinished_request(stream: int) -> bytes:
    """A ModelInfer whose message begins and never ends."""
    path = f"/{service.SERVICE}/ModelInfer".encode()
    text = b"application/grpc"
    block = b"\x83\x86\x04" + bytes([len(path)]) + path + b"\x01\x01x\x0f\x10" + bytes([len(text)]) + text
    block += b"\x00\x02te\x08trailers"
    return http2(1, 4, stream, block) + http2(0, 0, stream, b"\0\0\0\1\0only so much")


def slow_clients(server: Running, count: int, streams: int) -> list[socket.socket]:
    made = []
    for _ in range(count):
        s = socket.create_connection(("127.0.0.1", server.port))
        requests = b"".join(unfinished_request(1 + 2 * i) for i in range(streams))
        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2(4, 0, 0) + requests)
        made.append(s)
    return made


def test_requests_that_never_end_do_not_keep_others_out(made: SplitPackage) -> None:
    wire = Wire(made)
    with serving(made, options=ServerOptions(queue=4)) as server:
        slow = slow_clients(server, 20, 50)  # a thousand requests that have begun
        time.sleep(0.3)
        for _ in range(5):
            still_serves(server, wire, made)
        assert server.server.metrics.outcomes() == {"answered": 5}
        for s in slow:
            s.close()


@pytest.mark.slow
def test_a_client_that_answers_no_pings_is_let_go(made: SplitPackage) -> None:
    with serving(made) as server:
        (slow,) = slow_clients(server, 1, 1)
        slow.settimeout(40)
        began = time.monotonic()
        while slow.recv(4096):
            pass
        assert 5 < time.monotonic() - began < 30
        still_serves(server, Wire(made), made)
        slow.close()
