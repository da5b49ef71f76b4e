"""The adapter for Ray Serve as far as it needs no Ray; tests/tools/test_split_interop.py starts one."""

import asyncio
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from benchmarks.split_parts import make
from split_requests import sent

from bitship.errors import DeviceError, MissingDependencyError, TargetError
from bitship.split.frame import Refusal, RefusedError
from bitship.split.oip import service
from bitship.split.package import SplitPackage
from bitship.split.ray_serve import RayOptions, SplitTail, serving_on_ray
from bitship.split.remote import infer_request
from bitship.split.wire import Wire

pytest.importorskip("grpc", reason="bitship[split] is not installed")
pytest.importorskip("prometheus_client", reason="bitship[split] is not installed")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> SplitPackage:
    return make(tmp_path_factory.mktemp("split") / "parts")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))


class Context:
    """What a replica is given with a request, to say how it ended."""

    code: Any = None
    details = ""

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


def test_a_replica_answers_bytes_with_the_tails_bits(made: SplitPackage) -> None:
    wire, context = Wire(made), Context()
    frame = sent(wire, made)

    async def ask() -> Any:
        return await SplitTail(str(made.path)).ModelInfer(infer_request(wire, frame).SerializeToString(), context)

    response = asyncio.run(ask())
    logits = made.tail.run(wire.unpack(frame))[0]
    np.testing.assert_array_equal(np.frombuffer(response.raw_output_contents[0], np.int8), logits[0])
    assert context.code is None


def test_a_replica_refuses_by_status_and_name(made: SplitPackage) -> None:
    wire, code = Wire(made), service.grpc().StatusCode
    request = infer_request(wire, sent(wire, made))
    request.parameters["model_hash"].string_param = "0123"
    wrong, unknown, broken = Context(), Context(), Context()

    async def ask() -> None:
        replica = SplitTail(str(made.path))
        assert (await replica.ModelInfer(request.SerializeToString(), wrong)).ByteSize() == 0
        await replica.ModelReady(service.messages().ModelReadyRequest(name="another").SerializeToString(), unknown)
        await replica.ServerMetadata(b"\xff", broken)

    asyncio.run(ask())
    here = f"WRONG_MODEL: model_hash: the request has 0123, this server has {wire.model}"
    assert (wrong.code, wrong.details) == (code.FAILED_PRECONDITION, here)
    assert (unknown.code, unknown.details.split(":")[0]) == (code.NOT_FOUND, "WRONG_MODEL")
    assert (broken.code, broken.details) == (code.INVALID_ARGUMENT, "DAMAGED: 1 B are no ServerMetadataRequest")


def test_every_refusal_has_a_status() -> None:
    for refusal in Refusal:
        assert service.status_of(RefusedError(refusal, "")).name == service.STATUS[refusal]


def test_without_ray_the_extra_is_named(made: SplitPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bitship\[split-ray\]'"), serving_on_ray(made.path):
        pass


def test_what_cannot_be_served_is_said_before_ray_starts(
    made: SplitPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ray", "ray.serve"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))  # has nothing that could be started
    long = tmp_path / ("x" * 100)
    long.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for tail, options, error, said in (
            ("gpu", RayOptions(), TargetError, "there are host, tvm"),
            ("host", RayOptions(port=taken.getsockname()[1]), DeviceError, "cannot listen there"),
            ("host", RayOptions(scratch=long), DeviceError, "too long for Ray's sockets, 41 B are allowed"),
            ("host", RayOptions(scratch=tmp_path / "none"), DeviceError, "no folder can be made there"),
        ):
            with pytest.raises(error, match=said), serving_on_ray(made.path, tail, options):
                pass
    assert list(long.iterdir()) == []
