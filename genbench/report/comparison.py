"""Two results folders compared: what got better or worse beyond seed noise, and what could not be compared."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genbench.console import printable
from genbench.records.record import Record
from genbench.report.aggregate import (
    Aggregate,
    RowKey,
    aggregate_seeds,
    count_failed_runs,
    describe_failures,
    group_rows,
    sample_of,
)
from genbench.report.columns import Column
from genbench.report.formatting import format_number
from genbench.report.intervals import p_value, welch, welch_half_width
from genbench.report.labels import measurement_label
from genbench.report.tidy import Line, by_run, lines

FIELDS = (
    *("suite", "version", "data", "row", "measurement", "kind", "unit"),
    *("mean_a", "n_a", "mean_b", "n_b", "difference", "half_width", "p", "verdict", "reason"),
)
WORSE = ("regressed", "failed", "invalid")
UNCOMPARED = ("untested", "missing")
VERDICT_COLORS = {  # of the verdicts that are printed
    "regressed": "red",
    "failed": "red",
    "invalid": "red",
    "improved": "green",
    "changed": "yellow",
    "slower": "yellow",
    "faster": "yellow",
}
MAX_ROWS_NAMED = 4  # for each reason why rows were not compared, and cells of each row


class ComparisonCounts(NamedTuple):
    """How many cells of A were compared, how many were not, and how many are worse in B."""

    compared: int
    uncompared: int
    worse: int


class CellPair(NamedTuple):
    """A cell of A that has a value, and its partner in B."""

    key: RowKey
    a: Aggregate
    b: Aggregate | None


def compare_records(a: Iterable[Record], b: Iterable[Record], alpha: float = 0.05) -> pd.DataFrame:
    """Return one line per cell of `a` that has a value, with the columns `FIELDS`.

    `difference` is b - a of the means, `half_width` that of its Welch interval. Verdicts on cells that were compared:

    - regressed, improved, same: p < alpha or not; also same if both sides have equal values for each seed.
    - changed: p < alpha, for a measurement without a better direction.
    - slower, faster, same: for timings of one seed, whether the ranges from 20th to 80th percentile are disjoint.

    On other cells:

    - invalid: B has an impossible value, and A has none.
    - untested, missing: `reason` says why.

    And on rows, with unit None: failed, if B has more failed runs; missing, if neither side has a value.
    """
    rows_a, rows_b = (group_rows(lines(by_run(records))) for records in (a, b))
    partner = _match_rows(rows_a, rows_b)
    cells_a, cells_b = aggregate_seeds(rows_a), aggregate_seeds(rows_b)
    pairs = [
        CellPair(key, cell, cells_b[partner[key]].get(cell.column) if key in partner else None)
        for key, cells in cells_a.items()
        for cell in cells.values()
        if cell.n
    ]
    table = [*_compare_cells(pairs, alpha), *_failed_rows(rows_a, rows_b, partner)]
    empty = [key for key in rows_a if key not in partner and not cells_a[key]]
    table += [_row_line(key, "", "missing", _missing_reason(key, rows_a)) for key in empty]
    return pd.DataFrame(table, columns=FIELDS)


def _match_rows(
    rows_a: Mapping[RowKey, Sequence[Line]], rows_b: Mapping[RowKey, Sequence[Line]]
) -> dict[RowKey, RowKey]:
    """Return for each row of A its partner in B: the row of the same label, else of the same name and settings."""
    by_settings = {_name_and_settings(key, row_lines): key for key, row_lines in rows_b.items()}
    partners = {
        key: key if key in rows_b else by_settings.get(_name_and_settings(key, row_lines))
        for key, row_lines in rows_a.items()
    }
    return {key: partner for key, partner in partners.items() if partner}


def _name_and_settings(key: RowKey, row_lines: Sequence[Line]) -> tuple[Any, ...]:
    return (*key[:3], row_lines[-1].name, row_lines[-1].settings)


# ----------------------------------------------------------------------------------------------------- cells


def _compare_cells(pairs: Sequence[CellPair], alpha: float) -> Iterator[tuple[Any, ...]]:
    both = [(a, b) for _, a, b in pairs if b]
    difference, stderr, dof = welch(sample_of([a for a, _ in both]), sample_of([b for _, b in both]))
    half, p = welch_half_width(stderr, dof, 1 - alpha), p_value(difference, stderr, dof)
    tests = iter(zip(difference.tolist(), half.tolist(), p.tolist(), strict=True))
    for key, a, b in pairs:
        if b is None:
            yield _cell_line(key, a, None, (math.nan,) * 3, "missing", "missing in B")
        else:
            test = next(tests)
            yield _cell_line(key, a, b, test, *_verdict(a, b, test[0], test[2], alpha))


def _verdict(a: Aggregate, b: Aggregate, difference: float, p: float, alpha: float) -> tuple[str, str]:
    """Return the verdict on a cell, and the reason if it could not be tested."""
    if _values_by_seed(a) == _values_by_seed(b):
        return "same", ""
    if b.n_invalid and not a.n_invalid:
        return "invalid", ""
    if reason := _why_untested(a, b):
        return "untested", reason
    if a.n < 2 or b.n < 2:
        return _compare_repetitions(a, b)
    if math.isnan(p):
        return "untested", "too large to test"
    if p >= alpha:
        return "same", ""
    if b.column.better is None:
        return "changed", ""
    return ("regressed" if _is_worse(b.column, difference) else "improved"), ""


def _why_untested(a: Aggregate, b: Aggregate) -> str:
    """Return why two cells with different values cannot be tested; "" if they can."""
    if not b.n:
        return "without a value in B"
    if a.n_invalid:
        return "invalid in A"
    if not (a.same_impl and b.same_impl):
        return "whose seeds were measured with different versions of the metric, or on different data"
    if a.impl != b.impl:
        impl_a, impl_b = a.lines[0].impl, b.lines[0].impl
        if impl_a == impl_b:
            return "measured on different data"
        return f"measured with different versions of the metric ({impl_a!r} and {impl_b!r})"
    return ""


def _compare_repetitions(a: Aggregate, b: Aggregate) -> tuple[str, str]:
    """Return the verdict on a timing of one seed: slower or faster if the spreads of its repetitions are disjoint."""
    x, y = (_repetition_spread(aggregate) for aggregate in (a, b))
    if x is None or y is None:
        return "untested", "with one seed only, which leaves seed noise unknown"
    if y[0] <= x[1] and x[0] <= y[1]:
        return "same", ""
    return ("slower" if _is_worse(b.column, y[0] - x[0]) else "faster"), ""


def _repetition_spread(aggregate: Aggregate) -> tuple[float, float] | None:
    line = next(line for line in aggregate.lines if line.value is not None)
    return (line.p20, line.p80) if aggregate.n == 1 and line.p20 is not None and line.p80 is not None else None


def _is_worse(column: Column, difference: float) -> bool:
    return difference < 0 if column.better == "higher" else difference > 0


def _values_by_seed(aggregate: Aggregate) -> list[tuple[Any, ...]]:
    return [(line.seed, line.value, line.verdict, line.impl, line.data_sha256) for line in aggregate.lines]


def _cell_line(
    key: RowKey, a: Aggregate, b: Aggregate | None, test: tuple[float, float, float], verdict: str, reason: str
) -> tuple[Any, ...]:
    mean_and_n = (b.mean, b.n) if b else (None, 0)
    return (*key, *a.column[:3], a.mean, a.n, *mean_and_n, *test, verdict, reason)


# ------------------------------------------------------------------------------------------------------ rows


def _failed_rows(
    rows_a: Mapping[RowKey, Sequence[Line]],
    rows_b: Mapping[RowKey, Sequence[Line]],
    partner: Mapping[RowKey, RowKey],
) -> Iterator[tuple[Any, ...]]:
    for key, key_b in partner.items():
        if count_failed_runs(rows_b[key_b]) > count_failed_runs(rows_a[key]):
            yield _row_line(key, describe_failures(rows_b[key_b]), "failed", "")


def _missing_reason(key: RowKey, rows_a: Mapping[RowKey, Sequence[Line]]) -> str:
    return f"missing in B ({describe_failures(rows_a[key]) or 'without a value'} in A)"


def _row_line(key: RowKey, measurement: str, verdict: str, reason: str) -> tuple[Any, ...]:
    return (*key, measurement, *(None,) * (len(FIELDS) - len(key) - 3), verdict, reason)


# --------------------------------------------------------------------------------------------------- printing


def count_verdicts(comparison: pd.DataFrame) -> ComparisonCounts:
    """Return how many cells were compared, were not, and are worse (failed rows included)."""
    uncompared = int(comparison["verdict"].isin(UNCOMPARED).sum())
    compared = int((comparison["verdict"] != "failed").sum()) - uncompared
    return ComparisonCounts(compared, uncompared, len(regressions(comparison)))


def regressions(comparison: pd.DataFrame) -> pd.DataFrame:
    """Return the lines that are worse in B: regressed, failed, or newly invalid."""
    return comparison[comparison["verdict"].isin(WORSE)]


def print_comparison(comparison: pd.DataFrame, console: Console) -> None:
    """Print the number of cells per verdict, a table of those that changed, and a line on what was not compared."""
    counts = comparison["verdict"].value_counts()
    total = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    nothing = f"nothing was compared{f': {total}' if total else ''}"
    console.print(total if count_verdicts(comparison).compared else nothing)
    changed = comparison[comparison["verdict"].isin(VERDICT_COLORS)]
    table = Table("verdict", "suite", "data", "model", "measurement", "before", "after", "difference", box=None)
    for line in changed.to_dict("records"):
        cell = [line["measurement"]] if line["verdict"] == "failed" else _format_cell(line)
        texts = [line["verdict"], line["suite"], line["data"], line["row"], *cell]
        table.add_row(*(Text(printable(text)) for text in texts), style=VERDICT_COLORS[line["verdict"]])
    if len(changed):
        console.print(table)
    if uncompared := describe_uncompared(comparison):
        console.print(printable(uncompared), markup=False, highlight=False, soft_wrap=True)


def describe_uncompared(comparison: pd.DataFrame) -> str:
    """Return one line that names, by reason, the cells that were not compared; "" if there are none."""
    by_reason: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in comparison[comparison["verdict"].isin(UNCOMPARED)].to_dict("records"):
        row = f"{line['suite']} v{line['version']} / {line['data']} / {line['row']}"
        by_reason[line["reason"]][row].append(measurement_label(line["measurement"]))
    parts = (f"{sum(map(len, rows.values()))} {reason}: {_list_rows(rows)}" for reason, rows in by_reason.items())
    text = "; ".join(parts)
    return f"not compared: {text}" if text else ""


def _list_rows(rows: Mapping[str, Sequence[str]]) -> str:
    """Return "flows v1 / moons / NICE (nats, bpd), ...": the first rows, each with its first measurements."""
    listed = []
    for row, measurements in list(rows.items())[:MAX_ROWS_NAMED]:
        more = ["..."] if len(measurements) > MAX_ROWS_NAMED else []
        names = ", ".join([*measurements[:MAX_ROWS_NAMED], *more])
        listed.append(f"{row} ({names})" if any(measurements) else row)
    more_rows = [f"and {len(rows) - MAX_ROWS_NAMED} more rows"] if len(rows) > MAX_ROWS_NAMED else []
    return ", ".join([*listed, *more_rows])


def _format_cell(line: Mapping[Any, Any]) -> list[str]:
    """Return the label, the means before and after, and their difference with its interval if there is one."""
    unit, half = str(line["unit"]), line["half_width"]
    spread = None if math.isnan(half) else half
    means = [format_number(line[key], unit, spread) for key in ("mean_a", "mean_b")]
    texts = [measurement_label(line["measurement"]), *means]
    if spread is None:
        return texts
    return [*texts, f"{format_number(line['difference'], unit, half)} ± {format_number(half, unit, half)}"]
