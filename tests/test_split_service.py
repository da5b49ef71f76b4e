"""Server, client and gateway on loopback: whole answers, refusals by name, and what happens when things go away."""

import pytest
from benchmarks.split_parts import SMALL, images, make
from split_service import serving

from bitship.split import package
from bitship.split.client import SplitClient, graph_head
from bitship.split.frame import Source
from bitship.split.package import SplitPackage
from bitship.split.remote import GrpcRemote
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
