"""Asks a split server with the unmodified tritonclient, in an environment of its own; prints what came back as JSON.

triton_infer.py ADDRESS REQUEST.json, which has the model's name, the frame in hexadecimal and the parameters.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(sys.argv[1])
request = json.loads(Path(sys.argv[2]).read_text())
frame = np.frombuffer(bytes.fromhex(request["frame"]), np.uint8)
tensor = triton.InferInput("frame", list(frame.shape), "UINT8")
tensor.set_data_from_numpy(frame)
found = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready() and client.is_model_ready(request["model"]),
    "extensions": list(client.get_server_metadata().extensions),
    "inputs": [(t.name, t.datatype, list(t.shape)) for t in client.get_model_metadata(request["model"]).inputs],
}
try:
    result = client.infer(request["model"], [tensor], parameters=request["parameters"], client_timeout=20)
except InferenceServerException as e:
    found |= {"status": e.status(), "said": e.message()}
else:
    found |= {"logits": result.as_numpy("logits").tolist(), "answer": bytes(result.as_numpy("answer")).hex()}
print(json.dumps(found))
