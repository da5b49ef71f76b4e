"""A device behind an MQTT broker, in an environment of its own: sends frames, prints what comes back as JSON.

mqtt_device.py PORT TOPIC REQUEST.json, which has frames in hexadecimal and the seconds to wait for each answer. It
is a client of the protocol 3.1.1, as most devices are, with paho alone: it models a device's messages, not its radio.
"""

import json
import queue
import sys
from pathlib import Path

import paho.mqtt.client as mqtt

port, topic, words = int(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
found: queue.SimpleQueue[bytes] = queue.SimpleQueue()
listens: queue.SimpleQueue[bool] = queue.SimpleQueue()

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
client.on_connect = lambda *_: client.subscribe(f"{topic}/down")
client.on_subscribe = lambda *_: listens.put(True)
client.on_message = lambda _client, _data, message: found.put(message.payload)
if words.get("user"):
    client.tls_set(ca_certs=words["authority"])
    client.username_pw_set(words["user"], words["token"])
client.connect("127.0.0.1", port, 30)
client.loop_start()
listens.get(timeout=10)
answers: list[str | None] = []
for frame in words["frames"]:
    client.publish(f"{topic}/up", bytes.fromhex(frame), retain=words.get("retain", False))
    try:
        answers.append(found.get(timeout=words["wait_s"]).hex())
    except queue.Empty:
        answers.append(None)
client.disconnect()
client.loop_stop()
print(json.dumps(answers))
