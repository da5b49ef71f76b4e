"""A split server of this process that a test can stop and start again."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bitship.split import serving as service
from bitship.split.package import SplitPackage
from bitship.split.server import ServerOptions
from bitship.split.tails import Tail


class Running:
    """A server that listens until ``stop``."""

    def __init__(self, made: SplitPackage, tail: Tail | None, options: ServerOptions | None) -> None:
        self._stack = ExitStack()
        self.server = self._stack.enter_context(service.serving(made, tail, options))

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def stop(self) -> None:
        self._stack.close()


def start(made: SplitPackage, tail: Tail | None = None, options: ServerOptions | None = None) -> Running:
    return Running(made, tail, options)


@contextmanager
def serving(made: SplitPackage, tail: Tail | None = None, options: ServerOptions | None = None) -> Iterator[Running]:
    running = start(made, tail, options)
    try:
        yield running
    finally:
        running.stop()
