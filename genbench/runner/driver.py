"""Driving many runs to their end: what is missing, who performs it, and the only hand that writes records."""

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
from genbench.records.artifacts import StorageError, Work, storage
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
    """How many of the requested runs have all their metrics, the failures of others, and those without any record."""

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
    """Perform what `store` lacks of `runs` and return how they stand; each record is on disk before the next.

    First quality, many runs at a time; then, where that is ok, speed: once per row and data set, on the lowest seed,
    one at a time with a machine to itself. Several drivers may share a store: each run is claimed by one of them. What
    is printed meanwhile, by Ray above all, goes to ``driver.log`` in the store's work folder.

    Args:
        retry_failed: perform again what has failed before; what was interrupted always is.
        fail_fast: stop at the first failure.
        rerun: perform again whatever is asked for, done or failed. Without it, runs are repeated whose code from
            outside genbench, or whose data, changed since they were recorded.
        digest: gives the SHA-256 of the data of a run as they are now; without it changed data are not noticed.

    Raises:
        KeyboardInterrupt: on SIGINT or SIGTERM, with nothing left running. Runs under way leave no record but
            their checkpoint, and go on from there when called for again.
    """
    store.prepare()
    driver = Driver(store, executor, perform, retry_failed, fail_fast, progress or progress_on())
    quality, speed = phase(runs, exclusive=False), phase(runs, exclusive=True)
    with storage(store.work / "driver.log", "written"):
        log = (store.work / "driver.log").open("a")
    with interruptible(), log, redirect_stdout(log), driver:
        driver.before = {run.id: newest.execution for run in runs if (newest := driver.newest(run))}
        driver.look_back(runs, rerun, digest)
        due, due_alone = driver.due(quality), driver.due(speed)
        driver.progress.expect(due)
        driver.progress.expect(due_alone)
        driver.say_what_stands(driver.outcome([*quality, *speed]), len({run.id for run in runs}))
        if driver.perform_all(due, exclusive=False) and due_alone:
            lock = FileLock(store.work / f"speed-{host()}.lock", poll_interval=1.0)  # one measures at a time
            acquire(lock)
            with lock:
                driver.perform_all(due_alone, exclusive=True)
            lock.release()
        return driver.outcome([*quality, *speed])


def phase(runs: Sequence[Run], *, exclusive: bool) -> list[Run]:
    """Return `runs` with those of their metrics that are measured alone, or those that are not.

    What is taken once for a row and data set is left to the lowest seed.
    """
    first = {run.id for run in lowest_seeds(runs)}

    def taken(run: Run, name: str) -> bool:
        metric = find("metrics", name)
        by_itself = getattr(metric, "exclusive", False)
        return by_itself is exclusive and (
            run.id in first or not (by_itself or getattr(metric, "first_seed_only", False))
        )

    chosen = [(run, tuple(name for name in run.metrics if taken(run, name))) for run in runs]
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
        before: the newest execution of each run when the call began.
        claims: the locks held, by the run's id; the system frees them if this process dies.
        staleness: which earlier records no longer hold.
    """

    store: Store
    executor: Executor
    perform: Perform
    retry_failed: bool
    fail_fast: bool
    progress: ProgressReporter
    before: dict[str, str] = field(default_factory=dict)
    claims: dict[str, FileLock] = field(default_factory=dict)
    staleness: Staleness = field(default_factory=Staleness)
    code: dict[str, str | bool | None] = field(default_factory=lambda: code_version())
    command: str = field(default_factory=lambda: shlex.join(["genbench", *sys.argv[1:]]))

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        for lock in self.claims.values():
            lock.release()
        self.progress.__exit__(*exception)
        if isinstance(exception[1], KeyboardInterrupt):
            self.progress.say("interrupted; run the same command to resume from the last checkpoint")

    def say_what_stands(self, outcome: Outcome, runs: int) -> None:
        """Say what there was before, if anything."""
        if outcome.done:
            self.progress.say(f"{outcome.done} of {runs} runs are done already")
        if outcome.failed and not self.retry_failed:
            self.progress.say(f"{len(outcome.failed)} of {runs} have failed before; --retry-failed performs them again")

    def look_back(self, runs: Sequence[Run], rerun: bool, digest: Digest | None) -> None:
        """Find out which earlier records of `runs` no longer hold, and print the reasons."""
        records = [record for run in runs for record in self.store.of(run)]
        damaged, lines = damaged_pictures(records, Work(self.store.work))
        self.staleness = Staleness({record.execution for record in records}, rerun, digest, damaged)
        metrics = {run.id: set[str]() for run in runs}
        for run in runs:
            metrics[run.id] |= set(run.metrics)
        counting = {run.id: {m: r for m, r in self.counting(run).items() if m in metrics[run.id]} for run in runs}
        for line in [*lines, *explain(self.staleness, counting)]:
            self.progress.say(line)

    def counting(self, run: Run) -> dict[str, Record]:
        """Return the record that counts for each metric: the newest that has it, else the failure that came last.

        Records of `run` under another name do not count: its row was renamed.
        """
        records = [record for record in self.store.of(run) if record.run.name == run.name]
        failed = {m: r for r in records[-1:] if r.status not in ("ok", "interrupted") for m in r.run.metrics}
        return failed | {metric: record for record in records for metric in record.metrics}

    def held(self, run: Run) -> set[str]:
        """Return the metrics of `run` that were taken and that still hold."""
        counting = self.counting(run).items()
        return {m for m, record in counting if m in record.metrics and self.staleness.holds(record, m)}

    def newest(self, run: Run) -> Record | None:
        """Return the last record of `run`."""
        return next(reversed(self.store.of(run)), None)

    def failure(self, run: Run) -> Record | None:
        """Return the last record of `run` if it is of a failure, and of the code and data of today."""
        last = self.newest(run)
        if last is None or last.status in ("ok", "interrupted"):
            return None
        return last if all(self.staleness.holds(last, metric) for metric in last.run.metrics) else None

    def lacking(self, run: Run) -> Run | None:
        """Return `run` with the metrics it lacks, None if there are none or it has failed and is not to be retried."""
        held, failure = self.held(run), self.failure(run)
        metrics = tuple(metric for metric in run.metrics if metric not in held)
        retry = failure is None or (self.retry_failed and failure.execution == self.before.get(run.id))
        return run.model_copy(update={"metrics": metrics}) if metrics and retry else None

    def due(self, runs: Sequence[Run]) -> list[Run]:
        """Return what of `runs` is to be performed."""
        return [lacking for run in runs if (lacking := self.lacking(run))]

    def perform_all(self, waiting: list[Run], *, exclusive: bool) -> bool:
        """Perform `waiting`, also those that other drivers hold and give up; return whether to go on."""
        self.progress.phase = "speed" if exclusive else ""
        while waiting:
            check()
            elsewhere: list[Run] = []
            with closing(
                self.executor(self.perform, self._claimed(waiting, elsewhere), exclusive=exclusive)
            ) as records:
                for record in records:
                    self._keep(record)
                    check()
                    if self.fail_fast and record.status != "ok":
                        return False
            if len(elsewhere) == len(waiting):
                time.sleep(1.0)
            waiting = elsewhere
        return True

    def _claimed(self, runs: Sequence[Run], elsewhere: list[Run]) -> Iterator[Run]:
        """Yield each run under a lock, if it is still lacking; those locked by others are put `elsewhere`."""
        for planned in runs:
            lock = FileLock(self.store.work / f"{planned.id}.lock")
            if not acquire(lock, timeout=0):
                elsewhere.append(planned)
                continue
            run = self.lacking(planned)
            if run is None:
                lock.release()
                self.progress.drop(planned)
                continue
            self.claims[run.id] = lock
            self.progress.start(planned, run)
            yield run

    def _keep(self, record: Record) -> None:
        """Write `record`, then let go of its run."""
        for note in record.notes:
            self.progress.say(note)
        self.store.write(record.model_copy(update={"code": self.code | record.code, "command": self.command}))
        self.claims.pop(record.id).release()
        self.progress.finish(record)

    def outcome(self, runs: Sequence[Run]) -> Outcome:
        """Return how `runs` stand now."""
        lacking = {run.id: run for run in runs if not set(run.metrics) <= self.held(run)}
        failures = {run.id: failure for run in lacking.values() if (failure := self.failure(run))}
        missing = tuple(run for run in lacking.values() if run.id not in failures)
        return Outcome(len({run.id for run in runs} - set(lacking)), tuple(failures.values()), missing)
