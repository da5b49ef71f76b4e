"""The Open Inference Protocol with others: the unmodified tritonclient asks our server, our client asks MLServer."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.split_parts import SMALL, images, make
from tool_install import environment

from bitship.split import package
from bitship.split.client import SplitClient, graph_head
from bitship.split.frame import Answer, Kind, RefusedError, Source, unpack
from bitship.split.oip import generate
from bitship.split.package import SplitPackage
from bitship.split.remote import GrpcRemote, infer_request
from bitship.split.serving import serving
from bitship.split.wire import Wire

pytestmark = [pytest.mark.tools, pytest.mark.slow]
pytest.importorskip("grpc", reason="bitship[split] is not installed")

TRITON = ("tritonclient", "tritonclient[grpc]==2.73.0")
MLSERVER = ("mlserver", "mlserver==1.7.1", "cffi", "graphviz", "jinja2", "msgspec", "safetensors")
SCRIPT = Path(__file__).parents[1] / "standins" / "triton_infer.py"
SDK = Path(__file__).parents[2] / "sdk"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SplitPackage:
    return make(tmp_path_factory.mktemp("split") / "parts")


def test_the_unmodified_tritonclient_works_against_our_server(made: SplitPackage, tmp_path: Path) -> None:
    python = environment(*TRITON) / "python"
    wire = Wire(made)
    image = images(SMALL, 1, seed=21)[0]
    features = made.head.run(image)[0]
    request = infer_request(wire, wire.pack(features, 1, 77))
    parameters = {k: v.string_param for k, v in request.parameters.items()}
    words = {"model": "parts", "frame": request.raw_input_contents[0].hex(), "parameters": parameters}

    def ask() -> dict[str, object]:
        (tmp_path / "request.json").write_text(json.dumps(words))
        done = subprocess.run(
            [python, SCRIPT, server.address, tmp_path / "request.json"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    with serving(made) as server:
        found = ask()
        parameters["table_hash"] = "00"
        refused = ask()
    m = made.manifest
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
    wire, m = Wire(made), made.manifest
    client = SplitClient(wire, graph_head(made.head), GrpcRemote(wire, mlserver))
    assert client.wait_up(60)
    for image in images(SMALL, 4, seed=22):
        found = client.infer(image, 10.0)
        codes = package.symbols_of(made.head.run(image)[0], m.zero_point, 0)
        logits = made.tail.run(package.codes_of(codes, m.zero_point, 0))[0]
        assert (found.source, found.label) == (Source.TAIL, int(logits.argmax()))
        assert found.latency.server > 0
    client.close()
    other = Wire(make(tmp_path / "other", seed=5))
    remote = GrpcRemote(other, mlserver)
    with pytest.raises(RefusedError, match="WRONG_MODEL"):
        remote.send(other.pack(made.head.run(images(SMALL, 1)[0])[0], 0, 1), 10.0)
    remote.close()


def test_the_stubs_are_what_the_compiler_makes_of_the_protocol() -> None:
    python = environment("grpcio-tools", f"grpcio-tools=={generate.TOOLS}") / "python"
    code = f"import runpy; print(runpy.run_path({str(generate.__file__)!r})['generated'](), end='')"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == (generate.FOLDER / generate.MODULE).read_text()
