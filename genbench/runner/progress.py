"""What a driver says while it works: a live display on a terminal, plain lines elsewhere; on stderr."""

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


class Kind(NamedTuple):
    """What decides how long a run lasts, as a rule: row, data set, and the steps of its training."""

    name: str
    data: str
    steps: int


class ProgressReporter:
    """Counts runs done, running, failed and waiting, and says nothing; its subclasses do.

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
        self.seconds: dict[Kind, list[float]] = defaultdict(list)
        self.done = self.failed = 0
        self.abreast = 1
        self.phase: Literal["", "speed"] = ""
        self.not_applicable: dict[str, list[str]] = {}  # names of rows by metric

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Say which metrics did not apply, once for all runs."""
        for metric, rows in self.not_applicable.items():
            self.say(f"{metric} does not apply to {', '.join(rows)}")

    @property
    def total(self) -> int:
        """How many runs this is about."""
        return self.done + self.failed + len(self.running) + len(self.waiting)

    def expect(self, runs: Sequence[Run]) -> None:
        """These are to be performed; where one of the same id waits already, that one trains the model of both."""
        before = {run.id for run in self.waiting}
        self.trained |= {(run.id, run.metrics) for run in runs if run.id in before}
        self.waiting += runs

    def drop(self, run: Run) -> None:
        """There is no need of this one any more."""
        self.waiting.remove(run)

    def start(self, planned: Run, run: Run) -> None:
        """What was `planned` begins, as `run`."""
        self.waiting.remove(planned)
        self.running[run.id] = run, time.monotonic()
        self.abreast = max(self.abreast, len(self.running))

    def finish(self, record: Record) -> None:
        """This came of a run."""
        run, began = self.running.pop(record.id)
        self.seconds[self.kind_of(run)].append(time.monotonic() - began)
        self.done += record.status == "ok"
        self.failed += record.status != "ok"
        for metric in record.not_applicable:
            rows = self.not_applicable.setdefault(metric, [])
            if record.run.name not in rows:
                rows.append(record.run.name)

    def say(self, text: str) -> None:
        """Something worth a line."""

    def kind_of(self, run: Run) -> Kind:
        """Return what decides how long `run` lasts."""
        return Kind(run.name, run.data, 0 if (run.id, run.metrics) in self.trained else run.steps)

    def lasts(self, run: Run) -> float:
        """Return the seconds that runs of a kind took in the mean; of a kind not seen, what others took for a step."""
        kind = self.kind_of(run)
        if seen := self.seconds.get(kind):
            return statistics.fmean(seen)
        alike = {of: many for of, many in list(self.seconds.items()) if (of.steps > 0) is (kind.steps > 0)}
        seconds = sum(map(sum, alike.values()))
        steps = sum((of.steps or 1) * len(many) for of, many in alike.items())
        return (kind.steps or 1) * seconds / max(1, steps)

    def eta(self) -> float | None:
        """Return the seconds that are left; None before a run is over, or one that trains where any do.

        A display asks from a thread of its own, so that what is counted is copied first.
        """
        waiting, under_way, seen = list(self.waiting), list(self.running.values()), list(self.seconds)
        trains = any(self.kind_of(run).steps for run in [*waiting, *(run for run, _ in under_way)])
        if not seen or (trains and not any(kind.steps for kind in seen)):
            return None
        now = time.monotonic()
        running = [max(0.0, self.lasts(run) - (now - began)) for run, began in under_way]
        return max([(sum(map(self.lasts, waiting)) + sum(running)) / self.abreast, *running])


class Lines(ProgressReporter):
    """One line per run that is over."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self.file = file

    def finish(self, record: Record) -> None:
        """Write its line."""
        super().finish(record)
        self.say(line(record, self.phase, self.done + self.failed, self.total, self.eta()))

    def say(self, text: str) -> None:
        """Write it."""
        print(printable(text), file=self.file, flush=True)


class Display(ProgressReporter):
    """A bar, the counts, the time left and the runs under way, with the line of each run that is over above."""

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
        """Write its line."""
        super().finish(record)
        self.say(line(record, self.phase, self.done + self.failed, self.total))

    def say(self, text: str) -> None:
        """Write it above the bar."""
        self.live.console.print(Text(printable(text)))

    def _now(self) -> Group:
        over, now = self.done + self.failed, time.monotonic()
        counts = f"{self.done} done, {len(self.running)} running, {self.failed} failed, {len(self.waiting)} waiting"
        left = "" if (eta := self.eta()) is None else f"; ETA {spell(eta)}"
        under_way = [Text(f"  {run}, {spell(now - began)}", "dim") for run, began in list(self.running.values())]
        head = Table.grid(padding=(0, 1))
        head.add_row(ProgressBar(total=max(1, self.total), completed=over, width=24), Text(counts + left))
        return Group(head, *under_way)


def progress_on(file: TextIO | None = None) -> ProgressReporter:
    """Return a display where `file` (default: stderr) is a terminal, lines elsewhere."""
    file = file or sys.stderr
    console = Console(file=file)
    return Display(console) if console.is_terminal and not console.is_dumb_terminal else Lines(file)


def line(record: Record, phase: str, over: int, total: int, eta: float | None = None) -> str:
    """Return ``[ 12/54] RealNVP / digits / seed 0: ok in 31 s, 2.031 bits/dim; ETA 4 min``."""
    what = f"{record.run}{phase and f', {phase}'}"
    took = f" in {spell(record.timings['total'])}" if "total" in record.timings else ""
    tries = f" after {record.attempts} tries" if record.attempts > 1 else ""
    outcome = headline(record)
    left = "" if eta is None or over == total else f"; ETA {spell(eta)}"
    result = f"{record.status}{took}{tries}{outcome and f', {outcome}'}"
    return f"[{over:>{len(str(total))}}/{total}] {what}: {result}{left}"


def headline(record: Record) -> str:
    """Return the number to look at first, or what went wrong."""
    if record.status != "ok":
        return record.error or ""
    rank = {"bits/dim": 0, "nats": 1}
    told = sorted(record.measurements.values(), key=lambda m: (rank.get(m.unit, 2), m.value is None))
    return f"{told[0].value:.4g} {told[0].unit}" if told and told[0].value is not None else ""


def spell(seconds: float) -> str:
    """Return `seconds` in the unit that suits them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
