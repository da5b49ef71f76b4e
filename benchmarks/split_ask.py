"""What the benchmarks of the split service share: figures, a client that is up, a gateway on TCP."""

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from bitship.errors import BitshipError
from bitship.split.client import Result, SplitClient, graph_head
from bitship.split.gateway import Gateway
from bitship.split.package import SplitPackage
from bitship.split.policy import Policy
from bitship.split.remote import Remote
from bitship.split.wire import Wire


class Figure(msgspec.Struct, frozen=True):
    """A figure, what it is to be, and whether it is."""

    name: str
    value: str
    wanted: str
    ok: bool | None = None


def client_of(made: SplitPackage, remote: Remote, policy: Policy | None = None) -> SplitClient:
    """Return a client whose server answers."""
    client = SplitClient(Wire(made), graph_head(made.head), remote, policy)
    if not client.wait_up(20):
        client.close()
        raise BitshipError("the server does not answer")
    return client


def late_of(found: Sequence[Result], deadline: float) -> int:
    """Return how many answers came after the deadline."""
    return sum(r.latency.total > deadline for r in found)


class listening:  # noqa: N801
    """A gateway's TCP side in a thread; gives its port."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> int:
        self._pool.submit(self._gateway.serve_tcp, self._listener)
        port: int = self._listener.getsockname()[1]
        return port

    def __exit__(self, *exception: object) -> None:
        self._gateway.stop()
        self._pool.shutdown()
        self._listener.close()
