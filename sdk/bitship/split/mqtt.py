"""MQTT between devices and a gateway: a frame is a message, the same bytes as on a serial line (docs/split.md)."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitship.errors import DeviceError
from bitship.extras import require
from bitship.split.frame import EXTRA_BYTES, MAX_PAYLOAD, Frame, Reader, Refusal, RefusedError
from bitship.split.gateway import Gateway
from bitship.split.security import is_loopback

EXTRA = "split-mqtt"
UP, DOWN = "up", "down"
_CONNECT_S, _KEEPALIVE_S = 5.0, 30
_AGAIN_S = (1, 4)  # between attempts to connect again: the first pause, the longest
_AROUND_BYTES = 1024  # a packet's bytes around its frame: topic and properties
_WORKERS, _MOST_WAITING = 8, 64


@dataclass(frozen=True)
class Broker:
    """Where a broker is, and how one gets in; DeviceError for one beyond loopback without TLS and a token.

    topic      devices publish at TOPIC/DEVICE/up, a gateway at TOPIC/DEVICE/down
    authority  a file with the authority that the broker's certificate is of: TLS
    user, token  what the broker asks for
    """

    host: str
    port: int
    topic: str = "bitship"
    authority: Path | None = None
    user: str | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and None in (self.authority, self.user, self.token):
            raise DeviceError(
                f"{self.host}: beyond loopback a broker needs TLS and a token; "
                "give --mqtt-ca, --mqtt-user and --mqtt-token"
            )
        if self.authority is not None and not self.authority.is_file():
            raise DeviceError(f"{self.authority}: no such file; it has the authority of the broker's certificate")
        if not self.topic or set(self.topic) & set("+#\0") or self.topic.startswith("$"):
            raise DeviceError(f"topic '{self.topic}': characters other than + and # are allowed, and no $ in front")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def serve(gateway: Gateway, broker: Broker, ready: Callable[[], None], done: threading.Event) -> None:
    """Answer every device's frames until ``done``; DeviceError where the broker cannot be reached or refuses.

    A connection that is lost is made again. What a device sent meanwhile is lost, as on any line: it sends again.
    """
    places = threading.BoundedSemaphore(_MOST_WAITING)
    pool = ThreadPoolExecutor(_WORKERS, "bitship-mqtt")

    def answer(client: Any, topic: str, frame: Frame) -> None:
        try:
            client.publish(topic, gateway.answer(frame).pack())
        finally:
            places.release()

    def received(client: Any, message: Any) -> None:
        if message.retain:
            return  # of long ago
        topic = message.topic.removesuffix(UP) + DOWN
        for frame in Reader(gateway.capacity).feed(message.payload)[:1]:
            if places.acquire(blocking=False):
                pool.submit(answer, client, topic, frame)
            else:
                busy = RefusedError(Refusal.BUSY, f"{_MOST_WAITING} frames wait at the gateway")
                client.publish(topic, gateway.refuse(frame, busy).pack())

    client = _connect(broker, f"{broker.topic}/+/{UP}", received)
    try:
        ready()
        done.wait()
    finally:
        _close(client)
        pool.shutdown(wait=True, cancel_futures=True)


class MqttLine:
    """A device's line to a gateway, through a broker: for ``remote.FramedRemote``."""

    def __init__(self, broker: Broker, device: str) -> None:
        self._up = f"{broker.topic}/{device}/{UP}"
        self._found: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        try:
            self._client = _connect(broker, f"{broker.topic}/{device}/{DOWN}", self._received)
        except DeviceError as e:
            raise OSError(str(e)) from None

    def _received(self, client: Any, message: Any) -> None:
        self._found.put(message.payload)

    def read(self, timeout_s: float) -> bytes:
        try:
            return self._found.get(timeout=max(timeout_s, 1e-3))
        except queue.Empty:
            if not self._client.is_connected():
                raise OSError("the broker is gone") from None
            return b""

    def write(self, data: bytes) -> None:
        if not self._client.is_connected() or self._client.publish(self._up, data).rc != 0:
            raise OSError("the broker is gone")

    def close(self) -> None:
        _close(self._client)


def _connect(broker: Broker, listen: str, received: Callable[[Any, Any], None]) -> Any:
    """Return a client that is connected and subscribed, with a thread of its own."""
    mqtt = require("paho.mqtt.client", EXTRA, "MQTT")
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.connect_timeout = _CONNECT_S
    client.reconnect_delay_set(*_AGAIN_S)
    said: queue.SimpleQueue[str] = queue.SimpleQueue()

    def connected(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            said.put(str(reason))
        else:
            client.subscribe(listen)

    def subscribed(_client: Any, _data: Any, _number: int, reasons: list[Any], _properties: Any) -> None:
        said.put("; ".join(str(r) for r in reasons if r.is_failure))

    client.on_connect, client.on_subscribe = connected, subscribed
    client.on_message = lambda _client, _data, message: received(client, message)
    try:
        if broker.authority is not None:
            client.tls_set(ca_certs=str(broker.authority))
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.token)
        client.connect(broker.host, broker.port, _KEEPALIVE_S, properties=_limits())
    except OSError as e:
        raise DeviceError(f"broker {broker}: {e.strerror or e}") from None
    client.loop_start()
    try:
        found = said.get(timeout=_CONNECT_S)
    except queue.Empty:
        found = f"no answer within {_CONNECT_S:g} s"
    if found:
        _close(client)
        raise DeviceError(f"broker {broker}: refused: {found}")
    return client


def _limits() -> Any:
    """Return what a connection begins with: the largest packet that the broker may pass on."""
    packets = require("paho.mqtt.packettypes", EXTRA, "MQTT").PacketTypes
    made = require("paho.mqtt.properties", EXTRA, "MQTT").Properties(packets.CONNECT)
    made.MaximumPacketSize = MAX_PAYLOAD + EXTRA_BYTES + _AROUND_BYTES
    return made


def _close(client: Any) -> None:
    client.disconnect()
    client.loop_stop()
