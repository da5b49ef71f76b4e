"""bitship split: server, proxy, gateway and client as programs, as a user starts them."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from benchmarks.split_parts import SMALL, images, make

from bitship.split.frame import Answer as FrameAnswer
from bitship.split.frame import Kind, Reader, Source
from bitship.split.package import SplitPackage
from bitship.split.remote import SocketLine
from bitship.split.wire import Wire

pytest.importorskip("grpc", reason="bitship[split] is not installed")
pytest.importorskip("prometheus_client", reason="bitship[split] is not installed")
pytest.importorskip("cryptography", reason="bitship[split] is not installed")

BITSHIP = (sys.executable, "-m", "bitship", "split")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SplitPackage:
    return make(tmp_path_factory.mktemp("split") / "parts")


@contextmanager
def program(*words: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A command that says where it listens in its first line; its port."""
    with subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "-", *BITSHIP, *map(str, words)],  # as of a script in the background
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as p:
        try:
            assert p.stdout is not None
            line = p.stdout.readline()
            found = re.search(r":(\d+)\b", line)
            assert found, line + p.stdout.read()
            yield p, int(found[1])
        finally:
            p.send_signal(signal.SIGINT)
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                p.kill()
                raise


def run(*words: object, code: int = 0) -> str:
    done = subprocess.run([*BITSHIP, *map(str, words)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.concatenate(images(SMALL, 3)))
    return tmp_path / "x.npy"


def test_a_served_package_is_asked_through_a_shaped_link_and_drained(
    made: SplitPackage, inputs: Path, tmp_path: Path
) -> None:
    spans = tmp_path / "spans.json"
    with program("serve", made.path, "--listen", "127.0.0.1:0", "--trace", spans) as (server, port):
        with program("proxy", "--server", f"127.0.0.1:{port}", "--rate-kbps", "500", "--delay-ms", "10") as (_, shaped):
            rows = json.loads(
                run("infer", made.path, inputs, "--server", f"127.0.0.1:{shaped}", "--deadline-ms", "3000", "--json")
            )
        assert [row["source"] for row in rows] == ["TAIL"] * 3
        assert min(row["network_ms"] for row in rows) > 20
        assert "TAIL" in run("infer", made.path, inputs, "--server", f"127.0.0.1:{port}", "--deadline-ms", "3000")
        server.send_signal(signal.SIGTERM)
        assert server.stdout is not None
        assert "drained: 6 answered" in server.stdout.read()
        assert server.wait(20) == 0
    assert spans.read_text().count('"bitship.split.request"') == 6
    rows = json.loads(run("infer", made.path, inputs, "--server", f"127.0.0.1:{port}", "--json"))
    assert {row["source"] for row in rows} == {"LOCAL_EXIT"}
    assert {row["why"] for row in rows} == {"no link"}


@pytest.mark.slow
def test_a_device_reaches_the_server_through_a_gateway(made: SplitPackage) -> None:
    wire = Wire(made)
    with (
        program("serve", made.path, "--listen", "127.0.0.1:0") as (_, port),
        program("gateway", made.path, "--server", f"127.0.0.1:{port}", "--listen", "127.0.0.1:0") as (_, device),
    ):
        line, reader = SocketLine.connect("127.0.0.1", device), Reader()
        line.write(wire.pack(made.head.run(images(SMALL, 1)[0])[0], 0, 1).pack())
        found = reader.feed(line.read(10.0))
        line.close()
    assert [f.kind for f in found] == [Kind.ANSWER]
    assert FrameAnswer.unpack(found[0].payload).source is Source.TAIL


@pytest.mark.slow
def test_a_server_with_certificates_serves_those_who_have_them(
    made: SplitPackage, inputs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "certs"
    assert "ca.pem" in run("certs", folder, "--host", "127.0.0.1", "--host", "localhost")
    with program("serve", made.path, "--listen", "127.0.0.1:0", "--certs", folder) as (_, port):
        address = ("--server", f"127.0.0.1:{port}", "--deadline-ms", "3000", "--json")
        found = json.loads(run("infer", made.path, inputs, *address, "--certs", folder))
        assert {row["source"] for row in found} == {"TAIL"}
        found = json.loads(run("infer", made.path, inputs, *address))
        assert {row["source"] for row in found} == {"LOCAL_EXIT"}


def test_errors_are_one_line(made: SplitPackage, inputs: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases: dict[str, tuple[object, ...]] = {
            "bitship split certs makes them": ("serve", made.path, "--listen", "0.0.0.0:0"),
            "another program may hold": ("serve", made.path, "--listen", f"127.0.0.1:{port}"),
            "no split package": ("serve", tmp_path),
            "unknown, there are host": ("serve", made.path, "--tail", "gpu"),
            "no such file or directory": ("serve", made.path, "--certs", tmp_path / "none"),
            "give --certs": ("infer", made.path, inputs, "--server", "example.org:80"),
            "no .npy file": ("infer", made.path, made.path / "split.json"),
            "listens on loopback alone": ("gateway", made.path, "--server", "127.0.0.1:1", "--listen", "0.0.0.0:0"),
            "a broker needs tls and a token": ("gateway", made.path, "--server", "127.0.0.1:1", "--mqtt", "a.org:1883"),
            "other than + and #": ("gateway", made.path, "--server", "[::1]:1", "--mqtt", "[::1]:1", "--topic", "a/+"),
            "cannot be opened": ("gateway", made.path, "--server", "127.0.0.1:1", "--serial", tmp_path / "tty"),
        }
        for text, words in cases.items():
            said = run(*words, code=2)
            assert text in said.lower().replace("\n", " "), said
            assert said.startswith("bitship: error:")
            assert said.count("\n") == 1
    assert "is no HOST:PORT" in run("infer", made.path, inputs, "--server", "nowhere", code=2)
