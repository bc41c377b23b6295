"""Records as a tidy table: one line for each run and measurement."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from genbench.console import printable
from genbench.records.record import Better, Measurement, Record, Status
from genbench.report.intervals import quantile
from genbench.suite import Kind, Run, Settings, Suite

if TYPE_CHECKING:
    import pandas as pd


class Line(NamedTuple):
    """What one run gave one measurement, or a run's failure, which has no measurement; None for what there is not."""

    suite: str
    version: int
    name: str
    model: str
    data: str
    seed: int
    id: str
    status: Status | Literal["published"]
    measurement: str | None
    value: float | None
    unit: str | None
    better: Better
    kind: Kind | None
    n: int | None
    stderr: float | None
    p20: float | None
    p80: float | None
    impl: str | None
    verdict: str | None
    execution: str
    attempts: int
    seconds: float | None
    commit: str | None
    dirty: bool | None
    data_sha256: str | None
    error: str | None
    settings: str


NUMBERS: dict[str, Any] = {  # columns that are not text, and the type that each has in a frame
    **{"version": int, "seed": int, "attempts": int, "n": "Int64", "dirty": "boolean"},
    **dict.fromkeys(("value", "stderr", "p20", "p80", "seconds"), float),
}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # a text begins so: "CSV Injection", OWASP
WHOLE = ("version", "seed", "attempts", "n")
DECIDES = {"model", *Settings.model_fields} - {"resources"}

Runs = dict[tuple[str, str], list[Record]]


def tidy(records: Iterable[Record]) -> pd.DataFrame:
    """Return `lines` as a frame whose columns are the fields of `Line`.

    A column with a whole number of 2^63 or more keeps Python's integers.
    """
    import pandas as pd

    frame = pd.DataFrame(lines(by_run(records)), columns=Line._fields, dtype=object)
    large = {name for name in WHOLE if any(abs(value) >= 2**63 for value in frame[name].dropna())}
    return frame.astype({name: kind for name, kind in NUMBERS.items() if name not in large})


def lines(runs: Runs) -> list[Line]:
    """Return one line per (run, measurement), and one per failure.

    A run may have been executed several times, for other metrics or on another day. Each measurement is taken
    from the newest execution that holds it, never from the best. A run whose newest execution failed has a
    line that says so, with no measurement and no value.
    """
    return [line for executions in runs.values() for line in _lines(executions)]


def as_csv(lines: Iterable[Line]) -> str:
    """Return `lines` below their names, nothing where there is None.

    A spreadsheet would run a text that begins as a formula does, so that an apostrophe stands before it; control
    characters are spelled out. Numbers are as they are.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Line._fields)
    writer.writerows(zip(*map(_safe_column, zip(*lines, strict=True)), strict=True))
    return text.getvalue()


def _safe_column(column: tuple[Any, ...]) -> Sequence[Any]:
    """Return what stands for a column in a CSV file; thousands of lines share their texts, nearly all of them safe."""
    changed = {text: safe for text in set(column) if type(text) is str and (safe := safe_text(text)) != text}
    return [changed.get(value, value) for value in column] if changed else column


def safe_text(text: str) -> str:
    """Return `text` as a cell of a spreadsheet that shows it and does not run it."""
    return f"'{printable(text)}" if text.lstrip(" ").startswith(FORMULA) else printable(text)


def by_run(records: Iterable[Record]) -> Runs:
    """Return every run's executions, oldest first, by suite and run id."""
    runs: Runs = defaultdict(list)
    for record in records:
        runs[record.run.suite, record.id].append(record)
    for executions in runs.values():
        executions.sort(key=lambda record: record.execution)
    return dict(runs)


def newest(executions: list[Record]) -> dict[str, Record]:
    """Return for each measurement the newest execution that holds it; `executions` come oldest first.

    A run that failed in one metric has what others measured.
    """
    return {name: record for record in executions for name in record.measurements}


def settings(run: Run) -> str:
    """Return as JSON what decides the trained model, but for its seed and data: the protocol of a row."""
    said = run.model_dump(mode="json", exclude_defaults=True, include=DECIDES)
    return json.dumps(said, sort_keys=True)


def _lines(executions: list[Record]) -> Iterator[Line]:
    last = executions[-1]
    run, protocol, held = last.run, settings(last.run), newest(executions)
    key = (run.suite, run.version, run.name, run.model, run.data, run.seed, last.id)
    origins = {record.execution: _origin(record) for record in executions}
    for name, record in held.items():
        numbers = _numbers(record.measurements[name])
        yield Line._make((*key, "ok", name, *numbers, *origins[record.execution], protocol))
    if last.status != "ok" or not held:
        yield Line._make((*key, last.status, *(None,) * 11, *origins[last.execution], protocol))


def _numbers(m: Measurement) -> tuple[Any, ...]:
    spread = (quantile(m.raw, 0.2), quantile(m.raw, 0.8)) if m.raw else (None, None)
    return (m.value, m.unit, m.better, m.kind, m.n, m.stderr, *spread, m.impl, m.verdict)


def _origin(record: Record) -> tuple[Any, ...]:
    seconds = record.timings.get("total")
    return (record.execution, record.attempts, seconds, *code_of(record), record.data_sha256, record.error)


def code_of(record: Record) -> tuple[str | None, bool | None]:
    """Return the commit of the code that made a record, and whether it had uncommitted changes; None if not known."""
    commit, dirty = record.code.get("commit"), record.code.get("dirty")
    return commit if isinstance(commit, str) else None, dirty if isinstance(dirty, bool) else None


def weights_of(records: Iterable[Record]) -> dict[str, str]:
    """Return by the id of a run which of its weights were measured: "best-validation" or "last"; none of no training.

    An execution with a learning curve knows (see Record.weights); others measured what it had trained, in whatever
    suite. Where no such execution is at hand, weights of the last step are the last, and those of another the best.
    """
    known: dict[str, str] = {}
    likely: dict[str, str] = {}
    for record in records:
        if weights := record.weights:
            known[record.id] = weights
        elif record.run.steps and record.status == "ok":
            last = record.run.selection == "last" or record.selected_step == record.run.steps
            likely[record.id] = "last" if last else "best-validation"
    return likely | known


def metrics_of(records: Iterable[Record], suites: Iterable[Suite] = ()) -> dict[str, tuple[str, ...]]:
    """Return by suite the metrics asked for, in the order of the files in `suites`, then in which its runs ask."""
    found: dict[str, dict[str, None]] = {}
    said = [*((suite.suite, suite.metrics) for suite in suites), *((r.run.suite, r.run.metrics) for r in records)]
    for suite, metrics in dict.fromkeys(said):
        found.setdefault(suite, {}).update(dict.fromkeys(metrics))
    return {suite: tuple(metrics) for suite, metrics in found.items()}
