"""Server, client and gateway on loopback: whole answers, refusals by name, and what happens when things go away."""

import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.split_parts import SMALL, images, make
from split_requests import SlowTail, call, refused, sent, still_serves

from bitship.errors import DeviceError, MissingDependencyError, TargetError
from bitship.graph.base import Array
from bitship.split import package
from bitship.split.client import SplitClient, graph_head
from bitship.split.frame import Refusal, RefusedError, Source
from bitship.split.metrics import Metrics
from bitship.split.oip import service
from bitship.split.package import SplitPackage
from bitship.split.remote import GrpcRemote, infer_request
from bitship.split.server import ServerOptions, SplitServer
from bitship.split.serving import serving, start
from bitship.split.tails import TAILS, GraphTail, TorchTail, open_tail
from bitship.split.tracing import Tracing
from bitship.split.wire import Wire

pytest.importorskip("grpc", reason="bitship[split] is not installed")
pytest.importorskip("prometheus_client", reason="bitship[split] is not installed")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> SplitPackage:
    return make(tmp_path_factory.mktemp("split") / "parts")


def test_the_answer_over_grpc_is_that_of_head_and_tail_in_a_row(made: SplitPackage) -> None:
    wire, m = Wire(made), made.manifest
    with serving(made) as server:
        client = SplitClient(wire, graph_head(made.head), GrpcRemote(wire, server.address))
        assert client.wait_up(5)
        for image in images(SMALL, 12, seed=77):
            found = client.infer(image, 2.0)
            features = made.head.run(image)[0]
            codes = package.codes_of(package.symbols_of(features, m.zero_point, 0), m.zero_point, 0)
            logits = made.tail.run(codes)[0]
            assert (found.source, found.rung, found.attempts) == (Source.TAIL, 0, 1)
            assert found.label == int(logits.argmax())
            assert 0.1 < found.confidence <= 1
            assert 19 < found.frame_bytes < 19 + 512
            assert found.latency.server > 0
        client.close()


@pytest.mark.parametrize(
    ("name", "refusal"),
    [("model_hash", "WRONG_MODEL"), ("table_hash", "STALE_TABLE"), ("split_point", "WRONG_SPLIT")],
)
def test_a_missing_or_wrong_identity_is_refused_with_both_values(made: SplitPackage, name: str, refusal: str) -> None:
    wire = Wire(made)
    with serving(made) as server:
        request = infer_request(wire, sent(wire, made))
        here = request.parameters[name].string_param
        del request.parameters[name]
        assert refused(server, request) == (
            "FAILED_PRECONDITION",
            f"{refusal}: {name}: the request has none, this server has {here}",
        )
        request.parameters[name].string_param = "0123"
        assert refused(server, request) == (
            "FAILED_PRECONDITION",
            f"{refusal}: {name}: the request has 0123, this server has {here}",
        )
        request.parameters[name].int64_param = 5  # not a text
        assert refused(server, request)[0] == "FAILED_PRECONDITION"
        still_serves(server, wire, made)


def test_a_head_of_another_model_and_a_stale_table_never_get_a_plausible_answer(
    made: SplitPackage, tmp_path: Path
) -> None:
    wire, other = Wire(made), make(tmp_path / "other", seed=9)
    with serving(made) as server:
        for package_of, refusal in ((other, Refusal.WRONG_MODEL),):
            theirs = Wire(package_of)
            remote = GrpcRemote(theirs, server.address)
            with pytest.raises(RefusedError) as found:
                remote.send(sent(theirs, package_of), 5.0)
            assert found.value.code is refusal
            remote.close()
        # The identity is right, the frame inside is not: forged parameters do not help.
        frame = sent(wire, made)
        stale = replace(frame, table=b"\0\1\2\3")
        request = infer_request(wire, frame)
        request.raw_input_contents[0] = stale.pack()
        assert refused(server, request) == (
            "FAILED_PRECONDITION",
            f"STALE_TABLE: table_hash 00010203 of rung 0: {frame.table.hex()} is served here",
        )
        client = SplitClient(Wire(other), graph_head(other.head), GrpcRemote(Wire(other), server.address))
        assert client.wait_up(5)
        answer = client.infer(images(SMALL, 1)[0], 2.0)
        assert (answer.source, answer.why, answer.attempts) == (Source.LOCAL_EXIT, "WRONG_MODEL", 1)
        client.close()
        still_serves(server, wire, made)


def test_health_and_metadata_are_those_of_the_protocol(made: SplitPackage) -> None:
    pb, m = service.messages(), made.manifest
    with serving(made) as server:
        assert call(server, pb.ServerLiveRequest(), name="ServerLive").live
        assert call(server, pb.ServerReadyRequest(), name="ServerReady").ready
        assert call(server, pb.ModelReadyRequest(name="parts"), name="ModelReady").ready
        assert call(server, pb.ServerMetadataRequest(), name="ServerMetadata").extensions == ["bitship_frame"]
        found = call(server, pb.ModelMetadataRequest(name="parts", version=m.model_hash), name="ModelMetadata")
        assert found.versions == [m.model_hash]
        assert [(t.name, t.datatype, list(t.shape)) for t in (*found.inputs, *found.outputs)] == [
            ("frame", "UINT8", [-1]),
            ("logits", "INT8", [1, 10]),
            ("answer", "UINT8", [-1]),
        ]
        response = call(server, infer_request(Wire(made), sent(Wire(made), made)))
        assert len(response.raw_output_contents[0]) == 10
        assert {"queue_us", "decode_us", "inference_us", "encode_us", "batch"} == set(response.parameters)


def test_a_full_queue_refuses_at_once_and_what_waits_is_answered(made: SplitPackage) -> None:
    wire = Wire(made)
    request = infer_request(wire, sent(wire, made))
    outcomes: list[tuple[str, float]] = []

    def one() -> None:
        start = time.monotonic()
        try:
            call(server, request)
            outcomes.append(("answered", 0.0))
        except service.grpc().RpcError as e:
            outcomes.append((e.details().split(":")[0], time.monotonic() - start))

    with serving(made, SlowTail(0.3), ServerOptions(batch=1, queue=3)) as server:
        threads = [threading.Thread(target=one) for _ in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(20)
    names = [name for name, _ in outcomes]
    assert len(names) == 12
    assert set(names) == {"answered", "BUSY"}
    assert 4 <= names.count("answered") <= 5
    assert max(seconds for _, seconds in outcomes) < 0.25  # no refusal waited for the tail


def test_requests_that_wait_together_run_as_one_batch(made: SplitPackage) -> None:
    wire, slow = Wire(made), SlowTail(0.1, batch=4)
    request = infer_request(wire, sent(wire, made))
    with serving(made, slow, ServerOptions(batch=4, wait_ms=200)) as server:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: call(server, request), range(8)))
        assert sum(slow.batches) == 8
        assert len(slow.batches) <= 4
        assert max(r.parameters["batch"].int64_param for r in found) == 4


def test_what_is_late_is_not_run(made: SplitPackage) -> None:
    wire, slow = Wire(made), SlowTail(0.2)
    request = infer_request(wire, sent(wire, made))
    with serving(made, slow, ServerOptions(batch=1)) as server:
        call(server, request)
        assert refused(server, request, timeout=0.1)[0] == "DEADLINE_EXCEEDED"
        time.sleep(0.3)
        assert slow.batches == [1]


def test_a_tail_that_fails_is_an_internal_error_and_the_next_request_is_answered(made: SplitPackage) -> None:
    wire = Wire(made)

    class Failing(SlowTail):
        def run(self, codes: Array) -> Array:
            if not self.batches:
                self.batches.append(1)
                raise ValueError("secret detail")
            return super().run(codes)

    with serving(made, Failing(0.0)) as server:
        status, text = refused(server, infer_request(wire, sent(wire, made)))
        assert (status, text) == ("INTERNAL", "INTERNAL: the tail failed: ValueError")
        still_serves(server, wire, made)


def test_a_batch_of_the_integer_graph_has_the_bits_of_its_inputs_in_turn(made: SplitPackage) -> None:
    r = np.random.default_rng(4)
    codes = r.integers(-128, 128, (5, 8, 8, 8)).astype(np.int8)
    wanted = np.concatenate([made.tail.run(codes[i : i + 1])[0] for i in range(5)])
    whole = GraphTail.on_host(made.tail, 8)
    assert whole._many is not None
    np.testing.assert_array_equal(whole.run(codes), wanted)
    np.testing.assert_array_equal(GraphTail.on_host(made.tail, 1).run(codes), wanted)


@pytest.mark.parametrize("name", [TAILS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in TAILS[1:])])
def test_every_back_end_gives_the_bits_of_the_integer_graph(made: SplitPackage, name: str) -> None:
    codes = np.random.default_rng(6).integers(-128, 128, (4, 8, 8, 8)).astype(np.int8)
    try:
        tail = open_tail(made.tail, name, 4)
    except MissingDependencyError as e:
        pytest.skip(str(e))
    wanted = np.concatenate([made.tail.run(codes[i : i + 1])[0] for i in range(4)])
    np.testing.assert_array_equal(tail.run(codes), wanted)
    np.testing.assert_array_equal(tail.run(codes[:1]), wanted[:1])
    tail.close()


def test_a_torch_tail_takes_batches() -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Conv2d(8, 10, 8)
    tail = TorchTail(torch.nn.Sequential(layer, torch.nn.Flatten()), batch=3)
    codes = np.random.default_rng(6).integers(-128, 128, (3, 8, 8, 8)).astype(np.int8)
    found = tail.run(codes)
    real = (
        np.einsum("nhwc,ochw->no", codes.astype(np.float64), layer.weight.detach().numpy())
        + layer.bias.detach().numpy()
    )
    assert tail.quant is not None
    np.testing.assert_allclose(found * tail.quant.scale, real, atol=1e-3)
    assert found.dtype == np.int32


def test_an_unknown_tail_is_refused(made: SplitPackage) -> None:
    with pytest.raises(TargetError, match="there are host, tvm"):
        open_tail(made.tail, "gpu", 1)


def test_a_drain_answers_what_was_accepted(made: SplitPackage) -> None:
    wire, slow = Wire(made), SlowTail(0.4)
    request = infer_request(wire, sent(wire, made))
    server = start(made, slow)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, server, request)
        time.sleep(0.15)
        server.stop()
        assert answer.result(5).outputs
    assert refused(server, request, 0.5)[0] in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


def test_a_server_beyond_loopback_needs_certificates_and_a_token(made: SplitPackage) -> None:
    for host in ("0.0.0.0", "10.1.2.3", "example.org", "::"):
        with pytest.raises(DeviceError, match="bitship split certs"):
            SplitServer(Wire(made), SlowTail(0), ServerOptions(host=host), Metrics())
    for host in ("127.0.0.1", "::1", "localhost"):
        SplitServer(Wire(made), SlowTail(0), ServerOptions(host=host), Metrics())


def test_metrics_and_spans_tell_the_stages(made: SplitPackage) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(pytest.importorskip("opentelemetry.sdk.trace.export").SimpleSpanProcessor(memory))
    wire = Wire(made)
    with serving(made) as server:
        server.server.servicer.tracing = Tracing(provider)
        http = server.server.metrics.serve(0)
        still_serves(server, wire, made)
        refused(server, b"\xff", 1.0)
        url = f"http://127.0.0.1:{http.server_port}/metrics"
        text = urllib.request.urlopen(url, timeout=5).read().decode()
        http.shutdown()
    assert 'bitship_split_requests_total{outcome="answered"} 1.0' in text
    assert 'bitship_split_stage_seconds_count{stage="inference"} 1.0' in text
    spans = {s.name: s for s in memory.get_finished_spans()}
    assert set(spans) == {"bitship.split.request", "decode", "queue", "inference", "encode"}
    root = spans["bitship.split.request"]
    assert all(s.parent.span_id == root.context.span_id for n, s in spans.items() if s is not root)
    assert root.start_time <= spans["decode"].start_time <= spans["encode"].end_time <= root.end_time
