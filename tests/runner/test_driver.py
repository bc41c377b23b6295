"""The driver: what it finds to do, in which order, and what it writes beside what a run says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from genbench.records.provenance import code_version
from genbench.records.record import Measurement, Record, Status
from genbench.records.store import Store
from genbench.runner.driver import Outcome, drive
from genbench.runner.executors import in_process
from genbench.runner.progress import Display, Lines, ProgressReporter, format_duration
from genbench.runner.worker import new_execution_name
from genbench.suite import Run
from tests.faulty import a_run

NATS, SPAN = "tests.faulty:nats", "tests.faulty:span"


class Performer:
    """Performs nothing: notes seed, metrics and cores, and gives each run the status it is told to."""

    def __init__(self, **statuses: Status) -> None:
        self.statuses, self.performed = statuses, list[tuple[int, tuple[str, ...], float]]()

    def __call__(self, run: Run) -> Record:
        """Return a record of that status."""
        self.performed.append((run.seed, run.metrics, run.resources.cpus))
        status = self.statuses.get(f"seed{run.seed}", "ok")
        return Record(run=run, execution=new_execution_name(), status=status)


def driven(store: Store, performer: Performer, runs: Sequence[Run], **options: bool) -> Outcome:
    """Return what came of driving `runs` in this process, quietly."""
    return drive(runs, store, in_process, perform=performer, progress=ProgressReporter(), **options)


def runs(seeds: int = 3, *metrics: str) -> list[Run]:
    """Return runs that ask for quality and speed."""
    return [a_run(seed, metrics=metrics or (NATS, SPAN)) for seed in range(seeds)]


def test_speed_comes_last_once_for_a_row_with_every_core(tmp_path: Path) -> None:
    store, performer = Store(tmp_path), Performer()
    assert driven(store, performer, runs(3)[::-1]) == Outcome(done=3, failed=())
    quality, speed = performer.performed[:3], performer.performed[3:]
    assert quality == [(seed, (NATS,), 1.0) for seed in (2, 1, 0)]
    ((seed, metrics, cores),) = speed
    assert (seed, metrics) == (0, (SPAN,))
    assert cores == (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    driven(store, performer, runs(3))
    assert len(performer.performed) == 4  # everything is held


def test_what_is_looked_at_and_not_averaged_is_of_the_first_seed_alone(tmp_path: Path) -> None:
    performer = Performer()
    driven(Store(tmp_path), performer, runs(3, NATS, "samples")[1:])
    assert [(seed, metrics) for seed, metrics, _ in performer.performed] == [(1, (NATS, "samples")), (2, (NATS,))]


def test_only_metrics_that_are_lacking_are_taken(tmp_path: Path) -> None:
    store, performer = Store(tmp_path), Performer()
    driven(store, performer, runs(2, NATS))
    driven(store, performer, runs(2, NATS, "likelihood"))
    assert [metrics for _, metrics, _ in performer.performed] == [(NATS,), (NATS,), ("likelihood",), ("likelihood",)]


def test_a_failure_is_repeated_only_with_retry_failed_and_has_no_speed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    outcome = driven(store, first := Performer(seed0="diverged"), runs(2))
    assert (outcome.done, [r.status for r in outcome.failed]) == (1, ["diverged"])
    assert [seed for seed, _, _ in first.performed] == [0, 1]
    assert driven(store, again := Performer(), runs(2)) == outcome
    assert again.performed == []
    assert driven(store, again, runs(2), retry_failed=True) == Outcome(done=2, failed=())
    assert [(seed, metrics) for seed, metrics, _ in again.performed] == [(0, (NATS,)), (0, (SPAN,))]


def test_a_retry_that_fails_is_not_retried_in_the_same_call(tmp_path: Path) -> None:
    store = Store(tmp_path)
    driven(store, Performer(seed0="error"), runs(1))
    outcome = driven(store, again := Performer(seed0="timeout"), runs(1), retry_failed=True)
    assert [r.status for r in outcome.failed] == ["timeout"]
    assert len(again.performed) == 1


def test_what_was_interrupted_is_performed_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    driven(store, Performer(seed0="interrupted"), runs(1, NATS))
    driven(store, again := Performer(), runs(1, NATS))
    assert [seed for seed, _, _ in again.performed] == [0]


def test_fail_fast_stops_at_the_first_failure(tmp_path: Path) -> None:
    outcome = driven(Store(tmp_path), performer := Performer(seed1="error"), runs(4, NATS), fail_fast=True)
    assert [seed for seed, _, _ in performer.performed] == [0, 1]
    assert [r.run.seed for r in outcome.failed] == [1]
    assert outcome.done == 1


def test_fail_fast_measures_no_speed_after_a_failure(tmp_path: Path) -> None:
    driven(Store(tmp_path), performer := Performer(seed1="error"), runs(3), fail_fast=True)
    assert [(seed, metrics) for seed, metrics, _ in performer.performed] == [(0, (NATS,)), (1, (NATS,))]


def test_a_run_that_another_driver_holds_is_waited_for_and_not_performed(tmp_path: Path) -> None:
    store, elsewhere = Store(tmp_path), runs(1, NATS)[0]
    store.prepare()
    claim = FileLock(store.work / f"{elsewhere.id}.lock")
    claim.acquire()

    class Other(Performer):
        """While the rest is performed here, the other driver finishes."""

        def __call__(self, run: Run) -> Record:
            record = super().__call__(run)
            store.write(Record(run=elsewhere, execution=new_execution_name(), status="ok"))
            claim.release()
            return record

    outcome = driven(store, performer := Other(), [elsewhere, a_run(7, metrics=(NATS,))])
    assert outcome == Outcome(done=2, failed=())
    assert [seed for seed, _, _ in performer.performed] == [7]


def test_each_record_is_on_disk_before_the_next_run_and_ctrl_c_gives_its_claim_up(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def perform(run: Run) -> Record:
        assert len(store.records()) == run.seed
        if run.seed == 2:
            raise KeyboardInterrupt
        return Record(run=run, execution=new_execution_name(), status="ok")

    with pytest.raises(KeyboardInterrupt):
        drive(runs(3, NATS), store, in_process, perform=perform, progress=Lines(file := StringIO()))
    *_, last = file.getvalue().splitlines()
    assert last == "interrupted; run the same command to resume from the last checkpoint"
    driven(store, again := Performer(), runs(3, NATS))
    assert [seed for seed, _, _ in again.performed] == [2]


def test_a_record_says_command_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/genbench", "run", "my suite", "--seeds", "0"])
    store = Store(tmp_path)
    driven(store, Performer(), runs(1, NATS))
    (record,) = store.records()
    assert record.command == "genbench run 'my suite' --seeds 0"
    assert set(record.code) == {"commit", "dirty", "diff"}


def test_code_version_is_commit_and_digest_of_changes(tmp_path: Path) -> None:
    assert code_version(tmp_path) == {"commit": None, "dirty": None, "diff": None}
    root = tmp_path.resolve()
    git = partial(subprocess.run, cwd=root, check=True, capture_output=True)
    (root / "genbench").mkdir()
    (root / "genbench" / "a.py").write_text("a = 1\n")
    git(["git", "init"])
    git(["git", "add", "."])
    git(["git", "-c", "user.name=n", "-c", "user.email=e", "commit", "-m", "a"])
    clean = code_version(root)
    assert (len(str(clean["commit"])), clean["dirty"], clean["diff"]) == (40, False, None)
    (root / "LEADERBOARD.md").write_text("a result, no code")
    assert code_version(root) == clean
    (root / "genbench" / "b.py").write_text("b = 1\n")
    one = code_version(root)
    assert (one["commit"], one["dirty"]) == (clean["commit"], True)
    (root / "genbench" / "a.py").write_text("a = 2\n")
    assert code_version(root)["diff"] not in (None, one["diff"])


# ----------------------------------------------------------------------------------------------- its progress


def test_lines_count_tell_the_headline_and_the_time_left(tmp_path: Path) -> None:
    progress = Lines(file := StringIO())
    planned = runs(3, NATS)
    progress.expect(planned)
    numbers = {"nats": (1.5, "nats"), "bpd": (2.03149, "bits/dim")}
    measured = {k: Measurement(value=v, unit=unit, impl="x") for k, (v, unit) in numbers.items()}
    for run, status in zip(planned, ("ok", "diverged", "ok"), strict=True):
        progress.start(run, run)
        outcome = {"measurements": measured} if status == "ok" else {"error": "the loss is nan"}
        progress.finish(Record(run=run, execution="x", status=status, timings={"total": 31.2}, **outcome))
    where = "Gaussian / tests.faulty:normal / seed"
    assert file.getvalue().splitlines() == [
        f"[1/3] {where} 0: ok in 31 s, 2.031 bits/dim; ETA 0.0 s",
        f"[2/3] {where} 1: diverged in 31 s, the loss is nan; ETA 0.0 s",
        f"[3/3] {where} 2: ok in 31 s, 2.031 bits/dim",
    ]


def test_a_terminal_shows_counts_and_what_is_under_way() -> None:
    console = Console(file=(file := StringIO()), width=100, force_terminal=True, color_system=None)
    with Display(console) as display:
        display.expect(planned := runs(4, NATS))
        for run in planned[:3]:
            display.start(run, run)
        display.finish(Record(run=planned[0], execution="x", status="ok"))
        display.finish(Record(run=planned[1], execution="x", status="error", error="no"))
        display.live.refresh()
    shown = file.getvalue()
    assert " 1 done, 1 running, 1 failed, 1 waiting; ETA 0.0 s" in shown
    assert f"\n  {planned[2]}, 0.0 s" in shown
    assert "[2/4] Gaussian / tests.faulty:normal / seed 1: error, no" in shown


def test_eta_is_from_runs_of_a_kind_and_shared_by_those_abreast(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("genbench.runner.progress.time.monotonic", lambda: now)
    progress = ProgressReporter()
    fast, slow = [a_run(i, name="fast") for i in range(4)], [a_run(i, name="slow", steps=7) for i in range(4)]
    progress.expect([*fast, *slow])
    assert progress.eta() is None
    progress.start(fast[0], fast[0])
    progress.start(slow[0], slow[0])
    now = 10.0
    progress.finish(Record(run=fast[0], execution="x", status="ok"))
    now = 30.0
    progress.finish(Record(run=slow[0], execution="x", status="ok"))
    assert (progress.done, progress.total) == (2, 8)
    assert progress.eta() == (3 * 10 + 3 * 30) / 2
    progress.start(slow[1], slow[1])
    now = 40.0
    assert progress.eta() == (3 * 10 + 2 * 30 + 20) / 2
    assert [format_duration(s) for s in (0.04, 31, 200, 9000)] == ["0.0 s", "31 s", "3 min", "2.5 h"]


def test_eta_of_what_was_not_seen_is_by_the_steps_of_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("genbench.runner.progress.time.monotonic", lambda: now)
    progress = ProgressReporter()
    many, few = a_run(name="many", steps=100), a_run(name="few", steps=10)
    speed = [run.model_copy(update={"metrics": ("tests.faulty:span",)}) for run in (many, few)]
    progress.expect([many, few])
    progress.expect(speed)
    progress.start(many, many)
    now = 50.0
    progress.finish(Record(run=many, execution="x", status="ok"))
    assert progress.eta() == 5  # what trains nothing is not known yet
    progress.start(few, few)
    now = 57.0
    progress.finish(Record(run=few, execution="x", status="ok"))
    progress.start(speed[0], speed[0])
    now = 60.0
    progress.finish(Record(run=speed[0], execution="x", status="ok"))
    assert progress.eta() == 3


def test_eta_of_training_ignores_runs_without_training() -> None:
    progress = ProgressReporter()
    still, trains = a_run(name="still", steps=0), a_run(name="trains", steps=100)
    progress.expect([still, trains])
    progress.start(still, still)
    progress.finish(Record(run=still, execution="x", status="ok"))
    assert progress.eta() is None
    progress.start(trains, trains)
    assert progress.eta() is None
    progress.finish(Record(run=trains, execution="x", status="ok"))
    assert progress.eta() == 0
