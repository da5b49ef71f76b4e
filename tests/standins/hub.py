"""A server on 127.0.0.1 that the real qai_hub client takes for Qualcomm's AI Hub.

Run by a Python that has qai_hub, whose message definitions it uses:

    python hub.py --token TOKEN --execute WORDS...

It prints its port. Models are kept as they come; compiling is handing the model back; a profile job answers made times
that it was told; an inference job runs ``WORDS... MODEL INPUTS.npz OUTPUTS.npz`` on what was uploaded. Models: the
token, devices, uploads of models and data sets, jobs that pass through their states, results, downloads. Does not
model: queues, projects, sharing, S3 credentials, other failures than a job that fails by its name.
"""

import argparse
import email
import email.policy
import http.server
import io
import itertools
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h5py
import numpy as np
from qai_hub import public_api_pb2 as api

DEVICE = api.Device(
    name="Samsung Galaxy S24", os="14", attributes=["chipset:qualcomm-snapdragon-8gen3", "framework:onnx"]
)
TIMES_US = [1500 + 10 * i for i in range(50)]
LAYERS = (("conv", "Conv", 900), ("pool", "MaxPool", 600))
FAILS = "fails"  # a job with this in its name does


class State:
    """What was uploaded and asked for."""

    def __init__(self, token: str, execute: list[str]) -> None:
        self.token, self.execute = token, execute
        self.numbers = itertools.count(1)
        self.models: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, Any] = {}
        self.asked: dict[str, int] = {}
        self.submitted = 0
        self.lock = threading.Lock()

    def new(self, kind: str) -> str:
        return f"{kind}{next(self.numbers):04d}"


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    state: State
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, data: bytes = b"", status: int = 200, kind: str = "application/json", etag: str = "none") -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(len(data))), ("Content-Type", kind), ("ETag", etag)):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, message: Any, status: int = 200) -> None:
        self._send(message.SerializeToString(), status, "application/x-protobuf")

    def _created(self, number: str) -> None:
        self._answer(api.CreateUpdateResponse(id=number), 201)

    @property
    def _own(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"  # type: ignore[index]

    def _route(self) -> None:
        path = re.sub(r"^/api/v1", "", self.path.partition("?")[0]).strip("/")
        body = self._body()
        if not path.startswith("blob/") and self.headers.get("Authorization") != f"token {self.state.token}":
            self._send(b'{"detail": "Invalid token."}', 401)
            return
        for method, pattern, name in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == self.command:
                with self.state.lock:
                    getattr(self, name)(body, *found.groups())
                return
        print(f"no route: {self.command} {self.path}", file=sys.stderr, flush=True)
        self._send(b'{"detail": "Not found."}', 404)

    do_GET = do_POST = do_PUT = do_PATCH = _route  # noqa: N815

    def user(self, _: bytes) -> None:
        self._answer(api.User(id=1, email="user@example.com"))

    def devices(self, _: bytes) -> None:
        wanted = parse_qs(urlsplit(self.path).query).get("name", [DEVICE.name])
        self._answer(api.DeviceList(devices=[DEVICE] if DEVICE.name in wanted else []))

    def frameworks(self, _: bytes) -> None:
        self._answer(api.FrameworkList(frameworks=[]))

    def new_model(self, body: bytes) -> None:
        model = api.Model.FromString(body)
        model.model_id = self.state.new("m")
        self.state.models[model.model_id] = model
        self._created(model.model_id)

    def model(self, _: bytes, number: str) -> None:
        self._answer(self.state.models[number])

    def where_to_put(self, _: bytes, number: str) -> None:
        place = api.FileMultipartUploadURL(urls=[f"{self._own}/blob/{number}"], upload_id="u", max_part_size=1 << 30)
        self._answer(api.FileUploadResponse(multipart_url=place))

    def put_done(self, _: bytes, number: str) -> None:
        self.state.models[number].file_upload_complete = True
        self._created(number)

    def new_dataset(self, _: bytes) -> None:
        self._created(self.state.new("d"))

    def where_to_post(self, _: bytes, number: str) -> None:
        place = api.FileUploadURL(url=f"{self._own}/blob/{number}", file_field_name="file")
        self._answer(api.FileUploadResponse(url=place))

    def dataset_done(self, _: bytes, number: str) -> None:
        self._created(number)

    def dataset(self, _: bytes, number: str) -> None:
        self._answer(api.Dataset(dataset_id=number, name=number, file_upload_complete=True))

    def where_to_get(self, _: bytes, number: str) -> None:
        name = f"{number}.h5" if number.startswith("d") else self.state.models[number].name
        place = api.FileDownloadURL(url=f"{self._own}/blob/{number}", filename=name)
        self._answer(api.FileDownloadResponse(url=place))

    def put_blob(self, body: bytes, number: str) -> None:
        self.state.files[number] = body
        self._send(etag=f'"{number}"')

    def post_blob(self, body: bytes, number: str) -> None:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        for part in parts.iter_parts():
            if part.get_param("name", header="content-disposition") == "file":
                self.state.files[number] = bytes(part.get_content())
        self._send(status=204)

    def get_blob(self, _: bytes, number: str) -> None:
        self._send(self.state.files[number], 200, "application/octet-stream")

    def new_job(self, body: bytes) -> None:
        job = api.Job.FromString(body)
        kind = job.WhichOneof("job")
        made = getattr(job, kind)
        number = self.state.new("j")
        setattr(made, f"{kind}_id", number)
        made.job_state = api.JobState.JOB_STATE_CREATED
        made.user.CopyFrom(api.User(id=1, email="user@example.com"))
        made.model.CopyFrom(self.state.models[made.model.model_id])
        if kind == "compile_job":
            made.device.CopyFrom(made.devices.devices[0])
        self.state.jobs[number], self.state.submitted = job, self.state.submitted + 1
        self._created(number)

    def job(self, _: bytes, number: str) -> None:
        if number not in self.state.jobs:
            self._send(b'{"detail": "Not found."}', 404)
            return
        job = self.state.jobs[number]
        kind = job.WhichOneof("job")
        made = getattr(job, kind)
        self.state.asked[number] = self.state.asked.get(number, 0) + 1
        if self.state.asked[number] > 1 and made.job_state == api.JobState.JOB_STATE_CREATED:
            if FAILS in made.name:
                made.job_state, made.failure_reason = api.JobState.JOB_STATE_FAILED, "told to fail by its name"
            else:
                self._finish(kind, made, number)
        self._answer(job)

    def _finish(self, kind: str, made: Any, number: str) -> None:
        if kind == "compile_job":
            target = self.state.new("m")
            self.state.models[target] = api.Model(
                model_id=target, name=made.model.name, model_type=made.model.model_type, producer_id=number
            )
            self.state.models[target].file_upload_complete = True
            self.state.files[target] = self.state.files[made.model.model_id]
            made.target_model.CopyFrom(self.state.models[target])
        elif kind == "inference_job" and made.dataset.dataset_id:
            self.state.files[f"d{number}"] = self._execute(made)
        made.job_state = api.JobState.JOB_STATE_DONE

    def _execute(self, made: Any) -> bytes:
        """Run the model on the data set; return the results as the hub's kind of h5."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "model").write_bytes(self.state.files[made.model.model_id])
            inputs = read_h5(self.state.files[made.dataset.dataset_id])
            np.savez(folder / "in.npz", **inputs)
            words = [*self.state.execute, str(folder / "model"), str(folder / "in.npz"), str(folder / "out.npz")]
            subprocess.run(words, check=True, timeout=120)
            with np.load(folder / "out.npz") as found:
                return write_h5({k: found[k] for k in found.files})

    def result(self, _: bytes, number: str) -> None:
        job = self.state.jobs[number]
        if job.WhichOneof("job") == "profile_job":
            self._answer(
                api.JobResult(profile_job_result=api.ProfileJobResult(profile_job_id=number, profile=profile()))
            )
        else:
            made = job.inference_job
            detail = profile() if made.is_profiling_on else None
            given = f"d{number}" if made.dataset.dataset_id else ""
            done = api.InferenceJobResult(inference_job_id=number, output_dataset_id=given, detail=detail)
            self._answer(api.JobResult(inference_job_result=done))


def profile() -> Any:
    """Return what a profile job found: times in microseconds, memory in bytes."""
    made = api.ProfileDetail(
        major_version=1,
        minor_version=2,
        execution_time=min(TIMES_US),
        cold_load_time=250_000,
        warm_load_time=40_000,
        all_execution_times=TIMES_US,
        all_cold_load_times=[250_000],
        all_warm_load_times=[40_000],
        after_execution_peak_memory=12_345_678,
    )
    made.execution_memory.peak.upper = 12_345_678
    made.execution_memory.peak.lower = 11_000_000
    for name, kind, micros in LAYERS:
        made.layer_details.add(
            name=name, layer_type_name=kind, execution_time=micros, compute_unit=api.ComputeUnit.COMPUTE_UNIT_NPU
        )
    made.tool_versions.add(name="onnx", version="1.0")
    return made


def read_h5(data: bytes) -> dict[str, Any]:
    """Return a data set's arrays by name, the samples along a new first axis."""
    found = {}
    with h5py.File(io.BytesIO(data), "r") as f:
        names = [f[f"data/{i}"].attrs["name"] for i in range(len(f["data"]))] if "data" in f else []
        for i, name in enumerate(names):
            group = f[f"data/{i}"]
            found[str(name)] = np.stack([np.array(group[f"batch_{k}"]) for k in range(group.attrs["batch_count"])])
    return found


def write_h5(arrays: dict[str, Any]) -> bytes:
    """Return arrays, samples along the first axis, as a data set."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as f:
        order = f.create_group("data")
        for i, (name, samples) in enumerate(arrays.items()):
            group = order.create_group(str(i))
            group.attrs["name"], group.attrs["order"], group.attrs["batch_count"] = name, i, len(samples)
            for k, sample in enumerate(samples):
                group.create_dataset(f"batch_{k}", data=sample)
    return buffer.getvalue()


ROUTES = (
    ("GET", r"users/auth/user", "user"),
    ("GET", r"devices", "devices"),
    ("GET", r"frameworks", "frameworks"),
    ("POST", r"models", "new_model"),
    ("GET", r"models/(\w+)", "model"),
    ("GET", r"models/(\w+)/multipart_upload", "where_to_put"),
    ("POST", r"models/(\w+)/multipart_upload", "put_done"),
    ("GET", r"models/(\w+)/download", "where_to_get"),
    ("POST", r"datasets", "new_dataset"),
    ("GET", r"datasets/(\w+)/upload_url", "where_to_post"),
    ("PATCH", r"datasets/(\w+)", "dataset_done"),
    ("GET", r"datasets/(\w+)", "dataset"),
    ("GET", r"datasets/(\w+)/download_data", "where_to_get"),
    ("PUT", r"blob/(\w+)", "put_blob"),
    ("POST", r"blob/(\w+)", "post_blob"),
    ("GET", r"blob/(\w+)", "get_blob"),
    ("POST", r"jobs", "new_job"),
    ("GET", r"jobs/(\w+)", "job"),
    ("GET", r"jobs/(\w+)/result", "result"),
)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--token", required=True)
    parser.add_argument("--execute", nargs=argparse.REMAINDER, required=True)
    arguments = parser.parse_args()
    Handler.state = State(arguments.token, arguments.execute)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
