"""Progress of a driver on stderr: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from genbench.console import printable
from genbench.records.record import Record
from genbench.suite import Run


class DurationKey(NamedTuple):
    """What mostly determines how long a run takes: row, data set and training steps."""

    name: str
    data: str
    steps: int


class ProgressReporter:
    """Counts runs that are done, running, failed and waiting, without output; subclasses print.

    Attributes:
        running: (run, time.monotonic() at its start) by the run's id.
        trained: id and metrics of the runs that are expected a second time, for which no model is trained.
        seconds: how long runs of a kind took.
        abreast: the most runs that were seen to run at once.
    """

    def __init__(self) -> None:
        self.waiting: list[Run] = []
        self.running: dict[str, tuple[Run, float]] = {}
        self.trained: set[tuple[str, tuple[str, ...]]] = set()
        self.seconds: dict[DurationKey, list[float]] = defaultdict(list)
        self.done = self.failed = 0
        self.max_concurrency = 1
        self.phase: Literal["", "speed"] = ""
        self.not_applicable: dict[str, list[str]] = {}  # names of rows by metric

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Print once which metrics did not apply to which rows."""
        for metric, rows in self.not_applicable.items():
            self.say(f"{metric} does not apply to {', '.join(rows)}")

    @property
    def total(self) -> int:
        """How many runs there are in all."""
        return self.done + self.failed + len(self.running) + len(self.waiting)

    def expect(self, runs: Sequence[Run]) -> None:
        """Add runs to be performed; of two with the same id, the first trains the model of both."""
        before = {run.id for run in self.waiting}
        self.trained |= {(run.id, run.metrics) for run in runs if run.id in before}
        self.waiting += runs

    def drop(self, run: Run) -> None:
        """Remove a run that is no longer needed."""
        self.waiting.remove(run)

    def start(self, planned: Run, run: Run) -> None:
        """Count `planned` as running, as `run`."""
        self.waiting.remove(planned)
        self.running[run.id] = run, time.monotonic()
        self.max_concurrency = max(self.max_concurrency, len(self.running))

    def finish(self, record: Record) -> None:
        """Count the run of `record` as finished."""
        run, began = self.running.pop(record.id)
        self.seconds[self.key_of(run)].append(time.monotonic() - began)
        self.done += record.status == "ok"
        self.failed += record.status != "ok"
        for metric in record.not_applicable:
            rows = self.not_applicable.setdefault(metric, [])
            if record.run.name not in rows:
                rows.append(record.run.name)

    def say(self, text: str) -> None:
        """Print a line."""

    def key_of(self, run: Run) -> DurationKey:
        """Return what determines how long `run` takes."""
        return DurationKey(run.name, run.data, 0 if (run.id, run.metrics) in self.trained else run.steps)

    def estimate_seconds(self, run: Run) -> float:
        """Return the mean seconds of similar runs, or else an estimate from the seconds per step of others."""
        kind = self.key_of(run)
        if observed := self.seconds.get(kind):
            return statistics.fmean(observed)
        similar = {of: many for of, many in list(self.seconds.items()) if (of.steps > 0) is (kind.steps > 0)}
        seconds = sum(map(sum, similar.values()))
        steps = sum((of.steps or 1) * len(many) for of, many in similar.items())
        return (kind.steps or 1) * seconds / max(1, steps)

    def eta(self) -> float | None:
        """Return the estimated seconds left; None before the first run, or the first with training, has finished.

        The display calls it from another thread, so the counts are copied first.
        """
        waiting, running_now, observed = list(self.waiting), list(self.running.values()), list(self.seconds)
        trains = any(self.key_of(run).steps for run in [*waiting, *(run for run, _ in running_now)])
        if not observed or (trains and not any(kind.steps for kind in observed)):
            return None
        now = time.monotonic()
        running = [max(0.0, self.estimate_seconds(run) - (now - began)) for run, began in running_now]
        return max([(sum(map(self.estimate_seconds, waiting)) + sum(running)) / self.max_concurrency, *running])


class Lines(ProgressReporter):
    """One line per finished run."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self.file = file

    def finish(self, record: Record) -> None:
        """Print its line."""
        super().finish(record)
        self.say(line(record, self.phase, self.done + self.failed, self.total, self.eta()))

    def say(self, text: str) -> None:
        """Print it."""
        print(printable(text), file=self.file, flush=True)


class Display(ProgressReporter):
    """A bar with counts, time left and running runs; above it, a line for each finished run."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.live = Live(
            console=console, get_renderable=self._now, refresh_per_second=2, redirect_stdout=False, transient=True
        )

    def __enter__(self) -> Self:
        self.live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__()
        self.live.__exit__(None, None, None)

    def finish(self, record: Record) -> None:
        """Print its line."""
        super().finish(record)
        self.say(line(record, self.phase, self.done + self.failed, self.total))

    def say(self, text: str) -> None:
        """Print it above the bar."""
        self.live.console.print(Text(printable(text)))

    def _now(self) -> Group:
        finished, now = self.done + self.failed, time.monotonic()
        counts = f"{self.done} done, {len(self.running)} running, {self.failed} failed, {len(self.waiting)} waiting"
        left = "" if (eta := self.eta()) is None else f"; ETA {format_duration(eta)}"
        running_now = [
            Text(f"  {run}, {format_duration(now - began)}", "dim") for run, began in list(self.running.values())
        ]
        head = Table.grid(padding=(0, 1))
        head.add_row(ProgressBar(total=max(1, self.total), completed=finished, width=24), Text(counts + left))
        return Group(head, *running_now)


def progress_on(file: TextIO | None = None) -> ProgressReporter:
    """Return a display where `file` (default: stderr) is a terminal, lines elsewhere."""
    file = file or sys.stderr
    console = Console(file=file)
    return Display(console) if console.is_terminal and not console.is_dumb_terminal else Lines(file)


def line(record: Record, phase: str, finished: int, total: int, eta: float | None = None) -> str:
    """Return ``[ 12/54] RealNVP / digits / seed 0: ok in 31 s, 2.031 bits/dim; ETA 4 min``."""
    what = f"{record.run}{phase and f', {phase}'}"
    took = f" in {format_duration(record.timings['total'])}" if "total" in record.timings else ""
    tries = f" after {record.attempts} tries" if record.attempts > 1 else ""
    outcome = headline(record)
    left = "" if eta is None or finished == total else f"; ETA {format_duration(eta)}"
    result = f"{record.status}{took}{tries}{outcome and f', {outcome}'}"
    return f"[{finished:>{len(str(total))}}/{total}] {what}: {result}{left}"


def headline(record: Record) -> str:
    """Return the main number of a run, or its error."""
    if record.status != "ok":
        return record.error or ""
    rank = {"bits/dim": 0, "nats": 1}
    numbers = sorted(record.measurements.values(), key=lambda m: (rank.get(m.unit, 2), m.value is None))
    return f"{numbers[0].value:.4g} {numbers[0].unit}".strip() if numbers and numbers[0].value is not None else ""


def format_duration(seconds: float) -> str:
    """Return `seconds` in a suitable unit."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
