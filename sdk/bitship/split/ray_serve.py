"""A tail on Ray Serve, behind its gRPC proxy, for the same clients as ``bitship split serve`` (docs/split.md).

``serving_on_ray`` starts a Ray of its own on this machine. In a cluster, Serve's configuration names ``application`` as
import path and ``add_servicer`` as servicer function. Ray is imported by whoever starts it and by its workers, not by
this module.
"""

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitship.errors import DeviceError
from bitship.extras import quiet, require
from bitship.split import package as packages
from bitship.split.frame import RefusedError
from bitship.split.metrics import Metrics
from bitship.split.oip import service
from bitship.split.oip.service import METHODS, SERVICE
from bitship.split.security import is_loopback
from bitship.split.servicer import MAX_MESSAGE_BYTES, Servicer
from bitship.split.tails import HOST, check_tail, open_tail
from bitship.split.tracing import Tracing
from bitship.split.wire import Wire

EXTRA = "split-ray"
APPLICATION = "bitship"
_HERE = "bitship.split.ray_serve"
_LOOPBACK = "127.0.0.1"
_MOST_SOCKET_BYTES = 107  # of a unix socket's path
_BELOW_SCRATCH = len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.1")
_PAUSE_S = 0.3
_OBJECTS_BYTES = 80 << 20  # about the least that Ray takes: requests and answers are small and go beside the store
_ONE_NODE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0 says, elsewhere than there too: one node, at a loopback address
_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anyone
    "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_MESSAGE_BYTES),
    "RAY_SERVE_LOG_TO_STDERR": "0",
}


@dataclass(frozen=True)
class RayOptions:
    """How a Ray of its own is started.

    port      of the gRPC proxy, on loopback; 0: any free one; replicas  processes that each hold the tail
    batch, wait_ms, queue  of each replica, as of a split server
    scratch   a folder for Ray's files and sockets, with a short path; None: a temporary one
    start_s   how long Ray may take to come up
    """

    port: int = 0
    replicas: int = 1
    batch: int = 8
    wait_ms: float = 2.0
    queue: int = 64
    scratch: Path | None = None
    start_s: float = 120.0


def _method(name: str) -> Any:
    async def call(self: "SplitTail", data: bytes, grpc_context: Any) -> Any:
        return await self.answer(name, data, grpc_context)

    return call


class SplitTail:
    """What a replica is: a package's tail, and the servicer that every way of serving it shares.

    Ray's context tells no deadline: a request whose client gave up is cancelled by Ray's proxy instead.
    """

    def __init__(self, folder: str, tail: str = HOST, batch: int = 8, wait_ms: float = 2.0, queue: int = 64) -> None:
        made = packages.read(Path(folder))
        opened = open_tail(made.tail, tail, batch)
        weakref.finalize(self, opened.close)
        self._servicer = Servicer(Wire(made), opened, batch, wait_ms / 1e3, queue, Metrics(), Tracing())
        self._started = False

    ServerLive = _method("ServerLive")
    ServerReady = _method("ServerReady")
    ServerMetadata = _method("ServerMetadata")
    ModelReady = _method("ModelReady")
    ModelMetadata = _method("ModelMetadata")
    ModelInfer = _method("ModelInfer")

    async def answer(self, name: str, data: bytes, context: Any) -> Any:
        """Return the response; of a refusal an empty one, and the status and its text in the context."""
        if not self._started:
            self._servicer.start()
            self._started = True
        try:
            return await self._servicer.answer(name, data, None)
        except RefusedError as e:
            context.set_code(service.status_of(e))
            context.set_details(str(e))
            return getattr(service.messages(), f"{name}Response")()


def add_servicer(servicer: Any, server: Any) -> None:
    """Tell Ray's gRPC proxy the protocol's methods; it takes requests as bytes, and hands them to a replica so."""
    grpc = service.grpc()
    handlers = {name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name)) for name in METHODS}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def application(arguments: dict[str, Any]) -> Any:
    """Return the Serve application: ``package`` (its folder, on every node), and what else ``SplitTail`` takes.

    replicas  how many; 1 where it is not given
    """
    words = dict(arguments)
    replicas, folder = int(words.pop("replicas", 1)), words.pop("package")
    serve = require("ray.serve", EXTRA, "a tail on Ray Serve")
    queue = int(words.get("queue", 64)) + int(words.get("batch", 8))
    deployment = serve.deployment(
        SplitTail, name="SplitTail", num_replicas=replicas, max_ongoing_requests=queue, max_queued_requests=queue
    )
    return deployment.bind(str(folder), **words)


def keep_on_loopback() -> None:
    """Make the grpc servers of this process listen on loopback alone: Ray's bind every address, without a setting."""
    servers = require("grpc.aio._server", EXTRA, "a tail on Ray Serve").Server
    listen = servers.add_insecure_port

    def add_insecure_port(self: Any, address: str) -> Any:
        return listen(self, f"{_LOOPBACK}:{address.rpartition(':')[2]}")

    servers.add_insecure_port = add_insecure_port


@contextmanager
def serving_on_ray(package: Path, tail: str = HOST, options: RayOptions | None = None) -> Iterator[str]:
    """Start a Ray on this machine's loopback and serve a package on it while open; the address of its gRPC proxy.

    DeviceError where it does not come up in time, MissingDependencyError where there is no Ray.
    """
    options = options or RayOptions()
    os.environ[_ONE_NODE] = "0"
    settings = {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": f"{options.start_s:g}",
    }
    for name, value in {**_SETTINGS, **settings}.items():
        os.environ.setdefault(name, value)
    ray = require("ray", EXTRA, "a tail on Ray Serve")
    serve = require("ray.serve", EXTRA, "a tail on Ray Serve")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    check_tail(tail)
    packages.read(package)  # what is wrong with it is said here, not by a worker
    port = _free_port(options.port)
    address, until = f"{_LOOPBACK}:{port}", time.monotonic() + options.start_s
    with ExitStack() as stack:
        scratch = _scratch(options.scratch)
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        stack.callback(ray.shutdown)
        try:
            with quiet():
                _start(ray, options.replicas, scratch)
                _deploy(serve, package, tail, options, port)
        except Exception as e:  # Ray has no error of its own for a start that fails
            raise DeviceError(f"Ray: cannot be started: {type(e).__name__}: {str(e).strip()[:300]}") from e
        stack.callback(serve.delete, APPLICATION)  # drains its replicas
        _wait(serve, address, until)
        yield address


def _start(ray: Any, replicas: int, scratch: Path) -> None:
    """Start Ray's processes, as children of this one. What SIGTERM did here, which Ray takes, it does again then."""
    mine = signal.getsignal(signal.SIGTERM)
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, replicas),
        object_store_memory=_OBJECTS_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"worker_process_setup_hook": f"{_HERE}.{keep_on_loopback.__name__}"},
        _temp_dir=str(scratch),
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, mine)
    if not is_loopback(node := ray.util.get_node_ip_address()):
        raise DeviceError(f"its node is at {node}, not on loopback; was ray imported before without {_ONE_NODE}=0?")


def _deploy(serve: Any, package: Path, tail: str, options: RayOptions, port: int) -> None:
    """Start the proxy and deploy the application, without waiting for it."""
    serve.start(
        http_options={"host": _LOOPBACK, "port": _free_port(0)},  # there is no proxy for gRPC alone
        grpc_options={
            "port": port,
            "grpc_servicer_functions": [f"{_HERE}.{add_servicer.__name__}"],
            "enable_reflection": False,
        },
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        proxy_location="HeadOnly",
    )
    words = {"package": package.resolve(), "replicas": options.replicas, "tail": tail}
    words |= {"batch": options.batch, "wait_ms": options.wait_ms, "queue": options.queue}
    serve.run_many(
        [serve.RunTarget(application(words), name=APPLICATION)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def _wait(serve: Any, address: str, until: float) -> None:
    """Return once a request gets through to a replica; DeviceError where that takes too long or cannot be."""
    found, grpc = "no proxy", service.grpc()
    with grpc.insecure_channel(address) as channel:
        ready = channel.unary_unary(f"/{SERVICE}/ServerReady")
        while time.monotonic() < until:
            state = serve.status().applications.get(APPLICATION)
            if state is not None and state.status == "DEPLOY_FAILED":
                raise DeviceError(f"Ray Serve: {_why(state)}")
            try:
                ready(b"", timeout=2.0)
                return
            except grpc.RpcError as e:
                found = f"{e.code().name} {e.details()}"
            time.sleep(_PAUSE_S)
    raise DeviceError(f"Ray Serve: not ready in time; its proxy said {found[:200]}; allow more with --start-s")


def _why(state: Any) -> str:
    """Return what a replica ended with: the last line of its traceback."""
    said = [d.message.strip() for d in state.deployments.values() if d.message.strip()] or [state.message.strip()]
    return str(said[0].splitlines()[-1][:300])


def _free_port(port: int) -> int:
    try:
        with socket.create_server((_LOOPBACK, port)) as s:
            found: int = s.getsockname()[1]
            return found
    except OSError as e:
        raise DeviceError(f"{_LOOPBACK}:{port}: cannot listen there: {e.strerror}") from None


def _scratch(folder: Path | None) -> Path:
    """Return a new folder for Ray's files; DeviceError where its sockets' paths would be too long for the system."""
    try:
        made = Path(tempfile.mkdtemp(prefix="ray-", dir=folder))
    except OSError as e:
        raise DeviceError(f"{folder}: no folder can be made there: {e.strerror}") from None
    if len(os.fsencode(made)) + _BELOW_SCRATCH > _MOST_SOCKET_BYTES:
        made.rmdir()
        most = _MOST_SOCKET_BYTES - _BELOW_SCRATCH
        raise DeviceError(f"{made}: too long for Ray's sockets, {most} B are allowed; give a short --scratch or TMPDIR")
    return made
