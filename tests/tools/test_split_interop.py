"""The Open Inference Protocol with others: tritonclient asks our server, our client asks MLServer and Ray Serve."""

import json
import os
import re
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.split_parts import SMALL, images, make
from processes import listening, marked, wait_gone
from split_requests import call, refused
from tool_install import environment

from bitship.graph.base import Array
from bitship.split import package
from bitship.split.answers import tail_answer
from bitship.split.client import SplitClient, graph_head
from bitship.split.frame import Answer, Kind, RefusedError, Source, unpack
from bitship.split.oip import generate
from bitship.split.package import SplitPackage
from bitship.split.policy import OFFLOAD
from bitship.split.remote import GrpcRemote, infer_request
from bitship.split.servicer import MAX_MESSAGE_BYTES
from bitship.split.serving import serving
from bitship.split.wire import Wire

pytestmark = [pytest.mark.tools, pytest.mark.slow]
pytest.importorskip("grpc", reason="bitship[split] is not installed")

TRITON = ("tritonclient", "tritonclient[grpc]==2.73.0")
MLSERVER = ("mlserver", "mlserver==1.7.1", "cffi", "graphviz", "jinja2", "msgspec", "safetensors")
RAY = ("ray", "ray[serve]==2.60.0", "cffi", "graphviz", "jinja2", "msgspec", "rich", "safetensors", "typer")
RAY_START_S = 180
SCRIPT = Path(__file__).parents[1] / "standins" / "triton_infer.py"
SDK = Path(__file__).parents[2] / "sdk"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SplitPackage:
    return make(tmp_path_factory.mktemp("split") / "parts")


def ask_with_triton(made: SplitPackage, address: str, folder: Path) -> None:
    """Ask a server with the unmodified tritonclient, once rightly and once with a stale table."""
    python = environment(*TRITON) / "python"
    wire, m = Wire(made), made.manifest
    features = made.head.run(images(SMALL, 1, seed=21)[0])[0]
    request = infer_request(wire, wire.pack(features, 1, 77))
    parameters = {k: v.string_param for k, v in request.parameters.items()}
    words = {"model": "parts", "frame": request.raw_input_contents[0].hex(), "parameters": parameters}

    def ask() -> dict[str, object]:
        (folder / "request.json").write_text(json.dumps(words))
        done = subprocess.run(
            [python, SCRIPT, address, folder / "request.json"], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    found = ask()
    parameters["table_hash"] = "00"
    refused = ask()
    codes = package.codes_of(package.symbols_of(features, m.zero_point, 2), m.zero_point, 2)
    logits = made.tail.run(codes)[0]
    assert (found["live"], found["ready"], found["extensions"]) == (True, True, ["bitship_frame"])
    assert found["inputs"] == [["frame", "UINT8", [-1]]]
    assert found["logits"] == logits.tolist()
    reply = unpack(bytes.fromhex(str(found["answer"])))
    assert (reply.kind, reply.sequence) == (Kind.ANSWER, 77)
    assert Answer.unpack(reply.payload).label == int(logits.argmax())
    assert refused["status"] == "StatusCode.FAILED_PRECONDITION"
    assert str(refused["said"]).startswith("STALE_TABLE: table_hash: the request has 00, this server has ")


def test_the_unmodified_tritonclient_works_against_our_server(made: SplitPackage, tmp_path: Path) -> None:
    with serving(made) as server:
        ask_with_triton(made, server.address, tmp_path)


def tail_logits(made: SplitPackage, image: Array, rung: int) -> Array:
    """Return the logits [classes] of head and tail in a row, without anything between them."""
    m = made.manifest
    shift = m.rungs[rung].shift
    symbols = package.symbols_of(made.head.run(image)[0], m.zero_point, shift)
    logits: Array = made.tail.run(package.codes_of(symbols, m.zero_point, shift))[0][0]
    return logits


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@pytest.fixture
def mlserver(made: SplitPackage, tmp_path: Path) -> Iterator[str]:
    program = environment(*MLSERVER) / "mlserver"
    http, grpc, metrics = free_port(), free_port(), free_port()
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    settings |= {"parallel_workers": 0, "debug": False}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    model = {"name": "parts", "implementation": "bitship.split.mlserver.SplitRuntime"}
    model |= {"parameters": {"uri": str(made.path)}}  # type: ignore[dict-item]
    (tmp_path / "model-settings.json").write_text(json.dumps(model))
    log = (tmp_path / "log").open("w")
    path = os.environ | {"PYTHONPATH": str(SDK)}
    with subprocess.Popen([program, "start", tmp_path], env=path, stdout=log, stderr=subprocess.STDOUT) as process:
        until = time.monotonic() + 90
        while time.monotonic() < until and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", grpc), 1).close()
                break
            except OSError:
                time.sleep(0.3)
        try:
            if process.poll() is not None:
                pytest.fail((tmp_path / "log").read_text()[-2000:])
            yield f"127.0.0.1:{grpc}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
    log.close()


def test_our_client_works_against_mlserver(made: SplitPackage, mlserver: str, tmp_path: Path) -> None:
    wire = Wire(made)
    client = SplitClient(wire, graph_head(made.head), GrpcRemote(wire, mlserver))
    assert client.wait_up(60)
    for image in images(SMALL, 4, seed=22):
        found = client.infer(image, 10.0)
        assert (found.source, found.label) == (Source.TAIL, int(tail_logits(made, image, 0).argmax()))
        assert found.latency.server > 0
    client.close()
    other = Wire(make(tmp_path / "other", seed=5))
    remote = GrpcRemote(other, mlserver)
    with pytest.raises(RefusedError, match="WRONG_MODEL"):
        remote.send(other.pack(made.head.run(images(SMALL, 1)[0])[0], 0, 1), 10.0)
    remote.close()


@dataclass(frozen=True)
class RayServe:
    """A running ``bitship split serve-ray``, and what marks its processes."""

    address: str
    mark: str


@pytest.fixture(scope="module")
def ray_serve(made: SplitPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServe]:
    """Ray's own files lie in a folder whose path is short, since its sockets' paths may have 107 bytes at most."""
    python = environment(*RAY) / "python"
    place = tmp_path_factory.mktemp("ray")
    mark = f"BITSHIP_TEST_RUN={uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="r") as short, (place / "log").open("w") as log:
        words = ["serve-ray", str(made.path), "--port", "0", "--replicas", "2", "--start-s", str(RAY_START_S)]
        with subprocess.Popen(
            [python, "-m", "bitship", "split", *words, "--scratch", short],
            env=os.environ | {"PYTHONPATH": str(SDK)} | dict([mark.split("=")]),
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                until = time.monotonic() + RAY_START_S + 60
                while not (found := re.search(r" at (127\.0\.0\.1:\d+) ", (place / "log").read_text())):
                    if process.poll() is not None or time.monotonic() > until:
                        pytest.fail((place / "log").read_text()[-2000:])
                    time.sleep(0.5)
                yield RayServe(found[1], mark)
            finally:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                left = wait_gone(mark, 10)
        assert os.listdir(short) == []
    assert (process.returncode, left) == (0, {})
    assert (place / "log").read_text().endswith("stopped\n")


def test_our_client_works_against_ray_serve(made: SplitPackage, ray_serve: RayServe) -> None:
    wire = Wire(made)
    client = SplitClient(wire, graph_head(made.head), GrpcRemote(wire, ray_serve.address))
    assert client.wait_up(60)
    for image in images(SMALL, 6, seed=23):
        found = client.infer(image, 10.0)
        logits = tail_logits(made, image, 0)
        assert (found.source, found.label, found.why) == (Source.TAIL, int(logits.argmax()), OFFLOAD)
        assert found.latency.server > 0
    client.close()


def test_every_rung_through_ray_serve_gives_the_tails_bits(made: SplitPackage, ray_serve: RayServe) -> None:
    wire = Wire(made)
    for i, image in enumerate(images(SMALL, 8, seed=24)):
        rung = i % len(wire.tables)
        request = infer_request(wire, wire.pack(made.head.run(image)[0], rung, i))
        response = call(ray_serve, request, 30)
        logits = tail_logits(made, image, rung)
        tensor, raw = response.outputs[0], response.raw_output_contents
        assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("logits", logits.dtype.name.upper(), [1, 10])
        assert raw[0] == logits.tobytes()
        assert unpack(raw[1]).payload == tail_answer(logits, made.tail.outputs[0].quant).pack()


def test_ray_serve_refuses_by_the_same_names(
    made: SplitPackage, ray_serve: RayServe, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wire, frame = Wire(made), Wire(made).pack(made.head.run(images(SMALL, 1)[0])[0], 0, 1)
    other = Wire(make(tmp_path_factory.mktemp("other") / "parts", seed=5))
    given = other.pack(made.head.run(images(SMALL, 1)[0])[0], 0, 1)
    status, said = refused(ray_serve, infer_request(other, given), 30)
    here = f"the request has {other.model}, this server has {wire.model}"
    assert (status, said) == ("FAILED_PRECONDITION", f"WRONG_MODEL: model_hash: {here}")
    for name, refusal in (("table_hash", "STALE_TABLE"), ("split_point", "WRONG_SPLIT")):
        request = infer_request(wire, frame)
        del request.parameters[name]
        status, said = refused(ray_serve, request, 30)
        assert (status, said.split(",")[0]) == ("FAILED_PRECONDITION", f"{refusal}: {name}: the request has none")
    request = infer_request(wire, frame)
    request.model_name = "another"
    status, said = refused(ray_serve, request, 30)
    assert (status, said.split(":")[0]) == ("NOT_FOUND", "WRONG_MODEL")
    status, said = refused(ray_serve, b"\xff", 30)
    assert (status, said) == ("INVALID_ARGUMENT", "DAMAGED: 1 B are no ModelInferRequest")
    assert refused(ray_serve, bytes(MAX_MESSAGE_BYTES + 1), 30)[0] == "RESOURCE_EXHAUSTED"
    assert call(ray_serve, infer_request(wire, frame), 30).outputs[1].name == "answer"


def test_the_unmodified_tritonclient_works_against_ray_serve(
    made: SplitPackage, ray_serve: RayServe, tmp_path: Path
) -> None:
    ask_with_triton(made, ray_serve.address, tmp_path)


def test_ray_serve_listens_on_loopback_alone(ray_serve: RayServe) -> None:
    names = " ".join(marked(ray_serve.mark).values())
    assert all(part in names for part in ("gcs_server", "raylet", "ray::ProxyActor", "ray::ServeReplica"))
    assert listening(ray_serve.mark) == {"127.0.0.1"}


def test_the_stubs_are_what_the_compiler_makes_of_the_protocol() -> None:
    python = environment("grpcio-tools", f"grpcio-tools=={generate.TOOLS}") / "python"
    code = f"import runpy; print(runpy.run_path({str(generate.__file__)!r})['generated'](), end='')"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == (generate.FOLDER / generate.MODULE).read_text()
