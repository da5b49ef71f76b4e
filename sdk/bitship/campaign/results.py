"""A folder of results: one JSON line per finished job, an index that SQL can ask, the packages that were made.

runs.jsonl    appended to, each line written whole and synced; a line that a crash cut short is dropped
index.sqlite  tables ``runs`` and ``figures``, made anew from the lines
packages/     what was exported, by the digest of everything that decided it
"""

import enum
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from bitship.campaign.suite import Job
from bitship.errors import FormatError
from bitship.report import Report, summarize

LINES, INDEX, PACKAGES, LOCK = "runs.jsonl", "index.sqlite", "packages", ".lock"


class Status(enum.Enum):
    """How a job ended: measured; wrong bits; anything else that kept it from a result."""

    PASSED = "passed"
    DIFFERS = "differs"
    FAILED = "failed"


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finished job. ``report`` is there when it passed, and when bits differed (with no samples then)."""

    key: str
    job: Job
    status: Status
    seconds: float
    attempts: int
    error: str = ""
    report: Report | None = None


class Results:
    """An open results folder; ``add`` may be called from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    @property
    def packages(self) -> Path:
        """Where exported packages are kept."""
        return self.folder / PACKAGES

    def add(self, record: Record) -> None:
        """Append one line and sync it; FormatError on a disk error."""
        line = msgspec.json.encode(record) + b"\n"
        with self._lock:
            try:
                with (self.folder / LINES).open("ab") as f:
                    f.write(line)
                    f.flush()
                    os.fsync(f.fileno())
            except OSError as e:
                raise FormatError(f"{self.folder / LINES}: cannot be written: {e.strerror}") from None


@contextmanager
def open_results(folder: Path) -> Iterator[Results]:
    """Create or reopen a folder, alone: FormatError when another run has it. The index is made anew at the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PACKAGES).mkdir(exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as e:
        raise FormatError(f"{folder}: cannot be written: {e.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FormatError(f"{folder}: another run is writing here; wait for it, or choose another folder") from None
        _mend(folder / LINES)
        try:
            yield Results(folder)
        finally:
            write_index(folder)


def _mend(path: Path) -> None:
    """Cut off a last line that was not written whole."""
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        with path.open("r+b") as f:
            f.truncate(whole)


def read(folder: Path) -> list[Record]:
    """Return every finished job's last record, in the order of the first; FormatError names a damaged line."""
    path = folder / LINES
    try:
        data = path.read_bytes()
    except OSError as e:
        raise FormatError(f"{path}: cannot be read: {e.strerror}; 'bitship bench SUITE -o FOLDER' makes it") from None
    records: dict[str, Record] = {}
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = msgspec.json.decode(line, type=Record)
        except msgspec.MsgspecError as e:
            raise FormatError(f"{path}: line {number}: damaged: {e}; remove the line to go on") from None
        records[record.key] = record
    return list(records.values())


def reports(records: Sequence[Record]) -> list[Report]:
    """Return the reports of jobs that passed, or whose bits differed."""
    return [r.report for r in records if r.report is not None]


_TABLES = """
CREATE TABLE runs (key TEXT PRIMARY KEY, package TEXT, target TEXT, device TEXT, converter TEXT, artifact TEXT,
    status TEXT, error TEXT, seconds REAL, attempts INTEGER, macs INTEGER, arena_bytes INTEGER, weights_bytes INTEGER,
    code_bytes INTEGER, stack_bytes INTEGER, graph_digest TEXT, done TEXT);
CREATE TABLE figures (key TEXT REFERENCES runs(key), name TEXT, unit TEXT, kind TEXT, count INTEGER, median REAL,
    low REAL, high REAL, p90 REAL, p99 REAL, cv REAL, resolution REAL);
"""


def write_index(folder: Path) -> None:
    """Make index.sqlite anew under a temporary name, then rename it; nothing where no job has finished."""
    if not (folder / LINES).is_file():
        return
    records = read(folder)
    fresh = folder / f".{INDEX}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(fresh)) as db:
        db.executescript(_TABLES)
        for record in records:
            db.execute(f"INSERT INTO runs VALUES ({','.join('?' * 17)})", _run_row(record))
            for samples in record.report.samples if record.report else ():
                s = summarize(samples)
                row = (record.key, s.name, s.unit, s.kind.value, s.count, s.median, s.low, s.high, s.p90, s.p99, s.cv)
                db.execute(f"INSERT INTO figures VALUES ({','.join('?' * 12)})", (*row, samples.resolution))
        db.commit()
    fresh.replace(folder / INDEX)


def _run_row(record: Record) -> tuple[object, ...]:
    job, report = record.job, record.report
    said = (job.target, job.device, job.converter.value if job.converter else None, job.artifact)
    made: tuple[object, ...] = (None,) * 7
    if report is not None:
        f = report.footprint
        said = (report.target, report.device, report.converter, report.artifact)
        made = (report.macs, f.arena_bytes, f.weights_bytes, f.code_bytes, f.stack_bytes, report.graph_digest)
        made = (*made, report.when)
    ended = (record.status.value, record.error, record.seconds, record.attempts)
    return (record.key, job.name, *said, *ended, *made)
