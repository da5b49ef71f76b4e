"""Run a suite's jobs: in parallel over devices, one after the other on each, none twice."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol

import msgspec

from bitship.benchmarking import EMULATOR, HOST, bench
from bitship.campaign.results import Record, Results, Status
from bitship.campaign.suite import Job
from bitship.device.desk import Unit
from bitship.errors import BitsDifferError, BitshipError, DeviceError
from bitship.exporting import export
from bitship.package import Package
from bitship.report import Report
from bitship.targets import TargetKind, load


class Watcher(Protocol):
    """Who wants to see how it goes; called from several threads."""

    def started(self, job: Job, attempt: int) -> None:
        """A job begins, on its first attempt or a later one."""
        ...

    def ticked(self, job: Job, done: int, spread: float) -> None:
        """``done`` executions are recorded; the median is known to ``spread``."""
        ...

    def ended(self, record: Record) -> None:
        """A job is over and its line written."""
        ...


class Silent:
    """Looks away."""

    def started(self, job: Job, attempt: int) -> None: ...
    def ticked(self, job: Job, done: int, spread: float) -> None: ...
    def ended(self, record: Record) -> None: ...


def lane(job: Job) -> str:
    """Return what a job needs for itself: its device.

    An emulator is started anew for each job and a farm lends what is free, so with those each job is on its own.
    """
    many = job.device == EMULATOR or (job.unit and msgspec.json.decode(job.unit, type=Unit).farm is not None)
    return f"{job.device} {job.key}" if many else job.device


def _alone(job: Job) -> bool:
    """Whether it is timed on this machine, where anything beside it would show in its figures."""
    if job.device == HOST:
        return True
    if job.device != EMULATOR:
        return False
    target = load(job.target) if job.target else load(Package.open(Path(job.source)).manifest.target)
    return target.emulator is None and target.kind is not TargetKind.MCU


def run(
    todo: Sequence[Job],
    results: Results,
    finished: Sequence[Record] = (),
    workers: int = 2,
    attempts: int = 2,
    watcher: Watcher | None = None,
    measure: Callable[..., Report] = bench,
) -> list[Record]:
    """Run every job that is not finished yet and return all records, old and new, in the order of the jobs.

    finished  records of an earlier run: jobs that passed or differed are not run again, failed ones are
    workers   jobs at a time; jobs on one device follow each other, and those timed on this machine run alone, last
    attempts  how often a job is begun when its device is lost
    measure   what runs a package: ``bench``

    An interruption loses the jobs that are running and nothing else.
    """
    watcher = watcher or Silent()
    known = {r.key: r for r in finished if r.status is not Status.FAILED}
    fresh = [job for job in todo if job.key not in known]
    crew = _Crew(results, watcher, attempts, measure)
    crowd = [job for job in fresh if not _alone(job)]
    lanes: dict[str, list[Job]] = {}
    for job in crowd:
        lanes.setdefault(lane(job), []).append(job)
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="bench") as pool:
        _drain([pool.submit(crew.work, jobs) for jobs in lanes.values()], crew)
    for job in fresh:
        if _alone(job):
            crew.work([job])
    while not crew.records.empty():
        record = crew.records.get()
        known[record.key] = record
    return [known[job.key] for job in todo if job.key in known]


def _drain(futures: list["Future[None]"], crew: "_Crew") -> None:
    """Wait for all; the first error, or an interruption, stops what has not begun."""
    left = set(futures)
    try:
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
    except BaseException:
        crew.stop.set()
        for future in left:
            future.cancel()
        raise


class _Crew:
    """What the threads share."""

    def __init__(self, results: Results, watcher: Watcher, attempts: int, measure: Callable[..., Report]) -> None:
        self.results = results
        self.watcher = watcher
        self.attempts = attempts
        self.measure = measure
        self.records: queue.Queue[Record] = queue.Queue()
        self.stop = threading.Event()
        self._builds: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def work(self, jobs: Sequence[Job]) -> None:
        """Run jobs one after the other."""
        for job in jobs:
            if self.stop.is_set():
                return
            record = self.job(job)
            self.results.add(record)
            self.records.put(record)
            self.watcher.ended(record)

    def job(self, job: Job) -> Record:
        """Run one job; every user error becomes its record."""
        start = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            self.watcher.started(job, attempt)
            status, error, report = self._attempt(job)
            lost = status is Status.FAILED and isinstance(error, DeviceError)
            if not lost or attempt >= self.attempts or self.stop.is_set():
                break
        seconds = round(time.monotonic() - start, 3)
        return Record(job.key, job, status, seconds, attempt, " ".join(str(error or "").split()), report)

    def _attempt(self, job: Job) -> tuple[Status, BitshipError | None, Report | None]:
        try:
            package = self._package(job)
            report = self.measure(
                package,
                None if job.device == EMULATOR else job.device,
                role=job.artifact,
                effort=job.effort,
                tick=lambda done, spread: self.watcher.ticked(job, done, spread),
            )
        except BitsDifferError as e:
            return Status.DIFFERS, e, e.report
        except BitshipError as e:
            return Status.FAILED, e, None
        return Status.PASSED, None, report

    def _package(self, job: Job) -> Package:
        """Return the job's package, exported once for all jobs that share it."""
        if not job.target:
            return Package.open(Path(job.source))
        with self._lock:
            lock = self._builds.setdefault(job.build_key, threading.Lock())
        out = self.results.packages / job.build_key / job.name
        with lock:
            if not out.is_dir():
                export(Path(job.source), job.target, out, converter=job.converter, ram=job.ram, application=job.app)
            return Package.open(out)
