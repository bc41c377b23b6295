"""Performs many runs: finds what is missing, hands it to an executor, and writes every record."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, field
from typing import Self

from filelock import FileLock, Timeout

from genbench.program import check, interruptible
from genbench.records.artifacts import StorageError, Work, storage_errors
from genbench.records.environment import host
from genbench.records.provenance import code_version
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.registry import find
from genbench.runner.executors import Executor
from genbench.runner.isolation import Perform
from genbench.runner.progress import ProgressReporter, progress_on
from genbench.runner.staleness import Digest, Staleness, damaged_pictures, explain
from genbench.suite import Run


@dataclass(frozen=True)
class Outcome:
    """How many of the requested runs are complete, the failed ones, and those that have no record."""

    done: int
    failed: tuple[Record, ...]
    missing: tuple[Run, ...] = ()


def drive(
    runs: Sequence[Run],
    store: Store,
    executor: Executor,
    *,
    perform: Perform,
    retry_failed: bool = False,
    fail_fast: bool = False,
    rerun: bool = False,
    digest: Digest | None = None,
    progress: ProgressReporter | None = None,
) -> Outcome:
    """Perform those of `runs` that `store` has no complete record of; return the outcome.

    Each record is on disk before the next run starts. Quality is measured first, many runs at a time; then speed, on
    the lowest seed of each row and data set, one run at a time with the machine to itself. Several drivers may share a
    store: each run is locked by one of them. Output of libraries, such as Ray, goes to ``driver.log`` in the work
    folder.

    Args:
        retry_failed: repeat failed runs; interrupted ones are always repeated.
        fail_fast: stop at the first failure.
        rerun: repeat all runs, complete or failed. Without it, runs are repeated whose data, or whose code from
            outside genbench, changed since they were recorded.
        digest: returns the current SHA-256 of the data of a run; without it, changed data are not noticed.

    Raises:
        KeyboardInterrupt: on SIGINT, SIGTERM or SIGHUP, after everything has stopped. Unfinished runs leave a
            checkpoint and no record; the same call resumes them.
    """
    store.prepare()
    driver = Driver(store, executor, perform, retry_failed, fail_fast, progress or progress_on())
    quality, speed = runs_of_phase(runs, exclusive=False), runs_of_phase(runs, exclusive=True)
    with storage_errors(store.work / "driver.log", "written"):
        log = (store.work / "driver.log").open("a")
    with interruptible(), log, redirect_stdout(log), driver:
        driver.before = {run.id: newest.execution for run in runs if (newest := driver.newest_record(run))}
        driver.check_staleness(runs, rerun, digest)
        pending, pending_exclusive = driver.pending(quality), driver.pending(speed)
        driver.progress.expect(pending)
        driver.progress.expect(pending_exclusive)
        driver.report_status(driver.outcome([*quality, *speed]), len({run.id for run in runs}))
        if driver.perform_all(pending, exclusive=False) and pending_exclusive:
            lock = FileLock(store.work / f"speed-{host()}.lock", poll_interval=1.0)  # one measures at a time
            acquire(lock)
            with lock:
                driver.perform_all(pending_exclusive, exclusive=True)
            lock.release()
        return driver.outcome([*quality, *speed])


def runs_of_phase(runs: Sequence[Run], *, exclusive: bool) -> list[Run]:
    """Return `runs` with their exclusive metrics only, or with the others only.

    Metrics of the first seed only are dropped from the other seeds.
    """
    first = {run.id for run in lowest_seeds(runs)}

    def belongs(run: Run, name: str) -> bool:
        metric = find("metrics", name)
        is_exclusive = getattr(metric, "exclusive", False)
        once = is_exclusive or getattr(metric, "first_seed_only", False)
        return is_exclusive is exclusive and (run.id in first or not once)

    chosen = [(run, tuple(name for name in run.metrics if belongs(run, name))) for run in runs]
    return [run.model_copy(update={"metrics": metrics}) for run, metrics in chosen if metrics]


def lowest_seeds(runs: Sequence[Run]) -> list[Run]:
    """Return the run with the lowest seed of each row and data set."""
    lowest: dict[tuple[str, str], Run] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        lowest.setdefault((run.name, run.data), run)
    return list(lowest.values())


def acquire(lock: FileLock, timeout: float = -1) -> bool:
    """Return whether `lock` is acquired within `timeout` seconds (default: as long as that takes).

    Raises:
        StorageError: its file cannot be locked.
    """
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(getattr(error, "errno", None), f"{lock.lock_file} cannot be locked: {reason}") from error
    return True


@dataclass
class Driver:
    """One call of `drive`.

    Attributes:
        before: the newest execution of each run when the call started.
        locks: file locks by run id; the system releases them if this process dies.
        staleness: which earlier records are out of date.
    """

    store: Store
    executor: Executor
    perform: Perform
    retry_failed: bool
    fail_fast: bool
    progress: ProgressReporter
    before: dict[str, str] = field(default_factory=dict)
    locks: dict[str, FileLock] = field(default_factory=dict)
    staleness: Staleness = field(default_factory=Staleness)
    code: dict[str, str | bool | None] = field(default_factory=lambda: code_version())
    command: str = field(default_factory=lambda: shlex.join(["genbench", *sys.argv[1:]]))

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        for lock in self.locks.values():
            lock.release()
        self.progress.__exit__(*exception)
        if isinstance(exception[1], KeyboardInterrupt):
            self.progress.say("interrupted; run the same command to resume from the last checkpoint")

    def report_status(self, outcome: Outcome, runs: int) -> None:
        """Print how many runs are complete or failed already."""
        if outcome.done:
            self.progress.say(f"{outcome.done} of {runs} runs are done already")
        if outcome.failed and not self.retry_failed:
            self.progress.say(f"{len(outcome.failed)} of {runs} have failed before; --retry-failed repeats them")

    def check_staleness(self, runs: Sequence[Run], rerun: bool, digest: Digest | None) -> None:
        """Find the records of `runs` that are out of date, and print why."""
        records = [record for run in runs for record in self.store.of(run)]
        damaged, lines = damaged_pictures(records, Work(self.store.work))
        self.staleness = Staleness({record.execution for record in records}, rerun, digest, damaged)
        metrics = {run.id: set[str]() for run in runs}
        for run in runs:
            metrics[run.id] |= set(run.metrics)
        current = {
            run.id: {m: r for m, r in self.records_by_metric(run).items() if m in metrics[run.id]} for run in runs
        }
        for line in [*lines, *explain(self.staleness, current)]:
            self.progress.say(line)

    def records_by_metric(self, run: Run) -> dict[str, Record]:
        """Return the record to use for each metric: the newest that has it, else the last failure.

        Records of `run` under another name do not count: its row was renamed.
        """
        records = [record for record in self.store.of(run) if record.run.name == run.name]
        failed = {m: r for r in records[-1:] if r.status not in ("ok", "interrupted") for m in r.run.metrics}
        return failed | {metric: record for record in records for metric in record.metrics}

    def completed_metrics(self, run: Run) -> set[str]:
        """Return the metrics of `run` that are recorded and up to date."""
        records = self.records_by_metric(run).items()
        return {m for m, record in records if m in record.metrics and self.staleness.is_current(record, m)}

    def newest_record(self, run: Run) -> Record | None:
        """Return the last record of `run`."""
        return next(reversed(self.store.of(run)), None)

    def failure(self, run: Run) -> Record | None:
        """Return the last record of `run` if it is a failure with the current code and data, else None."""
        last = self.newest_record(run)
        if last is None or last.status in ("ok", "interrupted"):
            return None
        return last if all(self.staleness.is_current(last, metric) for metric in last.run.metrics) else None

    def missing_metrics(self, run: Run) -> Run | None:
        """Return `run` with its missing metrics; None if none is missing, or if it failed and is not to be retried."""
        completed, failure = self.completed_metrics(run), self.failure(run)
        metrics = tuple(metric for metric in run.metrics if metric not in completed)
        retry = failure is None or (self.retry_failed and failure.execution == self.before.get(run.id))
        return run.model_copy(update={"metrics": metrics}) if metrics and retry else None

    def pending(self, runs: Sequence[Run]) -> list[Run]:
        """Return those of `runs` that are to be performed, each with its missing metrics."""
        return [rest for run in runs if (rest := self.missing_metrics(run))]

    def perform_all(self, waiting: list[Run], *, exclusive: bool) -> bool:
        """Perform `waiting`, also runs that other drivers lock and then abandon; return whether to continue."""
        self.progress.phase = "speed" if exclusive else ""
        while waiting:
            check()
            busy: list[Run] = []
            with closing(self.executor(self.perform, self._locked(waiting, busy), exclusive=exclusive)) as records:
                for record in records:
                    self._store_record(record)
                    check()
                    if self.fail_fast and record.status != "ok":
                        return False
            if len(busy) == len(waiting):
                time.sleep(1.0)
            waiting = busy
        return True

    def _locked(self, runs: Sequence[Run], busy: list[Run]) -> Iterator[Run]:
        """Yield each run, locked, if it is still incomplete; runs that others have locked are added to `busy`."""
        for planned in runs:
            lock = FileLock(self.store.work / f"{planned.id}.lock")
            if not acquire(lock, timeout=0):
                busy.append(planned)
                continue
            run = self.missing_metrics(planned)
            if run is None:
                lock.release()
                self.progress.drop(planned)
                continue
            self.locks[run.id] = lock
            self.progress.start(planned, run)
            yield run

    def _store_record(self, record: Record) -> None:
        """Write `record`, then release the lock of its run."""
        for note in record.notes:
            self.progress.say(note)
        self.store.write(record.model_copy(update={"code": self.code | record.code, "command": self.command}))
        self.locks.pop(record.id).release()
        self.progress.finish(record)

    def outcome(self, runs: Sequence[Run]) -> Outcome:
        """Return how many of `runs` are complete, which failed, and which have no record."""
        incomplete = {run.id: run for run in runs if not set(run.metrics) <= self.completed_metrics(run)}
        failures = {run.id: failure for run in incomplete.values() if (failure := self.failure(run))}
        missing = tuple(run for run in incomplete.values() if run.id not in failures)
        return Outcome(len({run.id for run in runs} - set(incomplete)), tuple(failures.values()), missing)
