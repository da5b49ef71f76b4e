"""Devices of Qualcomm AI Hub: compile, inference and profile jobs through the real client, in a process of its own."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bitship.arrays import load_npz
from bitship.converters import qai_hub
from bitship.device.base import DeviceSession, OpSamples, Samples
from bitship.errors import DeviceError, MissingDependencyError
from bitship.figures import FigureKind
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.package import Package

WORKER = Path(__file__).with_name("hub_worker.py")
ROLE = "onnx"
_MISSING = "cannot be imported"
_NO_TOKEN = "no API token"
_RESOLUTION_MS = 1e-3  # times come in whole microseconds


class HubSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a hosted device is named and used: ``hub = { device = "Samsung Galaxy S24" }`` in devices.toml.

    device  its name there; None: the target's
    os      version of its system; None: the newest there is
    compile_options, profile_options  of the hub: "--target_runtime onnx", "--max_profiler_iterations 200"
    model   a model file of one's own to upload, for packages without one; its inputs are named as the graph's
    python  the Python that has qai_hub; None: the one that runs bitship
    jobs    folder where the ids of submitted jobs are kept, so that a run that was cut off goes on
    """

    device: str | None = None
    os: str | None = None
    compile_options: str = "--target_runtime onnx"
    profile_options: str = ""
    model: str | None = None
    python: str | None = None
    jobs: str | None = None
    deadline_s: float = 4 * 3600.0


class HubDevice:
    """One device of the hub, by name."""

    def __init__(self, name: str, settings: HubSettings) -> None:
        self._name = name
        self._settings = settings
        self._about: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self._name

    def environment(self) -> dict[str, str]:
        """Return what the hub said of the device, and the jobs; complete after a package was run."""
        s, said = self._settings, self._about
        found = {
            "device": said.get("device", str(s.device)),
            "hub options": f"{s.compile_options} {s.profile_options}".strip(),
        }
        found["processor"] = ", ".join(a.partition(":")[2] for a in said.get("attributes", ()) if "chipset" in a)
        found |= {key: said[key] for key in ("uploaded", "compile job", "inference job", "profile job") if key in said}
        return {k: v for k, v in found.items() if v}

    def role(self, package: Package) -> str | None:
        """Return the role of what is uploaded, where the package has it; else that of its exact artifact."""
        return ROLE if self._settings.model is None and ROLE in {a.role for a in package.manifest.artifacts} else None

    @contextmanager
    def open(self, package: Package, role: str | None) -> Iterator[DeviceSession]:
        model = self._model(package, role)
        self._about["uploaded"] = f"{model.name}, sha256 {hashlib.sha256(model.read_bytes()).hexdigest()[:16]}"
        with tempfile.TemporaryDirectory(prefix="bitship-") as folder:
            yield _HubSession(self._settings, self._about, package, package.graph(), model, Path(folder))

    def _model(self, package: Package, role: str | None) -> Path:
        """Return the file to upload."""
        if self._settings.model is not None:
            path = Path(self._settings.model)
            if not path.is_file():
                raise DeviceError(f"device '{self._name}': {path}: no such file; model = ... names what is uploaded")
            return path
        roles = {a.role: a for a in package.manifest.artifacts}
        if role not in (None, ROLE) or ROLE not in roles:
            raise DeviceError(
                f"device '{self._name}': {package.path} has artifacts {', '.join(roles)}; the hub takes '{ROLE}': "
                "export one, or name a model file in devices.toml: hub = { model = ... }"
            )
        return package.path / roles[ROLE].path


@dataclass(frozen=True)
class _HubSession:
    settings: HubSettings
    about: dict[str, Any]
    package: Package
    graph: Graph
    model: Path
    folder: Path
    last: dict[str, Any] = field(default_factory=dict)

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        """Run all rows in one inference job."""
        for row in rows:
            self.graph.check_inputs(row)
        data = self.folder / "inputs.npz"
        np.savez(
            data,
            **{f"input_{i}": np.stack(column) for i, column in enumerate(zip(*rows, strict=True))},
        )
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for row in rows for a in row)).hexdigest()
        results = self.folder / "results.npz"
        said = self._ask("inference", data=str(data), data_digest=digest[:16], results=str(results))
        self.about["inference job"] = said["job"]
        found = load_npz(results)
        columns = [found[f"output_{i}"] for i in range(len(found))]
        if len(columns) != len(self.graph.outputs) or any(len(c) != len(rows) for c in columns):
            raise DeviceError(
                f"qai-hub: outputs {', '.join(said['outputs'])} of {len(columns[0])} samples came back; "
                f"{len(self.graph.outputs)} outputs of {len(rows)} are expected; is the uploaded model the graph's?"
            )
        ports = self.graph.outputs
        return [tuple(self._shaped(c[k], i) for i, c in enumerate(columns)) for k in range(len(rows)) if ports]

    def _shaped(self, array: Array, index: int) -> Array:
        """Return an output in the graph's shape; the hub drops no bits, but may drop axes of one."""
        port = self.graph.outputs[index]
        if array.size != port.type.size or array.dtype != port.type.dtype.numpy:
            raise DeviceError(
                f"qai-hub: output '{port.name}' is {array.dtype}{list(array.shape)}, {port.type} is expected; "
                "the uploaded model must take and give the graph's integers"
            )
        return array.reshape(port.type.shape)

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        """Return what a profile job found: latency of every run, load times in ms, peak memory in bytes.

        How many runs there are is the hub's matter: profile_options = "--max_profiler_iterations N".
        """
        summary = self._profile()["execution_summary"]  # a job of its own, every time
        found = []
        for name, key in (("latency", "inference"), ("first load", "first_load"), ("load", "warm_load")):
            values = tuple(t / 1e3 for t in summary.get(f"all_{key}_times") or ())
            found += [Samples(name, "ms", FigureKind.MEASURED, values, _RESOLUTION_MS)] if values else []
        if not found or found[0].name != "latency":
            raise DeviceError("qai-hub: the profile has no times of single runs; a newer runtime is needed")
        peak = summary.get("inference_memory_peak_range")
        if isinstance(peak, list) and peak[1]:
            found.append(Samples("peak memory", "B", FigureKind.MEASURED, (float(peak[1]),)))
        return tuple(found)

    def profile(self, row: tuple[Array, ...], runs: int) -> tuple[OpSamples, ...]:
        """Return the hub's time of every layer of the compiled model, which need not be the graph's."""
        return tuple(
            OpSamples(
                i,
                f"{layer['type']} ({layer['compute_unit']})",
                layer["name"],
                Samples("latency", "ms", FigureKind.MEASURED, (layer["execution_time"] / 1e3,), _RESOLUTION_MS),
            )
            for i, layer in enumerate((self.last or self._profile())["execution_detail"])
            if "execution_time" in layer
        )

    def _profile(self) -> dict[str, Any]:
        said = self._ask("profile")
        self.about["profile job"] = said["job"]
        found: dict[str, Any] = said["profile"]
        self.last.clear()
        self.last.update(found)
        return found

    def _ask(self, task: str, **more: str) -> dict[str, Any]:
        """Start the worker and return what it found; DeviceError or MissingDependencyError with its one line."""
        s = self.settings
        request = self.folder / f"{task}.json"
        inputs = [
            (name, list(p.type.shape), p.type.dtype.value)
            for name, p in zip(self._names(), self.graph.inputs, strict=True)
        ]
        body = {
            "task": task,
            "model": str(self.model.resolve()),
            "name": f"bitship {self.package.manifest.name}",
            "device": {"name": s.device, "os": s.os},
            "compile_options": s.compile_options,
            "profile_options": s.profile_options,
            "inputs": inputs,
            "jobs": str(self._jobs(inputs)),
            **more,
        }
        request.write_text(json.dumps(body))
        python = s.python or sys.executable
        try:
            done = subprocess.run(
                [python, shutil.copy(WORKER, self.folder), str(request)],  # beside no module of ours that shadows one
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=s.deadline_s,
                check=False,
                env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            )
        except OSError as e:
            raise MissingDependencyError(
                f"qai-hub: {python}: {e.strerror}; python = ... names the one with it"
            ) from None
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"qai-hub: no end of the {task} job after {s.deadline_s:g} s; run it again and it is waited for further"
            ) from None
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            kind = MissingDependencyError if _MISSING in said else DeviceError
            unsent = f"; not submitted: {self._jobs_text(inputs)}" if _MISSING in said or _NO_TOKEN in said else ""
            raise kind(f"qai-hub: {said}{unsent}")
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        self.about.update({k: found[k] for k in ("device", "attributes")} | {"compile job": found["compile_job"]})
        return found

    def _names(self) -> list[str]:
        """Return the names of the uploaded model's inputs: those of the package's jobs, else the graph's."""
        job = qai_hub.read(self.package.path) if self.settings.model is None else None
        return [p.name for p in self.graph.inputs] if job is None else list(job.input_specs)

    def _jobs_text(self, inputs: list[tuple[str, list[int], str]]) -> str:
        """Return what would have been submitted."""
        s, specs = self.settings, {n: (tuple(shape), dtype) for n, shape, dtype in inputs}
        return qai_hub.Job(str(s.device), self.model.name, specs, s.compile_options, "", s.profile_options).text()

    def _jobs(self, inputs: object) -> Path:
        """Return the file of job ids of this model on this device with these options."""
        s = self.settings
        base = (
            Path(s.jobs) if s.jobs else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitship/hub"
        )
        base.mkdir(parents=True, exist_ok=True)
        key = json.dumps([s.device, s.os, s.compile_options, inputs]).encode()
        return base / f"{hashlib.sha256(self.model.read_bytes() + key).hexdigest()[:24]}.json"
