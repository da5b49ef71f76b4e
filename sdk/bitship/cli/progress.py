"""How a suite's jobs are shown while they run."""

from typing import TYPE_CHECKING, Any

from bitship.campaign import Job, Record

if TYPE_CHECKING:
    from rich.console import Console


class Lines:
    """One line per finished job, for logs."""

    def __init__(self, console: "Console", total: int, done: int) -> None:
        self._console, self._total, self._done = console, total, done
        if done:
            console.print(f"{done} of {total} jobs are finished already")

    def started(self, job: Job, attempt: int) -> None:
        """Say only that a job begins again."""
        if attempt > 1:
            self._console.print(f"{job.title}: attempt {attempt}")

    def ticked(self, job: Job, done: int, spread: float) -> None:
        """Say nothing."""

    def ended(self, record: Record) -> None:
        """Say how it ended."""
        self._done += 1
        why = f": {record.error}" if record.error else ""
        text = f"[{self._done}/{self._total}] {record.job.title}: {record.status.value}, {record.seconds:.1f} s{why}"
        self._console.print(text)


class Bars:
    """A bar over all jobs, and a spinner per running one."""

    def __init__(self, console: "Console", total: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress: Any = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._all = self._progress.add_task("jobs", total=total, completed=done)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, job: Job, attempt: int) -> None:
        """Add its line, or say that it begins again."""
        again = f", attempt {attempt}" if attempt > 1 else ""
        if job.key not in self._tasks:
            self._tasks[job.key] = self._progress.add_task(job.title, total=job.effort.runs)
        self._progress.update(self._tasks[job.key], description=job.title + again, completed=0)

    def ticked(self, job: Job, done: int, spread: float) -> None:
        """Move its bar."""
        text = f"{job.title}, median known to {spread:.2%}"
        self._progress.update(self._tasks[job.key], completed=done, total=max(done, job.effort.runs), description=text)

    def ended(self, record: Record) -> None:
        """Remove its line; say what went wrong."""
        self._progress.remove_task(self._tasks.pop(record.key))
        self._progress.advance(self._all)
        if record.error:
            self._progress.console.print(f"{record.job.title}: {record.status.value}: {record.error}")
