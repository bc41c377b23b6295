"""Records as a tidy table: one line per run and measurement."""

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
    """One measurement of one run, or a failed run, which has no measurement; missing values are None."""

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


COLUMN_DTYPES: dict[str, Any] = {  # dtypes in a frame of the columns that are not text
    **{"version": int, "seed": int, "attempts": int, "n": "Int64", "dirty": "boolean"},
    **dict.fromkeys(("value", "stderr", "p20", "p80", "seconds"), float),
}
INTEGER_COLUMNS = ("version", "seed", "attempts", "n")
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # "CSV Injection", OWASP
PROTOCOL_FIELDS = {"model", *Settings.model_fields} - {"resources"}  # of a Run

Runs = dict[tuple[str, str], list[Record]]  # executions, oldest first, by suite and run id


def tidy(records: Iterable[Record]) -> pd.DataFrame:
    """Return `lines` as a frame whose columns are the fields of `Line`.

    An integer column that holds 2^63 or more keeps Python integers.
    """
    import pandas as pd

    frame = pd.DataFrame(lines(by_run(records)), columns=Line._fields, dtype=object)
    large = {name for name in INTEGER_COLUMNS if any(abs(value) >= 2**63 for value in frame[name].dropna())}
    return frame.astype({name: dtype for name, dtype in COLUMN_DTYPES.items() if name not in large})


def lines(runs: Runs) -> list[Line]:
    """Return one line per run and measurement, and one per failed run.

    A run may have been executed several times, for more metrics or on another day. Each measurement comes from the
    newest execution that has it, never from the best. A run whose newest execution failed gets one more line with that
    status and no measurement.
    """
    return [line for executions in runs.values() for line in _run_lines(executions)]


def to_csv(lines: Iterable[Line]) -> str:
    """Return `lines` as CSV with a header; None becomes an empty cell.

    Text that a spreadsheet would run as a formula is prefixed with an apostrophe, and control characters are escaped.
    Numbers are written in full.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Line._fields)
    writer.writerows(zip(*map(_safe_column, zip(*lines, strict=True)), strict=True))
    return text.getvalue()


def _safe_column(column: tuple[Any, ...]) -> Sequence[Any]:
    """Return `column` with unsafe text escaped; fast because thousands of lines share a few texts, nearly all safe."""
    escaped = {text: safe for text in set(column) if type(text) is str and (safe := safe_text(text)) != text}
    return [escaped.get(value, value) for value in column] if escaped else column


def safe_text(text: str) -> str:
    """Return `text` such that a spreadsheet shows it and does not run it as a formula."""
    return f"'{printable(text)}" if text.lstrip(" ").startswith(FORMULA_PREFIXES) else printable(text)


def by_run(records: Iterable[Record]) -> Runs:
    """Return the executions of each run, oldest first, by suite and run id."""
    runs: Runs = defaultdict(list)
    for record in records:
        runs[record.run.suite, record.id].append(record)
    for executions in runs.values():
        executions.sort(key=lambda record: record.execution)
    return dict(runs)


def newest_by_measurement(executions: list[Record]) -> dict[str, Record]:
    """Return for each measurement the newest of `executions` (oldest first) that has it.

    Where one metric failed, the others still count.
    """
    return {name: record for record in executions for name in record.measurements}


def protocol_settings(run: Run) -> str:
    """Return as JSON everything that determines the trained model except seed and data: the protocol of a row."""
    return json.dumps(run.model_dump(mode="json", exclude_defaults=True, include=PROTOCOL_FIELDS), sort_keys=True)


def _run_lines(executions: list[Record]) -> Iterator[Line]:
    last = executions[-1]
    run, settings, newest = last.run, protocol_settings(last.run), newest_by_measurement(executions)
    key = (run.suite, run.version, run.name, run.model, run.data, run.seed, last.id)
    origins = {record.execution: _origin_fields(record) for record in executions}
    for name, record in newest.items():
        fields = _measurement_fields(record.measurements[name])
        yield Line._make((*key, "ok", name, *fields, *origins[record.execution], settings))
    if last.status != "ok" or not newest:
        yield Line._make((*key, last.status, *(None,) * 11, *origins[last.execution], settings))


def _measurement_fields(m: Measurement) -> tuple[Any, ...]:
    spread = (quantile(m.raw, 0.2), quantile(m.raw, 0.8)) if m.raw else (None, None)
    return (m.value, m.unit, m.better, m.kind, m.n, m.stderr, *spread, m.impl, m.verdict)


def _origin_fields(record: Record) -> tuple[Any, ...]:
    seconds = record.timings.get("total")
    return (record.execution, record.attempts, seconds, *commit_of(record), record.data_sha256, record.error)


def commit_of(record: Record) -> tuple[str | None, bool | None]:
    """Return the commit of the code behind a record and whether it had uncommitted changes; None if unknown."""
    commit, dirty = record.code.get("commit"), record.code.get("dirty")
    return commit if isinstance(commit, str) else None, dirty if isinstance(dirty, bool) else None


def evaluated_weights(records: Iterable[Record]) -> dict[str, str]:
    """Return by run id which weights were evaluated, "best-validation" or "last"; untrained runs are absent.

    An execution with a learning curve knows (see Record.weights). One without measured weights that another execution
    trained, possibly in another suite. If that one is missing, weights selected at the last step count as the last, and
    weights of any other step as the best.
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


def metrics_by_suite(records: Iterable[Record], suites: Iterable[Suite] = ()) -> dict[str, tuple[str, ...]]:
    """Return the metrics of each suite: first in the order of its file in `suites`, then in the order of its runs."""
    ordered: dict[str, dict[str, None]] = {}
    requests = [*((suite.suite, suite.metrics) for suite in suites), *((r.run.suite, r.run.metrics) for r in records)]
    for suite, metrics in dict.fromkeys(requests):
        ordered.setdefault(suite, {}).update(dict.fromkeys(metrics))
    return {suite: tuple(metrics) for suite, metrics in ordered.items()}
