"""Frames over MQTT: a device, the broker mosquitto, the gateway as a program, a server."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.split_parts import SMALL, images, make
from split_requests import SlowTail
from tool_install import apt_program, environment

from bitship.split import certs
from bitship.split.answers import tail_answer
from bitship.split.frame import Answer, Frame, Kind, Refusal, refused, unpack
from bitship.split.package import SplitPackage
from bitship.split.serving import serving
from bitship.split.wire import Wire

pytestmark = [pytest.mark.tools, pytest.mark.slow]
pytest.importorskip("grpc", reason="bitship[split] is not installed")

NEEDS = ("cffi", "cryptography", "graphviz", "grpcio", "jinja2", "msgspec", "numpy", "protobuf", "rich", "safetensors")
PAHO = ("paho", "paho-mqtt==2.2.0", "typer", *NEEDS)
DEVICE = Path(__file__).parents[1] / "standins" / "mqtt_device.py"
SDK = Path(__file__).parents[2] / "sdk"
SERVER_IS_GONE = "127.0.0.1:1"


PYTHON_DEVICE = """
import collections, json, sys, time
from pathlib import Path
import numpy as np
from bitship.split import package
from bitship.split.frame import Kind, RefusedError, refused, unpack
from bitship.split.mqtt import Broker, MqttLine
from bitship.split.remote import FramedRemote
from bitship.split.wire import Wire

wire = Wire(package.read(Path(sys.argv[1])))
broker = Broker("127.0.0.1", int(sys.argv[2]), "plant/7")
remote = FramedRemote(wire, lambda: MqttLine(broker, "phone"))
frame = wire.pack(np.load(sys.argv[3]), 0, 5)
for line in sys.stdin:
    if line.strip() == "send":
        try:
            print(remote.send(frame, 5.0).answer.source.name, flush=True)
        except RefusedError as e:
            print(e.code.name, flush=True)
        continue
    flood, found, until = MqttLine(broker, "flood"), collections.Counter(), time.monotonic() + 40
    for _ in range(100):
        flood.write(frame.pack())
    while found.total() < 100 and time.monotonic() < until:
        for reply in map(unpack, filter(None, [flood.read(1.0)])):
            busy = reply.kind == Kind.REFUSAL
            found[refused(reply.payload).code.name if busy else Kind(reply.kind).name] += 1
    flood.close()
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SplitPackage:
    return make(tmp_path_factory.mktemp("split") / "parts")


@pytest.fixture(scope="module")
def wire(made: SplitPackage) -> Wire:
    return Wire(made)


def frame(made: SplitPackage, wire: Wire, sequence: int = 1, rung: int = 0) -> Frame:
    return wire.pack(made.head.run(images(SMALL, 1, seed=31)[0])[0], rung, sequence)


@contextmanager
def broker(folder: Path, more: str = "", port: int = 0) -> Iterator[int]:
    """A mosquitto on loopback; its port."""
    program = apt_program("mosquitto", "mosquitto")
    with socket.create_server(("127.0.0.1", port)) as s:
        port = s.getsockname()[1]
    (folder / "broker.conf").write_text(f"listener {port} 127.0.0.1\n" + (more or "allow_anonymous true\n"))
    with (folder / "broker.log").open("w") as log:
        words = [program, "-c", str(folder / "broker.conf")]
        with subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT) as process:
            try:
                until = time.monotonic() + 20
                while True:
                    assert process.poll() is None, (folder / "broker.log").read_text()
                    assert time.monotonic() < until
                    try:
                        socket.create_connection(("127.0.0.1", port), 1).close()
                        break
                    except OSError:
                        time.sleep(0.1)
                yield port
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


@contextmanager
def gateway(folder: Path, made: SplitPackage, server: str, port: int, *more: object) -> Iterator[None]:
    """The gateway as a program, ready."""
    words = ["gateway", made.path, "--server", server, "--mqtt", f"127.0.0.1:{port}", "--topic", "plant/7", *more]
    with (
        (folder / "gateway.log").open("w") as log,
        subprocess.Popen(
            [environment(*PAHO) / "python", "-m", "bitship", "split", *map(str, words)],
            env=os.environ | {"PYTHONPATH": str(SDK)},
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            until = time.monotonic() + 60
            while "plant/7/+/up" not in (folder / "gateway.log").read_text():
                assert process.poll() is None, (folder / "gateway.log").read_text()
                assert time.monotonic() < until
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
    assert process.returncode == 0


def ask(folder: Path, port: int, frames: list[bytes], wait_s: float, **more: str | bool) -> list[Frame | None]:
    """Send frames as a device; what came back for each."""
    words = {"frames": [f.hex() for f in frames], "wait_s": wait_s, **more}
    (folder / "device.json").write_text(json.dumps(words))
    python = environment(*PAHO) / "python"
    done = subprocess.run(
        [python, DEVICE, str(port), "plant/7/camera", folder / "device.json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [None if a is None else unpack(bytes.fromhex(a)) for a in json.loads(done.stdout)]


def test_a_devices_frames_are_answered_through_a_broker(made: SplitPackage, wire: Wire, tmp_path: Path) -> None:
    sent = [wire.hello(), *(frame(made, wire, 10 + rung, rung) for rung in range(len(wire.tables)))]
    with serving(made) as server, broker(tmp_path) as port, gateway(tmp_path, made, server.address, port):
        hello, *found = ask(tmp_path, port, [f.pack() for f in sent], 20)
    assert hello is not None
    assert hello.kind == Kind.HELLO
    for one, reply in zip(sent[1:], found, strict=True):
        assert reply is not None
        assert (reply.kind, reply.sequence, reply.rung) == (Kind.ANSWER, one.sequence, one.rung)
        logits = made.tail.run(wire.unpack(one))[0][0]
        assert Answer.unpack(reply.payload) == tail_answer(logits, made.tail.outputs[0].quant)
    assert f"{len(found)} answered, 0 refused" in (tmp_path / "gateway.log").read_text()


def test_what_is_wrong_is_refused_by_name_or_dropped(made: SplitPackage, wire: Wire, tmp_path: Path) -> None:
    good = frame(made, wire)
    damaged = bytearray(good.pack())
    damaged[-1] ^= 1
    sent = [replace(good, model=b"\1\2\3\4").pack(), bytes(damaged), b"", bytes(100_000), good.pack()]
    with broker(tmp_path) as port, gateway(tmp_path, made, SERVER_IS_GONE, port):
        found = ask(tmp_path, port, sent, 3)
    assert found[1:4] == [None, None, None]
    named = [refused(f.payload).code for f in (found[0], found[4]) if f is not None and f.kind == Kind.REFUSAL]
    assert named == [Refusal.WRONG_MODEL, Refusal.UNAVAILABLE]


def test_a_frame_that_the_broker_kept_from_before_is_not_answered(
    made: SplitPackage, wire: Wire, tmp_path: Path
) -> None:
    old, new = frame(made, wire, 1).pack(), frame(made, wire, 2).pack()
    with serving(made) as server, broker(tmp_path) as port:
        assert ask(tmp_path, port, [old], 0.5, retain=True) == [None]
        with gateway(tmp_path, made, server.address, port):
            found = ask(tmp_path, port, [new], 20)
    assert [f.sequence for f in found if f] == [2]
    assert "1 answered, 0 refused" in (tmp_path / "gateway.log").read_text()


def test_a_broker_with_tls_and_a_token_takes_those_who_have_them(
    made: SplitPackage, wire: Wire, tmp_path: Path
) -> None:
    folder, token = tmp_path / "certs", tmp_path / "token"
    certs.make(folder, ["127.0.0.1", "localhost"], 2)
    token.write_text("0123456789abcdef0123\n")
    token.chmod(0o600)
    (tmp_path / "users").write_text("gateway:0123456789abcdef0123\n")
    (tmp_path / "users").chmod(0o600)
    hasher = Path(apt_program("mosquitto_passwd", "mosquitto"))
    subprocess.run([hasher, "-U", tmp_path / "users"], check=True, timeout=20)
    more = f"allow_anonymous false\npassword_file {tmp_path / 'users'}\nuser root\n"
    more += f"cafile {folder / 'ca.pem'}\ncertfile {folder / 'server.pem'}\nkeyfile {folder / 'server.key'}\n"
    rights = ("--mqtt-ca", folder / "ca.pem", "--mqtt-user", "gateway", "--mqtt-token", token)
    device = {"user": "gateway", "token": "0123456789abcdef0123", "authority": str(folder / "ca.pem")}
    with serving(made) as server, broker(tmp_path, more) as port:
        with gateway(tmp_path, made, server.address, port, *rights):
            found = ask(tmp_path, port, [frame(made, wire).pack()], 20, **device)
        assert [f.kind for f in found if f] == [Kind.ANSWER]
        token.write_text("fedcba9876543210fedc\n")
        said = refusal_to_start(made, f"127.0.0.1:{port}", *rights)
        assert re.search(r"broker 127\.0\.0\.1:\d+: refused: Not authorized", said), said
        certs.make(tmp_path / "others", ["127.0.0.1"], 2)
        other = ("--mqtt-ca", tmp_path / "others" / "ca.pem")
        assert "certificate verify failed" in refusal_to_start(made, f"127.0.0.1:{port}", *rights[2:], *other)


@contextmanager
def python_device(made: SplitPackage, port: int, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A device in Python, which does a thing for each line that it is given, and says how it went."""
    python, features = str(environment(*PAHO) / "python"), str(folder / "features.npy")
    np.save(features, made.head.run(images(SMALL, 1, seed=31)[0])[0])
    with subprocess.Popen(
        [python, "-c", PYTHON_DEVICE, str(made.path), str(port), features],
        env=os.environ | {"PYTHONPATH": str(SDK)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def tell(process: "subprocess.Popen[str]", word: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_a_gateway_and_a_device_come_back_with_their_broker(made: SplitPackage, tmp_path: Path) -> None:
    with serving(made) as server, ExitStack() as stack:
        with broker(tmp_path) as port:
            stack.enter_context(gateway(tmp_path, made, server.address, port))
            device = stack.enter_context(python_device(made, port, tmp_path))
            assert tell(device, "send") == "TAIL"
        assert tell(device, "send") == "UNAVAILABLE"
        stack.enter_context(broker(tmp_path, port=port))
        until = time.monotonic() + 20
        while (said := tell(device, "send")) != "TAIL":
            assert said in {"UNAVAILABLE", "LATE"}
            assert time.monotonic() < until
            time.sleep(0.2)


def test_more_frames_than_may_wait_are_refused_as_busy(made: SplitPackage, tmp_path: Path) -> None:
    with (
        serving(made, SlowTail(0.2)) as server,
        broker(tmp_path) as port,
        gateway(tmp_path, made, server.address, port),
        python_device(made, port, tmp_path) as device,
    ):
        found = json.loads(tell(device, "flood"))
    assert set(found) == {"ANSWER", "BUSY"}
    assert found["ANSWER"] >= 64
    assert sum(found.values()) == 100


def test_a_gateway_that_cannot_have_its_broker_says_so(made: SplitPackage) -> None:
    assert "broker 127.0.0.1:1: Connection refused" in refusal_to_start(made, "127.0.0.1:1")


def refusal_to_start(made: SplitPackage, where: str, *more: object) -> str:
    words = ["gateway", made.path, "--server", SERVER_IS_GONE, "--mqtt", where, *more]
    done = subprocess.run(
        [environment(*PAHO) / "python", "-m", "bitship", "split", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(SDK)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr.replace("\n", " ")
