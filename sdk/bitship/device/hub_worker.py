"""Talks to Qualcomm AI Hub through its own client: hub_worker.py REQUEST.json; prints one JSON line, or an error.

Stands alone: it is started with the Python that has qai_hub, whose pinned packages need not be bitship's. The request
names the model, the device, options, and a file where the ids of submitted jobs are kept: a job that is there already
is waited for, not submitted again. Exit code 0, or 2 with one line on stderr.
"""

import json
import sys
from pathlib import Path
from typing import Any


class HubError(Exception):
    """What the user must know, in one line."""


def main(path: str) -> int:
    """Do what the request says."""
    request = json.loads(Path(path).read_text())
    try:
        import qai_hub as hub
    except ImportError as e:
        print(
            f"package 'qai_hub' cannot be imported ({e}); pip install qai-hub, in a Python of its own", file=sys.stderr
        )
        return 2
    try:
        hub.set_verbose(False)
        print(json.dumps(_work(hub, request)))
        return 0
    except HubError as e:
        print(e, file=sys.stderr)
    except Exception as e:
        print(_one_line(e), file=sys.stderr)
    return 2


def _one_line(error: Exception) -> str:
    """Return an error of the client in one line; a missing or wrong token in words of its own."""
    text = " ".join(str(error).replace("│", " ").replace("─", " ").split())
    if "configuration" in text.lower() and "fail" in text.lower():
        return "no API token; 'qai-hub configure --api_token TOKEN' keeps yours in ~/.qai_hub/client.ini"
    if "authenticate" in text.lower() or "invalid token" in text.lower():
        return f"the API token was not accepted; 'qai-hub configure --api_token TOKEN' keeps another ({text[:120]})"
    return f"{type(error).__name__}: {text[:400]}"


COMPILE = "compile"


class _Jobs:
    """The ids of submitted jobs, kept in a file."""

    def __init__(self, hub: Any, path: Path) -> None:
        self._hub, self._path = hub, path
        self._ids: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, key: str, submit: Any) -> Any:
        """Return the job of a key, submitted now or before, when it is done; HubError with the hub's reason."""
        job = self._known(key)
        if job is None:
            job = submit()
            self._keep({**self._ids, key: job.job_id})
        status = job.wait()
        if not status.success:
            self._keep({k: v for k, v in self._ids.items() if k != key})
            raise HubError(
                f"{key.split(':')[0]} job {job.job_id} failed: {status.message or 'no reason given'}; see {job.url}"
            )
        return self._hub.get_job(job.job_id)  # as it is now: a compile job has its model

    def _known(self, key: str) -> Any:
        """Return a job that was submitted before; None where the hub has it no more, or is another one."""
        if key not in self._ids:
            return None
        try:
            return self._hub.get_job(self._ids[key])
        except Exception:  # the client has no error of its own for it; a hub that is away fails the next request too
            return None

    def finish(self) -> None:
        """Forget what was run: another time it is run anew, of the same compiled model."""
        self._keep({k: v for k, v in self._ids.items() if k == COMPILE})

    def _keep(self, ids: dict[str, str]) -> None:
        fresh = self._path.with_suffix(".partial")
        fresh.write_text(json.dumps(ids))
        fresh.replace(self._path)
        self._ids = ids


def _work(hub: Any, request: dict[str, Any]) -> dict[str, Any]:
    named = request["device"]
    known = hub.get_devices(name=named["name"], os=named["os"] or "")
    if not known:
        some = sorted({d.name for d in hub.get_devices()})[:5]
        raise HubError(f"no device '{named['name']}'; there are {', '.join(some)} and more: 'qai-hub list-devices'")
    device, jobs = known[-1], _Jobs(hub, Path(request["jobs"]))
    specs = {name: (tuple(shape), dtype) for name, shape, dtype in request["inputs"]}

    def compiled() -> Any:
        return hub.submit_compile_job(
            request["model"], device=device, name=request["name"], input_specs=specs, options=request["compile_options"]
        )

    compile_job = jobs.get(COMPILE, compiled)
    model = compile_job.get_target_model()
    about = {"device": f"{device.name}, OS {device.os}", "attributes": list(device.attributes)}
    about["compile_job"] = compile_job.job_id
    if request["task"] == "profile":
        options = request["profile_options"]
        job = jobs.get(
            f"profile:{options}",
            lambda: hub.submit_profile_job(model, device=device, name=request["name"], options=options),
        )
        found = {**about, "job": job.job_id, "profile": job.download_profile()}
        jobs.finish()
        return found
    import numpy as np

    with np.load(request["data"]) as stored:
        data = {name: list(stored[f"input_{i}"]) for i, (name, _, _) in enumerate(request["inputs"])}
    job = jobs.get(
        f"inference:{request['data_digest']}",
        lambda: hub.submit_inference_job(
            model, device=device, inputs=data, name=request["name"], options=request["profile_options"]
        ),
    )
    found = job.download_output_data()
    outputs = {f"output_{i}": np.stack(samples) for i, samples in enumerate(found.values())}
    np.savez(request["results"], **outputs)
    return {**about, "job": job.job_id, "outputs": list(found)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
