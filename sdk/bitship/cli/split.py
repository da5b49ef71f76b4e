"""bitship split: a tail on a server, heads on devices, and what lies between."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitship.cli import split_models
from bitship.cli.models import Json
from bitship.cli.output import console, emit_json, table
from bitship.errors import DeviceError

if TYPE_CHECKING:
    from bitship.split.gateway import Gateway
    from bitship.split.remote import Remote
    from bitship.split.security import Security
    from bitship.split.wire import Wire

app = typer.Typer(
    name="split",
    help="Split computing: an integer head on the device, the tail on a server, and an answer always.",
    no_args_is_help=True,
)

PackageFolder = Annotated[Path, typer.Argument(help="A split package's folder.")]
CertsFolder = Annotated[
    Path | None, typer.Option("--certs", help="A folder of 'bitship split certs'; required beyond loopback.")
]
Server = Annotated[str, typer.Option("--server", help="The server, HOST:PORT.")]
_LOOPBACK = "127.0.0.1"


def _address(text: str) -> tuple[str, int]:
    """Return the host and port of HOST:PORT."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535 or not host:
        raise typer.BadParameter(f"'{text}' is no HOST:PORT")
    return host.strip("[]"), int(port)


def _at_the_end(call: Callable[..., Any]) -> None:
    """Have SIGINT and SIGTERM call this from now on, also where whoever started this program ignored them."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, call)


def _told_to_end() -> threading.Event:
    """Return what SIGINT and SIGTERM set from now on."""
    told = threading.Event()
    _at_the_end(lambda *_: told.set())
    return told


@contextlib.contextmanager
def _until_interrupted() -> Iterator[None]:
    """End the block at SIGINT and SIGTERM."""
    _at_the_end(signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        yield


def _security(folder: Path | None, who: str) -> "Security | None":
    from bitship.split import certs

    return None if folder is None else certs.security(folder, who)


def _remote(wire: "Wire", server: str, folder: Path | None) -> "Remote":
    from bitship.split import certs
    from bitship.split.remote import GrpcRemote
    from bitship.split.security import is_loopback

    host, _ = _address(server)
    if folder is None and not is_loopback(host):
        raise DeviceError(f"{server}: beyond loopback a client needs certificates and a token; give --certs FOLDER")
    return GrpcRemote(wire, server, _security(folder, certs.CLIENT))


def serve(
    package: PackageFolder,
    listen: Annotated[str, typer.Option(help="Where to listen, HOST:PORT; port 0 is any free one.")] = "127.0.0.1:8001",
    tail: Annotated[str, typer.Option(help="What runs the tail: host, tvm, executorch or firmware.")] = "host",
    batch: Annotated[int, typer.Option(min=1, max=256, help="Most inputs of a batch.")] = 8,
    wait_ms: Annotated[float, typer.Option(min=0, max=1000, help="How long a batch's first input waits.")] = 2.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; others are refused at once.")] = 64,
    certs: CertsFolder = None,
    metrics: Annotated[int | None, typer.Option(help="Prometheus metrics over HTTP at this port of loopback.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write OpenTelemetry spans into this file.")] = None,
    grace_s: Annotated[float, typer.Option(min=0, help="How long a drain waits, after SIGTERM.")] = 5.0,
) -> None:
    """Serve a package's tail by the Open Inference Protocol v2 over gRPC."""
    import asyncio

    from bitship.split import certs as authority
    from bitship.split import package as packages
    from bitship.split import tracing
    from bitship.split.metrics import Metrics
    from bitship.split.security import check_exposure
    from bitship.split.server import ServerOptions, SplitServer
    from bitship.split.tails import open_tail
    from bitship.split.wire import Wire

    host, port = _address(listen)
    security = _security(certs, authority.SERVER)
    check_exposure(host, security)
    made = packages.read(package)
    options = ServerOptions(host, port, batch, wait_ms, queue, grace_s, security)
    provider, close = tracing.to_file(trace) if trace else (None, lambda: None)
    counted = Metrics()
    server = SplitServer(Wire(made), open_tail(made.tail, tail, batch), options, counted, tracing.Tracing(provider))
    if metrics is not None:
        counted.serve(metrics)

    def ready(running: SplitServer) -> None:
        who = "mutual TLS and a token" if security else "loopback, no TLS"
        console().print(f"serving {made.manifest.name} {running.wire.model} at {host}:{running.port} ({who})")

    try:
        asyncio.run(server.run(ready))
    finally:
        close()
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(counted.outcomes().items())) or "no requests"
    console().print(f"drained: {outcomes}")


def serve_ray(
    package: PackageFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the gRPC proxy, on loopback; 0 is any.")] = 8001,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that each hold the tail.")] = 1,
    tail: Annotated[str, typer.Option(help="What runs the tail: host, tvm, executorch or firmware.")] = "host",
    batch: Annotated[int, typer.Option(min=1, max=256, help="Most inputs of a batch, in each replica.")] = 8,
    wait_ms: Annotated[float, typer.Option(min=0, max=1000, help="How long a batch's first input waits.")] = 2.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait, in each replica.")] = 64,
    scratch: Annotated[Path | None, typer.Option(help="A folder with a short path, for Ray's files.")] = None,
    start_s: Annotated[float, typer.Option(min=1, help="How long Ray may take to come up.")] = 120.0,
) -> None:
    """Serve a package's tail on this machine's loopback with Ray Serve, which scales it over processes."""
    from bitship.split.ray_serve import RayOptions, serving_on_ray

    options = RayOptions(port, replicas, batch, wait_ms, queue, scratch, start_s)
    done = _told_to_end()  # before it starts, which Ray does not like to be interrupted in
    with serving_on_ray(package, tail, options) as address:
        console().print(f"serving {package.name} at {address} (Ray Serve, replicas: {replicas}; loopback, no TLS)")
        done.wait()
    console().print("stopped")


def gateway(
    package: PackageFolder,
    server: Server,
    serial: Annotated[str | None, typer.Option(help="A serial port or pseudo terminal with a device.")] = None,
    baud: Annotated[int, typer.Option(help="Of the serial port.")] = 115200,
    listen: Annotated[str | None, typer.Option(help="Or a loopback HOST:PORT where devices connect by TCP.")] = None,
    certs: CertsFolder = None,
    mqtt: Annotated[str | None, typer.Option(help="Or an MQTT broker, HOST:PORT, that devices publish at.")] = None,
    topic: Annotated[str, typer.Option(help="Devices publish at TOPIC/DEVICE/up, answers go to .../down.")] = "bitship",
    mqtt_ca: Annotated[Path | None, typer.Option(help="The authority of the broker's certificate: TLS.")] = None,
    mqtt_user: Annotated[str | None, typer.Option(help="Who the broker takes this gateway for.")] = None,
    mqtt_token: Annotated[Path | None, typer.Option(help="A file (mode 600) with the broker's password.")] = None,
) -> None:
    """Forward framed features of a device, over a serial line, TCP or MQTT, to a server."""
    import socket

    from bitship.split import package as packages
    from bitship.split.gateway import Gateway
    from bitship.split.remote import SerialLine
    from bitship.split.security import is_loopback
    from bitship.split.wire import Wire

    if [serial, listen, mqtt].count(None) != 2:
        raise typer.BadParameter("one of --serial, --listen and --mqtt is needed")
    wire = Wire(packages.read(package))
    made = Gateway(wire, _remote(wire, server, certs))
    try:
        if mqtt is not None:
            _serve_mqtt(made, mqtt, topic, mqtt_ca, mqtt_user, mqtt_token, server)
            return
        if serial is not None:
            try:
                line = SerialLine(serial, baud)
            except OSError as e:
                raise DeviceError(f"{serial}: cannot be opened: {e.strerror or e}") from None
            with _until_interrupted():
                console().print(f"gateway: {serial} to {server}")
                made.serve(line)
            return
        host, port = _address(listen or "")
        if not is_loopback(host):
            raise DeviceError(f"{host}: frames over TCP are not encrypted; a gateway listens on loopback alone")
        with socket.create_server((host, port)) as listener, _until_interrupted():
            console().print(f"gateway: {host}:{listener.getsockname()[1]} to {server}")
            made.serve_tcp(listener)
    except OSError as e:
        raise DeviceError(f"{serial or listen}: {e.strerror or e}") from None
    finally:
        made.remote.close()
        console().print(f"gateway: {made.frames} answered, {made.refusals} refused")


def _serve_mqtt(
    gateway: "Gateway", where: str, topic: str, ca: Path | None, user: str | None, token: Path | None, server: str
) -> None:
    from bitship.split import mqtt
    from bitship.split.security import read_token

    broker = mqtt.Broker(*_address(where), topic, ca, user, None if token is None else read_token(token))
    told = _told_to_end()
    mqtt.serve(gateway, broker, lambda: console().print(f"gateway: {broker} {topic}/+/up to {server}"), told)


def certs(
    folder: Annotated[Path, typer.Argument(help="A new folder for certificates, keys (mode 600) and a token.")],
    host: Annotated[list[str], typer.Option("--host", help="A name or address of the server; may be repeated.")],
    days: Annotated[int, typer.Option(min=1, max=825, help="Until the certificates expire.")] = 90,
) -> None:
    """Make a development authority, a server's and a client's certificate, and a token."""
    from bitship.split import certs as authority

    for path in authority.make(folder, host, days):
        console().print(str(path))


def proxy(
    server: Server,
    listen: Annotated[int, typer.Option(help="Port of loopback; 0 is any free one.")] = 0,
    rate_kbps: Annotated[float, typer.Option(min=0, help="kbit/s each way; 0 is no limit.")] = 0.0,
    delay_ms: Annotated[float, typer.Option(min=0, help="One way.")] = 0.0,
    loss: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of segments that arrive a retransmission late.")
    ] = 0,
    seconds: Annotated[float | None, typer.Option(min=0, help="End after this time; else at an interrupt.")] = None,
) -> None:
    """Put a slow link before a server: rate, delay and loss, in user space."""
    from bitship.split.link import Link, Shape

    host, port = _address(server)
    told = _told_to_end()
    with Link(host, port, Shape(rate_kbps * 1e3, delay_ms / 1e3, loss), listen) as link:
        console().print(f"link: {link.address} to {server}")
        told.wait(seconds)
        console().print(f"link: {link.up.nbytes} B up, {link.down.nbytes} B down")


def infer(
    package: PackageFolder,
    inputs: Annotated[Path, typer.Argument(help="A .npy file: int8 codes [N, H, W, C] of the head's input.")],
    server: Annotated[
        str | None, typer.Option("--server", help="The server, HOST:PORT; none: local exit alone.")
    ] = None,
    deadline_ms: Annotated[float, typer.Option(min=1, help="For every answer.")] = 500.0,
    certs: CertsFolder = None,
    json: Json = False,
) -> None:
    """Answer inputs by head, local exit and server: who answered, how sure, bytes and latency."""
    import numpy as np

    from bitship.split import package as packages
    from bitship.split.answers import FULL, local_answer
    from bitship.split.client import SplitClient, graph_head
    from bitship.split.wire import Wire

    made = packages.read(package)
    try:
        every = np.load(inputs, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise DeviceError(f"{inputs}: no .npy file of numbers: {e}") from None
    wanted = made.head.inputs[0].type.shape[1:]
    if every.dtype != np.int8 or every.shape[1:] != wanted:
        raise DeviceError(
            f"{inputs}: {every.dtype} {list(every.shape)}: int8 [N, {', '.join(map(str, wanted))}] is needed"
        )
    wire, head = Wire(made), graph_head(made.head)
    rows: list[dict[str, object]] = []
    if server is None:
        for image in every:
            a = local_answer(head(image[None])[1], made.manifest.exit)
            rows.append(
                {"class": a.label, "confidence": a.confidence / FULL, "source": a.source.name, "why": "no server"}
            )
    else:
        client = SplitClient(wire, head, _remote(wire, server, certs))
        try:
            client.wait_up(deadline_ms / 1e3)
            for image in every:
                r = client.infer(image[None], deadline_ms / 1e3)
                rows.append(
                    {
                        "class": r.label,
                        "confidence": r.confidence,
                        "source": r.source.name,
                        "why": r.why,
                        "rung": r.rung,
                        "frame_bytes": r.frame_bytes,
                        "attempts": r.attempts,
                        "ms": r.latency.total * 1e3,
                        "network_ms": r.latency.network * 1e3,
                        "server_ms": r.latency.server * 1e3,
                    }
                )
        finally:
            client.close()
    if json:
        emit_json(rows)
    elif rows:
        table("", list(rows[0]), [list(row.values()) for row in rows])


MODELS = (
    split_models.search,
    split_models.cut,
    split_models.export,
    split_models.show,
    split_models.demo,
    split_models.deploy,
)
COMMANDS: tuple[Callable[..., None], ...] = (serve, serve_ray, gateway, certs, proxy, infer, *split_models.COMMANDS)
for command in COMMANDS:
    app.command()(command)
